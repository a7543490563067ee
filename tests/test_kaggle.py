"""What is pushed to Kaggle, under the kaggle CLI's own validation, and the repository's address."""

import json
import re
import shutil
import subprocess
import tomllib
from types import SimpleNamespace

import nbformat
import pytest
import requests

from utils import runtime

ROOT = runtime.ROOT
KERNELS = ["01_setup", "02_fold_training", "03_swa_evaluation", "04_lit_interpretation", "05_swa_lr_demo",
           "06_submission"]  # fmt: skip


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """``make kaggle`` in a copy of the project; notebooks that are yet to come are empty ones."""
    project = tmp_path_factory.mktemp("project")
    for name in ("utils", "docs", "data/sample", "notebooks", "kaggle"):
        shutil.copytree(ROOT / name, project / name)
    for name in (
        "Makefile",
        "setup.sh",
        "constraints.txt",
        "requirements.txt",
        "requirements-lit.txt",
        "data/README.md",
    ):
        shutil.copy(ROOT / name, project / name)
    for name in KERNELS:
        if not (project / "notebooks" / f"{name}.ipynb").exists():
            nbformat.write(nbformat.v4.new_notebook(), project / "notebooks" / f"{name}.ipynb")
    subprocess.run(["make", "kaggle", "KAGGLE_USERNAME=someone"], cwd=project, check=True, capture_output=True)
    return project / "output" / "kaggle"


@pytest.fixture
def api(monkeypatch, tmp_path):
    """The kaggle CLI's own API object, its client replaced by one that keeps what it is asked for."""
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    from kaggle.api.kaggle_api_extended import KaggleApi

    asked = []

    def keep(request):
        asked.append(request)
        return SimpleNamespace(error="")

    client = SimpleNamespace(
        kernels=SimpleNamespace(kernels_api_client=SimpleNamespace(save_kernel=keep)),
        datasets=SimpleNamespace(dataset_api_client=SimpleNamespace(create_dataset=keep)),
    )

    class Client:
        def __enter__(self):
            return client

        def __exit__(self, *_):
            pass

    api = KaggleApi()
    api.config_values = {"username": "someone"}
    monkeypatch.setattr(api, "build_kaggle_client", Client)
    api.asked = asked
    return api


@pytest.mark.parametrize("name", KERNELS)
def test_the_cli_takes_each_kernel(name, staged, api, capsys):
    api.kernels_push(str(staged / name))
    (request,) = api.asked
    assert capsys.readouterr().out == "", "the CLI warns where title and id differ, or an accelerator has retired"
    assert request.slug.startswith("someone/swa-apex-lit-")
    assert request.is_private
    assert request.dataset_data_sources == ["someone/swa-apex-lit-code"]
    raw = json.loads((staged / name / "kernel-metadata.json").read_text())
    assert {"enable_gpu", "enable_internet"} <= set(raw), "stated always: docs and CLI disagree on the defaults"
    assert json.loads(request.text)["nbformat"] == 4


def test_the_kernels_are_chained(staged):
    """Each reads the output of kernels before it, which exist under these very ids."""
    metadata = {name: json.loads((staged / name / "kernel-metadata.json").read_text()) for name in KERNELS}
    ids = [metadata[name]["id"] for name in KERNELS]
    for number, name in enumerate(KERNELS):
        sources = metadata[name]["kernel_sources"]
        assert set(sources) <= set(ids[:number])
        assert ids[0] in sources or number == 0, "01 leaves the wheels that the others install from offline"
    assert not metadata["06_submission"]["enable_internet"], "code competitions run with the internet off"


def test_the_cli_takes_the_code(staged, api, monkeypatch):
    folder, uploaded = staged / "code", []

    def absent(ref):
        raise requests.HTTPError("404")

    monkeypatch.setattr(api, "dataset_status", absent)
    monkeypatch.setattr(api, "upload_files", lambda *arguments: uploaded.append(arguments))
    api.dataset_create_new(str(folder), dir_mode="zip")
    assert api.asked[-1].slug == "swa-apex-lit-code"
    assert uploaded
    shipped = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "setup.sh",
        "utils/averaging.py",
        "data/sample/train.csv",
        "requirements-lit.txt",
        "docs/lit-main.png",
    } <= shipped
    assert not any("__pycache__" in path or path.endswith(".bak") for path in shipped)


def test_what_kaggle_is_given_refuses_to_be_made_for_nobody(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make", "kaggle"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make kaggle KAGGLE_USERNAME=you" in done.stderr
    assert not (tmp_path / "output").exists()


# --- the repository's address ------------------------------------------------------------------------------------


def test_badges_and_clones_take_the_address_from_one_place(tmp_path):
    for name in ("Makefile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["suite"]["repository"]
    old = sum(path.read_text().count(before) for path in [*tmp_path.glob("notebooks/*"), tmp_path / "README.md"])
    assert old >= 3 * len(list(tmp_path.glob("notebooks/*"))), "two badges and a clone in each notebook"
    subprocess.run(["make", "address", "REPOSITORY=an-owner/a.name"], cwd=tmp_path, check=True, capture_output=True)
    files = [*tmp_path.glob("notebooks/*"), tmp_path / "README.md", tmp_path / "pyproject.toml"]
    texts = [path.read_text() for path in files]
    assert sum(text.count("an-owner/a.name") for text in texts) == old + 1
    assert not any(before in text for text in texts)
    assert not list(tmp_path.rglob("*.bak"))
    for path in tmp_path.glob("notebooks/*"):
        nbformat.validate(nbformat.read(path, 4))
        owners = re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+)/blob/main/notebooks/(\w+)", path.read_text())
        assert owners == [("an-owner/a.name", path.stem)] * 2
