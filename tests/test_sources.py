import functools
import http.server
import json
import sys
import threading
import types

import pandas as pd
import pytest

from tests.test_data import GOOD, write
from utils import data, runtime, sources
from utils.config import Config, InputError


@pytest.fixture(autouse=True)
def _nobodys_token(tmp_path, monkeypatch):
    """No token of whoever runs the tests, and a home of their own."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kagglehub.config.DEFAULT_KAGGLE_CREDENTIALS_FOLDER", str(tmp_path / "home" / ".kaggle"))


def test_a_missing_file_and_an_unknown_source_are_told_apart(workspace):
    with pytest.raises(InputError, match=r"data='nowhere/train.csv' is not a file"):
        sources.find_table("nowhere/train.csv")
    with pytest.raises(InputError, match="did you mean 'sample'"):
        sources.find_table("sampel")
    with pytest.raises(InputError, match="attach the competition on Kaggle"):
        sources.find_table("commonlit")


def test_an_excel_file_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read as an \.xlsx table"):
        sources.read_table(tmp_path / write(tmp_path / "a.xlsx", "no spreadsheet"))


def test_a_repeated_column_of_an_excel_file(tmp_path):
    pd.DataFrame([["a", "b", 1, 2]]).to_excel(
        tmp_path / "a.xlsx", header=["id", "excerpt", "target", "target"], index=False
    )
    with pytest.raises(InputError, match="has the column 'target' 2 times"):
        sources.read_table(tmp_path / "a.xlsx")


@pytest.mark.parametrize("layout", ["competitions/commonlitreadabilityprize", "commonlitreadabilityprize",
                                    "datasets/somebody/commonlitreadabilityprize"])  # fmt: skip
def test_kaggles_files_are_found_wherever_it_mounts_them(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(sources, "KAGGLE_INPUT", tmp_path)
    folder = tmp_path / layout
    folder.mkdir(parents=True)
    write(folder / "train.csv", GOOD)
    assert sources.find_table("commonlit") == folder / "train.csv"


@pytest.fixture
def server(tmp_path):
    """A local HTTP server over a folder; gives the folder and the address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def clear_sheet():
    return pd.DataFrame(
        {
            "ID": [400, 401, None],
            "Author": "A",
            "URL": ["http://a", None, None],
            "License": ["CC BY 4.0", None, None],
            "Excerpt": ["One text.\nTwo.", "NA", None],
            "BT_easiness": [-0.34, 0.5, None],
            "s.e.": [0.46, 0.5, None],
        }
    )


def test_clear_is_downloaded_once_and_read(server, workspace, monkeypatch, capfd):
    folder, address = server
    clear_sheet().to_excel(folder / "clear.xlsx", sheet_name="Data", index=False)
    monkeypatch.setattr(runtime, "progress_wanted", lambda: True)
    monkeypatch.setattr(sources.download_clear, "__defaults__", (f"{address}/clear.xlsx",))
    config = Config.make("clear", n_folds=2)
    table = data.load_table(config)
    assert table["id"].tolist() == ["400", "401"]
    assert table["excerpt"].tolist() == ["One text. Two.", "NA"]
    assert table["target"].tolist() == [-0.34, 0.5]
    assert "100%" in capfd.readouterr().err
    (folder / "clear.xlsx").unlink()
    pd.testing.assert_frame_equal(data.load_table(config), table)
    assert [path.name for path in (workspace / "data" / "clear").iterdir()] == ["train.csv"]


@pytest.mark.parametrize("fault", ["missing", "cut short", "other columns", "a page"])
def test_a_bad_download_is_refused_and_leaves_nothing(server, workspace, fault):
    folder, address = server
    served = folder / "clear.xlsx"
    clear_sheet().rename(columns={"Excerpt": "Text"} if fault == "other columns" else {}).to_excel(
        served, sheet_name="Data", index=False
    )
    if fault == "missing":
        served.unlink()
    elif fault == "cut short":
        served.write_bytes(served.read_bytes()[:-500])
    elif fault == "a page":
        served.write_text("<html>moved</html>")
    words = {"missing": "could not be downloaded", "other columns": "lacks the column 'Excerpt'"}
    with pytest.raises(InputError, match=words.get(fault, "cannot be read as an .xlsx")):
        sources.download_clear(workspace / "data" / "clear" / "train.csv", f"{address}/clear.xlsx")
    assert not list((workspace / "data" / "clear").iterdir())


# --- Kaggle ------------------------------------------------------------------------------------------------------

SECRET = "KGAT_0123456789abcdef"


class Kaggle(http.server.BaseHTTPRequestHandler):
    """A stand-in for Kaggle's API: gives train.csv to whoever brings the token, after the rules were accepted."""

    rules_accepted = True

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        asked = self.path.endswith("CompetitionApiService/DownloadDataFile")
        status = 404 if not asked else 401 if SECRET not in self.headers.get("Authorization", "") else 200
        if status == 200 and not self.rules_accepted:
            status = 403
        body = GOOD.encode() if status == 200 else json.dumps({"message": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/csv" if status == 200 else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def kaggle(monkeypatch):
    from kagglesdk import kaggle_env

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kaggle) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
        yield running
        running.shutdown()
        thread.join()


def token_file(tmp_path, name="access_token", content=SECRET, mode=0o600):
    file = tmp_path / "home" / ".kaggle" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(mode)
    return file


@pytest.mark.parametrize("kept", ["environment", "file", "Colab"])
def test_a_competition_is_fetched_with_a_token_once_and_the_token_shown_nowhere(
    kept, kaggle, workspace, tmp_path, monkeypatch, capfd
):
    if kept == "environment":
        monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    elif kept == "file":
        token_file(tmp_path)
    else:
        colab = types.ModuleType("google.colab")
        colab.userdata = types.SimpleNamespace(get={"KAGGLE_API_TOKEN": SECRET}.__getitem__)
        monkeypatch.setitem(sys.modules, "google.colab", colab)
        monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
        monkeypatch.setattr("kagglehub.config.is_in_colab_notebook", lambda: True)
    assert {"environment": "environment's KAGGLE_API_TOKEN", "file": ".kaggle/access_token", "Colab": "Colab's secret"}[
        kept
    ] in sources.sources()["commonlit"]
    found = sources.find_table("commonlit")
    assert found == workspace / "data" / "commonlit" / "train.csv"
    assert found.read_text() == GOOD
    assert [path.name for path in found.parent.iterdir()] == ["train.csv"]
    assert sources.sources()["commonlit"] == "here: data/commonlit/train.csv"
    kaggle.shutdown()
    assert sources.find_table("commonlit") == found, "fetched once"
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong token", r"HTTP 401.*make a new one"),
        ("rules", r"HTTP 403.*accept the competition's rules at https://www.kaggle.com/competitions/commonlitread"),
        ("no network", r"check the connection"),
    ],
)
def test_what_kaggle_refuses_is_said_in_one_sentence(fault, words, kaggle, workspace, monkeypatch):
    from kagglesdk import kaggle_env

    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET if fault != "wrong token" else "KGAT_other")
    monkeypatch.setattr(Kaggle, "rules_accepted", fault != "rules")
    if fault == "no network":
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=words) as caught:
        sources.find_table("commonlit")
    assert "\n" not in str(caught.value)
    assert "KGAT" not in str(caught.value)
    assert not (workspace / "data" / "commonlit").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("access_token", SECRET), ("access_token.txt", SECRET), ("kaggle.json", '{"username": "a", "key": "b"}')],
)
def test_a_token_that_others_can_read_is_refused_with_the_remedy(name, content, tmp_path, workspace):
    file = token_file(tmp_path, name, content, 0o644)
    with pytest.raises(InputError, match=f"run: chmod 600 {file}"):
        sources.find_table("commonlit")
    assert "chmod 600" in sources.sources()["commonlit"]
    file.chmod(0o600)
    assert sources.kaggle_token() == str(file)


def test_a_variable_may_name_a_file_which_is_checked_too(tmp_path, monkeypatch):
    file = token_file(tmp_path, "elsewhere", SECRET, 0o640)
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(file))
    with pytest.raises(InputError, match="chmod 600"):
        sources.kaggle_token()
    file.chmod(0o600)
    assert sources.kaggle_token() == "the environment's KAGGLE_API_TOKEN"


def test_a_kaggle_json_that_is_none(tmp_path):
    token_file(tmp_path, "kaggle.json", "{")
    with pytest.raises(InputError, match=r"Invalid Kaggle credentials file.*get a new one"):
        sources.kaggle_token()


def test_sources_without_anything(workspace, monkeypatch):
    found = sources.sources()
    assert found["sample"].endswith("data/sample/train.csv")
    assert "no account" in found["clear"]
    assert "a token" in found["commonlit"]
    assert set(found) == set(sources.SOURCES)
