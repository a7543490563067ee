import functools
import http.server
import json
import sys
import threading
import types

import pandas as pd
import pytest

from tests.data.helpers import GOOD, write
from utils import tasks
from utils.config import Config, InputError
from utils.data import sources
from utils.machine import runtime


@pytest.fixture(autouse=True)
def _no_token(tmp_path, monkeypatch):
    """Hide the Kaggle token of whoever runs the tests, and give each test its own home folder."""
    for name in (
        "KAGGLE_API_TOKEN",
        "KAGGLE_KEY",
        "KAGGLE_USERNAME",
        "KAGGLE_CONFIG_DIR",
        "KAGGLE_KERNEL_RUN_TYPE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "kagglehub.config.DEFAULT_KAGGLE_CREDENTIALS_FOLDER", str(tmp_path / "home" / ".kaggle")
    )


def test_a_missing_file_and_an_unknown_source_differ(workspace):
    with pytest.raises(InputError, match=r"data='nowhere/train.csv' is not a file"):
        sources.find_table("nowhere/train.csv")
    with pytest.raises(InputError, match="did you mean 'sample'"):
        sources.find_table("sampel")
    with pytest.raises(InputError, match="attach the competition on Kaggle"):
        sources.find_table("commonlit")


@pytest.mark.parametrize("source", sources.BUILT_IN)
def test_what_comes_with_the_code_is_found_wherever_one_works(source, workspace):
    assert sources.find_table(source) == runtime.ROOT / "data" / sources.BUILT_IN[source]
    assert sources.find_table(source).is_file()
    assert sources.sources()[source].startswith("here: ")


@pytest.mark.parametrize(
    "layout",
    [
        "competitions/commonlitreadabilityprize",
        "commonlitreadabilityprize",
        "datasets/somebody/commonlitreadabilityprize",
    ],
)
@pytest.mark.parametrize("name", ["train.csv", "train.csv.zip"])
def test_kaggles_files_are_found_wherever_it_mounts_them(tmp_path, monkeypatch, layout, name):
    monkeypatch.setattr(sources, "KAGGLE_INPUT", tmp_path)
    folder = tmp_path / layout
    folder.mkdir(parents=True)
    write(folder / name, GOOD)
    assert sources.find_table("commonlit") == folder / name


@pytest.fixture
def server(tmp_path):
    """A local HTTP server for a folder; yields the folder and the server's address."""
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
    table = tasks.load_table(config)
    assert table["id"].tolist() == ["400", "401"]
    assert table["excerpt"].tolist() == ["One text. Two.", "NA"]
    assert table["target"].tolist() == [-0.34, 0.5]
    assert "100%" in capfd.readouterr().err
    (folder / "clear.xlsx").unlink()
    pd.testing.assert_frame_equal(tasks.load_table(config), table)
    assert [path.name for path in (workspace / "data" / "clear").iterdir()] == ["train.csv"]


@pytest.mark.parametrize("fault", ["missing", "cut short", "other columns", "a page"])
def test_a_bad_download_is_an_error_and_leaves_nothing(server, workspace, fault):
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
    words = {
        "missing": "could not be downloaded",
        "cut short": "cannot be read as a file .File is not a zip file",
        "other columns": "lacks the column 'Excerpt'",
        "a page": "is a web page",
    }
    with pytest.raises(InputError, match=words[fault]):
        sources.download_clear(workspace / "data" / "clear" / "train.csv", f"{address}/clear.xlsx")
    assert not (workspace / "data").exists()


# --- Kaggle -------------------------------------------------------------------------------------------------

SECRET = "KGAT_0123456789abcdef"


class Kaggle(http.server.BaseHTTPRequestHandler):
    """A stand-in for Kaggle's API: serves train.csv if the token is right and the rules are accepted."""

    rules_accepted = True

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("CompetitionApiService/DownloadDataFile"):
            status = 404
        elif SECRET not in self.headers.get("Authorization", ""):
            status = 401
        else:
            status = 200 if self.rules_accepted else 403
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
    path = tmp_path / "home" / ".kaggle" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def keep_token(where, tmp_path, monkeypatch):
    """Put the token where kagglehub finds it; returns how ``sources`` describes that."""
    if where == "environment":
        monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
        return "environment's KAGGLE_API_TOKEN"
    if where == "file":
        token_file(tmp_path)
        return ".kaggle/access_token"
    colab = types.ModuleType("google.colab")
    colab.userdata = types.SimpleNamespace(get={"KAGGLE_API_TOKEN": SECRET}.__getitem__)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    monkeypatch.setattr("kagglehub.config.is_in_colab_notebook", lambda: True)
    return "Colab's secret"


@pytest.mark.parametrize("where", ["environment", "file", "Colab"])
def test_a_competition_is_downloaded_once_and_the_token_never_shown(
    where, kaggle, workspace, tmp_path, monkeypatch, capfd
):
    assert keep_token(where, tmp_path, monkeypatch) in sources.sources()["commonlit"]
    path = sources.find_table("commonlit")
    assert path == workspace / "data" / "commonlit" / "train.csv"
    assert path.read_text() == GOOD
    assert [entry.name for entry in path.parent.iterdir()] == ["train.csv"]
    assert sources.sources()["commonlit"] == "here: data/commonlit/train.csv"
    kaggle.shutdown()
    assert sources.find_table("commonlit") == path, "downloaded once"
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong token", r"HTTP 401.*make a new one"),
        (
            "rules",
            r"HTTP 403.*accept the competition's rules at https://www.kaggle.com/competitions/commonlitread",
        ),
        ("no network", r"check the connection"),
    ],
)
def test_what_kaggle_refuses_is_one_sentence(fault, words, kaggle, workspace, monkeypatch):
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
    [
        ("access_token", SECRET),
        ("access_token.txt", SECRET),
        ("kaggle.json", '{"username": "a", "key": "b"}'),
    ],
)
def test_a_token_that_others_can_read_is_an_error_with_its_remedy(name, content, tmp_path, workspace):
    path = token_file(tmp_path, name, content, 0o644)
    with pytest.raises(InputError, match=f"run: chmod 600 {path}"):
        sources.find_table("commonlit")
    assert "chmod 600" in sources.sources()["commonlit"]
    path.chmod(0o600)
    assert sources.kaggle_token() == str(path)


def test_a_token_file_named_by_a_variable_is_checked_too(tmp_path, monkeypatch):
    path = token_file(tmp_path, "elsewhere", SECRET, 0o640)
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(path))
    with pytest.raises(InputError, match="chmod 600"):
        sources.kaggle_token()
    path.chmod(0o600)
    assert sources.kaggle_token() == "the environment's KAGGLE_API_TOKEN"


def test_an_invalid_kaggle_json(tmp_path):
    token_file(tmp_path, "kaggle.json", "{")
    with pytest.raises(InputError, match=r"Invalid Kaggle credentials file.*get a new one"):
        sources.kaggle_token()


def test_the_status_of_sources_that_are_absent(workspace):
    status = sources.sources()
    assert status["sample"].endswith("data/sample/train.csv")
    assert "no account" in status["clear"]
    assert "a token" in status["commonlit"]
    assert set(status) == set(sources.SOURCES)
