"""The source "vader", with the real pip and a package of a few rows, made here: no index is asked."""

import hashlib
import io
import os
import tarfile
import zipfile

import pandas as pd
import pytest

from utils.config import InputError
from utils.data import sources, vader
from utils.machine import runtime

#: Each domain's file of texts, and its file of ratings: not in the same order, and with a byte order mark.
TEXTS = {
    "tweets": "1\t2.5\tSo good. :D\r\n2\t0.1\tDull\r\n3\t3\tSO GOOD!!! :D\r\n"
    "4\t3.5\tVery so good! :D\r\n5\t0\tdull",
    "movieReviewSnippets": '1\t-0.5\t"A caf\u00e9\r\n2\t0.5\tNA\r\n3\t0\t...a mess...',
    "amazonReviewSnippets": "1_1\t1\tIt works.\r\n1_2\t-1\tIt broke.\r\n12_1\t0\tIt is.",
    "nytEditorialSnippets": "1_1\t1\tGood news.",
}
RATINGS = {
    "tweets": "1\t3\t1\t[2, 4]\r\n2\t0.1\t0.3\t[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]\r\n3\t2\t0\t[2, 2]\r\n"
    "4\t2.5\t0.5\t[2, 3]\r\n5\t0\t0\t[0, 0]",
    "movieReviewSnippets": "1\t-0.5\t0.5\t[-1, 0]\r\n2\t0.5\t0.5\t[1, 0]\r\n3\t0\t4\t[-4, 4]",
    "amazonReviewSnippets": "\ufeff1_2\t-1\t0\t[-1, -1]\r\n1_1\t1\t0\t[1, 1]\r\n12_1\t0\t0\t[0, 0]",
    "nytEditorialSnippets": "1_1\t1\t0\t[1, 1]",
}
#: A build backend of the package's own, which leaves a trace when pip runs the package's code.
BACKEND = """
import os, pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    open(os.environ["TRACE"], "a").write("ran\\n")
    info = pathlib.Path(folder) / "vaderSentiment-0.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: vaderSentiment\\nVersion: 0.5\\n")
    return info.name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def write_package(path):
    """A source package with the corpus where the real one has it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as members:
        for kind, contents in {"GroundTruth": TEXTS, "anonDataRatings": RATINGS}.items():
            for name, content in contents.items():
                member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_{kind}.txt")
                member.size = len(content.encode())
                members.addfile(member, io.BytesIO(content.encode()))
    with zipfile.ZipFile(path, "w") as package:
        for name, content in {"backend.py": BACKEND, "pyproject.toml": PYPROJECT}.items():
            package.writestr(f"vaderSentiment-0.5/{name}", content)
        package.writestr(vader.ARCHIVE, archive.getvalue())


@pytest.fixture
def package(workspace, tmp_path_factory, monkeypatch):
    """The package, where pip finds it and nothing else; its trace is beside it."""
    path = tmp_path_factory.mktemp("index") / "vaderSentiment-0.5.zip"
    write_package(path)
    monkeypatch.setattr(vader, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(path.parent)}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("TRACE", str(path.with_name("trace")))
    return path


def test_vader_is_downloaded_once_with_pip_and_read(package, workspace):
    path = sources.find_table("vader")
    assert path == workspace / "data" / "vader" / "train.csv"
    assert [entry.name for entry in path.parent.iterdir()] == ["train.csv"]
    package.unlink()
    assert sources.find_table("vader") == path, "downloaded once"
    assert sources.sources()["vader"] == f"here: {runtime.display_path(path)}"
    table = pd.read_csv(path, keep_default_na=False).set_index("id")
    columns = ["text", "rating", "rating_sd", "domain", "group", "sentiment", "ratings"]
    assert list(table.columns) == columns
    assert table.index.tolist() == [
        *(f"tweets-{i}" for i in range(1, 6)),
        *(f"movies-{i}" for i in range(1, 4)),
        *("products-1_1", "products-1_2", "products-12_1", "editorials-1_1"),
    ]
    assert table["text"]["movies-1"] == '"A caf\u00e9'
    assert table["text"]["movies-2"] == "NA"
    assert table["rating"].tolist() == [3, 0.1, 2, 2.5, 0, -0.5, 0.5, 0, 1, -1, 0, 1]
    assert table["rating_sd"]["movies-3"] == 4
    assert table["ratings"]["products-1_2"] == "-1 -1"
    assert table["sentiment"].tolist()[4:8] == ["neutral", "negative", "positive", "neutral"]
    assert table["group"].tolist() == [
        *("tweets-1", "tweets-2", "tweets-1", "tweets-1", "tweets-2", "movies-1", "movies-2", "movies-3"),
        *("products-1", "products-1", "products-12", "editorials-1"),
    ]


def test_a_package_with_another_hash_is_refused_before_its_code_runs(package, workspace):
    package.write_bytes(package.read_bytes() + b" ")
    with pytest.raises(InputError, match="DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE") as caught:
        sources.find_table("vader")
    assert "\n" not in str(caught.value)
    assert not package.with_name("trace").exists(), "pip ran the code of an unknown package"
    assert not (workspace / "data").exists()


@pytest.mark.parametrize("fault", ["no network", "no pip"])
def test_what_pip_cannot_do_is_one_sentence(fault, package, workspace, monkeypatch):
    package.unlink()
    words = {"no network": "Could not find a version", "no pip": "No module named pip"}
    if fault == "no pip":
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        package.with_name("pip.py").write_text("raise SystemExit('No module named pip')")
    with pytest.raises(InputError, match=rf"with pip \({words[fault]}.*check the connection") as caught:
        sources.find_table("vader")
    assert "\n" not in str(caught.value)
    assert not (workspace / "data").exists()
