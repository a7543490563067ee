import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from utils import runtime


@pytest.mark.parametrize(
    ("commands", "terminal", "kernel", "wanted"),
    [
        ([["bash"]], True, False, True),
        ([["bash"]], False, False, False),
        ([["python", "-m", "jupyterlab"], ["bash"]], False, True, True),
        ([["python", "/venv/bin/papermill", "in.ipynb", "out.ipynb"], ["make", "run"]], False, True, False),
        ([["python", "-m", "ipykernel"], ["python", "-m", "papermill"]], True, True, False),
        ([["python", "/venv/bin/jupyter-nbconvert", "--execute"]], False, True, False),
    ],
)
def test_a_progress_bar_needs_somebody_to_watch_it(monkeypatch, commands, terminal, kernel, wanted):
    parents = [SimpleNamespace(cmdline=lambda command=command: command) for command in commands]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: parents))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    shell = SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert runtime.progress_wanted() is wanted


def test_another_users_parent_is_no_matter(monkeypatch):
    def denied():
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: [SimpleNamespace(cmdline=denied)]))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert runtime.progress_wanted() is True


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "machine"),
        ({"COLAB_RELEASE_TAG": "1"}, "colab"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "COLAB_RELEASE_TAG": "1"}, "kaggle"),
    ],
)
def test_platforms(monkeypatch, variables, name):
    for variable in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert runtime.platform_name() == name


def test_a_read_only_project_writes_into_the_current_directory(monkeypatch, tmp_path):
    """On Kaggle the code is an attached dataset."""
    assert runtime.workspace() == runtime.ROOT
    monkeypatch.setattr(runtime.os, "access", lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    assert runtime.workspace() == tmp_path


def test_versions_name_what_is_absent(monkeypatch):
    monkeypatch.setattr(runtime, "PACKAGES", ("torch", "a-package-that-is-not-there"))
    assert runtime.versions()["torch"] == torch.__version__
    assert runtime.versions()["a-package-that-is-not-there"] == "absent"


def test_seeding_repeats():
    runtime.seed_everything(3)
    first = torch.rand(2)
    runtime.seed_everything(3)
    assert torch.equal(first, torch.rand(2))
