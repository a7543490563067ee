"""What is pushed to Kaggle, under the kaggle CLI's own validation, and the repository's address."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import nbformat
import pytest
import requests

from batch import kaggle
from utils.config import Config, InputError
from utils.machine import runtime
from utils.runs import run as runs

ROOT = runtime.ROOT
NOTEBOOKS = ["01_setup", "03_swa_evaluation", "04_lit_interpretation", "05_swa_lr_demo", "06_submission"]
KERNELS = [*NOTEBOOKS, *(f"02_fold_training_{fold}" for fold in range(5))]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """What ``make kaggle KAGGLE_USERNAME=someone`` writes."""
    folder = tmp_path_factory.mktemp("kaggle")
    assert kaggle.stage("someone", {}, folder) == sorted(KERNELS)
    return folder


def metadata(folder):
    return json.loads((folder / "kernel-metadata.json").read_text())


def parameters(notebook):
    """What papermill's injected cell sets."""
    (cell,) = [
        cell for cell in nbformat.read(notebook, 4).cells if "injected-parameters" in cell.metadata.tags
    ]
    variables = {}
    exec(cell.source, variables)
    del variables["__builtins__"]
    return variables


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
    assert capsys.readouterr().out == "", (
        "the CLI warns where title and id differ, or an accelerator has retired"
    )
    assert request.slug.startswith("someone/swa-apex-lit-")
    assert request.is_private
    assert request.dataset_data_sources == ["someone/swa-apex-lit-code"]
    assert {"enable_gpu", "enable_internet"} <= set(metadata(staged / name)), (
        "stated always: docs and CLI disagree on the defaults"
    )
    assert json.loads(request.text)["nbformat"] == 4


def test_the_kernels_are_chained(staged):
    """Each reads the output of kernels before it, which exist under these very ids."""
    about = {name: metadata(staged / name) for name in KERNELS}
    ids = {name: about[name]["id"] for name in KERNELS}
    run = [ids[f"02_fold_training_{fold}"] for fold in range(5)]
    assert len(set(ids.values())) == len(KERNELS)
    for name in KERNELS:
        earlier = (
            [] if name == "01_setup" else [ids["01_setup"]]
        )  # leaves the wheels that the others install offline
        reads = name[:2] in ("03", "04", "06")
        assert about[name]["kernel_sources"] == [*earlier, *(run if reads else [])]
    assert not about["06_submission"]["enable_internet"], "code competitions run with the internet off"


def test_each_fold_is_a_kernel_of_its_own(staged):
    for fold in range(5):
        folder = staged / f"02_fold_training_{fold}"
        given = parameters(folder / "02_fold_training.ipynb")
        assert given == {"preset": "commonlit", "fold": fold, "time_limit_hours": 11.0}
        assert Config.make(**given).fold == fold
        assert metadata(folder)["competition_sources"] == ["commonlitreadabilityprize"]
    assert parameters(staged / "03_swa_evaluation" / "03_swa_evaluation.ipynb") == {"preset": "commonlit"}


def test_folds_are_added_one_after_another(tmp_path):
    for fold in ("3", "1"):
        kaggle.stage("someone", {"preset": "feedback", "fold": fold, "lr": "3e-5", "run": "second"}, tmp_path)
    about = metadata(tmp_path / "03_swa_evaluation")
    assert about["kernel_sources"][1:] == [f"someone/swa-apex-lit-02-fold-training-{fold}" for fold in (1, 3)]
    assert about["competition_sources"] == ["feedback-prize-english-language-learning"]
    given = parameters(tmp_path / "03_swa_evaluation" / "03_swa_evaluation.ipynb")
    assert given == {"preset": "feedback", "lr": 3e-5, "run": "second"}
    kaggle.stage("someone", {"preset": "clear", "fold": 1}, tmp_path)
    assert metadata(tmp_path / "02_fold_training_1")["competition_sources"] == []
    folds_there = [path.name for path in tmp_path.glob("02_*")]
    assert folds_there == ["02_fold_training_1"], "another run's fold is not mixed with this one's"
    kaggle.stage("another", {"preset": "clear", "fold": 2}, tmp_path)
    assert metadata(tmp_path / "03_swa_evaluation")["kernel_sources"][1:] == [
        "another/swa-apex-lit-02-fold-training-2"
    ]


@pytest.mark.full
def test_a_folds_kernel_trains_and_the_next_one_reads_its_output(tmp_path, monkeypatch):
    """On this machine, in a folder that looks like /kaggle/input to the second kernel."""
    given = {"preset": "tiny", "precision": "fp32", "fold": "0-1", "run": "k"}
    kaggle.stage("someone", {**given, "output_dir": str(tmp_path / "working")}, tmp_path / "kaggle_kernels")
    for fold in (0, 1):
        source = tmp_path / "kaggle_kernels" / f"02_fold_training_{fold}" / "02_fold_training.ipynb"
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(source),
            str(tmp_path / "out.ipynb"),
            "--no-progress-bar",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        shutil.move(
            tmp_path / "working", tmp_path / "input" / f"swa-apex-lit-02-fold-training-{fold}" / "output"
        )
    monkeypatch.setattr(runs, "KAGGLE_INPUT", tmp_path / "input")
    run = runs.open_run(Config.make(**{**given, "fold": 0, "output_dir": str(tmp_path / "empty")}))
    assert list(run.folders) == [0, 1]


@pytest.mark.parametrize(
    ("user", "given", "sentence"),
    [
        ("some one", {}, "'some one' is not a Kaggle user name"),
        ("someone", {"fold": "7"}, "fold=7 does not exist"),
        ("someone", {"data": "mine.csv"}, "data='mine.csv' is not on Kaggle; make it a dataset there"),
        ("someone", {"lr": "1e-4,2e-4"}, "these parameters make several runs; stage one run at a time."),
    ],
)
def test_what_kaggle_would_refuse_is_refused_here(user, given, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        kaggle.stage(user, given, tmp_path / "kaggle")
    assert not (tmp_path / "kaggle").exists()


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
        "utils/training/averaging.py",
        "LICENSE",
        "data/sample/train.csv",
        "data/aspects/train.csv",
        "data/questions/train.json",
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


# --- the repository's address -----------------------------------------------------------------------


def test_badges_and_clones_take_the_address_from_one_place(tmp_path):
    for name in ("Makefile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["suite"]["repository"]
    old = sum(
        path.read_text().count(before) for path in [*tmp_path.glob("notebooks/*"), tmp_path / "README.md"]
    )
    assert old >= 3 * len(list(tmp_path.glob("notebooks/*"))), "two badges and a clone in each notebook"
    subprocess.run(
        ["make", "address", "REPOSITORY=an-owner/a.name"], cwd=tmp_path, check=True, capture_output=True
    )
    files = [*tmp_path.glob("notebooks/*"), tmp_path / "README.md", tmp_path / "pyproject.toml"]
    texts = [path.read_text() for path in files]
    assert sum(text.count("an-owner/a.name") for text in texts) == old + 1
    assert not any(before in text for text in texts)
    assert not list(tmp_path.rglob("*.bak"))
    for path in tmp_path.glob("notebooks/*"):
        nbformat.validate(nbformat.read(path, 4))
        owners = re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+)/blob/main/notebooks/(\w+)", path.read_text())
        assert owners == [("an-owner/a.name", path.stem)] * 2
