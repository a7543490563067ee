import os
import random
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from utils.machine import runtime


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
def test_a_progress_bar_needs_someone_to_watch_it(monkeypatch, commands, terminal, kernel, wanted):
    parents = [SimpleNamespace(cmdline=lambda command=command: command) for command in commands]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: parents))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    shell = SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert runtime.progress_wanted() is wanted


def test_another_users_parent_process_is_ignored(monkeypatch):
    def denied():
        raise psutil.AccessDenied(1)

    parents = [SimpleNamespace(cmdline=denied)]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: parents))
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
    assert (runtime.ROOT / "pyproject.toml").is_file()
    monkeypatch.setattr(runtime.os, "access", lambda path, mode: False)
    monkeypatch.chdir(tmp_path)
    assert runtime.workspace() == tmp_path


def test_versions_name_what_is_absent(monkeypatch):
    monkeypatch.setattr(runtime, "PACKAGES", ("torch", "a-package-that-is-not-installed"))
    assert runtime.versions()["torch"] == torch.__version__
    assert runtime.versions()["a-package-that-is-not-installed"] == "absent"


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_the_same_seed_gives_the_same_numbers():
    runtime.seed_everything(3)
    first = draw()
    runtime.seed_everything(3)
    assert draw() == first


def test_random_states_can_be_restored():
    states = runtime.random_states(torch.device("cpu"))
    first = draw()
    assert draw() != first
    runtime.restore_random_states(states, torch.device("cpu"))
    assert draw() == first


@pytest.mark.parametrize("output", ["a pipe that nobody reads", "a full disk", "ascii", "closed"])
def test_what_cannot_be_printed_ends_no_training(output, monkeypatch, tmp_path):
    path, (reader, writer) = tmp_path / "out", os.pipe()
    os.close(reader)
    targets = {"a pipe that nobody reads": writer, "a full disk": "/dev/full"}
    with open(targets.get(output, path), "w", encoding="ascii") as stream:
        if output == "closed":
            stream.close()
        monkeypatch.setattr("sys.stdout", stream)
        for _ in range(3):
            runtime.say("epoch 1 \N{MIDDLE DOT} \udcff" if output == "ascii" else "epoch 1")
        # It is closed here, as Python does when it ends, and that must not fail either.
    if output == "ascii":
        assert path.read_text() == "epoch 1 \\xb7 \\udcff\n" * 3
