"""One notebook in a process of its own: its errors, and its share of the machine."""

import sys

import nbformat
import pytest

from batch import execute, grid
from batch.execute import NotebookError, NotebookStoppedError
from utils.config import Config


@pytest.fixture
def machine(monkeypatch):
    def become(cores=8, memory=64, gpus=0, visible=None):
        monkeypatch.setattr(execute.joblib, "cpu_count", lambda **_: cores)
        memory = type("Memory", (), {"available": memory * 2**30})
        monkeypatch.setattr(execute.psutil, "virtual_memory", lambda: memory)
        device = type("Device", (), {"type": "cuda" if gpus else "cpu"})
        monkeypatch.setattr(execute.runtime, "device", lambda: device)
        monkeypatch.setattr(execute.torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(execute.torch.cuda, "device_count", lambda: gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return become


def threads(slots):
    return [slot["OMP_NUM_THREADS"] for slot in slots]


def gpus(slots):
    return [slot["CUDA_VISIBLE_DEVICES"] for slot in slots]


def test_a_cpu_is_divided_among_the_folds(machine):
    configs = [Config.make("demo", fold=fold) for fold in range(5)]
    machine(cores=8)
    assert threads(execute.slots(configs)) == ["1"] * 5
    assert threads(execute.slots(configs[:3])) == ["2"] * 3
    assert threads(execute.slots(configs, wanted=1)) == ["8"]
    machine(cores=2)
    assert threads(execute.slots(configs)) == ["1", "1"]
    machine(cores=2, memory=1)
    assert threads(execute.slots(configs)) == ["2"], "where memory holds one fold alone, it has all cores"
    machine(cores=8)
    assert threads(execute.slots([Config.make("demo", devices=4)] * 5)) == ["1", "1"], (
        "of four processes each"
    )


def test_gpus_are_given_one_by_one_or_as_many_as_a_fold_asks_for(machine):
    configs = [Config.make("demo", fold=fold) for fold in range(5)]
    machine(gpus=2)
    assert gpus(execute.slots(configs)) == ["0", "1"]
    assert threads(execute.slots(configs)) == ["4", "4"]
    assert gpus(execute.slots(configs, wanted=4)) == ["0", "1", "0", "1"]
    machine(gpus=4, visible="3,5,6,7")
    assert gpus(execute.slots(configs)) == ["3", "5", "6", "7"]
    assert gpus(execute.slots([Config.make("demo", devices=2)] * 5)) == ["3,5", "6,7"]
    assert gpus(execute.slots([Config.make("demo", devices=0)] * 5)) == ["3,5,6,7"]


def test_the_last_lines_of_an_error_come_from_the_notebook(tmp_path):
    path = tmp_path / "out.ipynb"
    assert execute.error_message(path, "one\ntwo\n\nthree\nfour\n") == "two\nthree\nfour"
    assert execute.error_message(path, "\n") == "it ended without an error message"
    assert not execute.is_executed(path)
    traceback = ["\x1b[0;31mInputError\x1b[0m: a sentence."]
    error = nbformat.v4.new_output("error", ename="InputError", evalue="", traceback=traceback)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[error])]), path)
    assert execute.error_message(path, "noise") == "InputError: a sentence."
    assert not execute.is_executed(path)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    assert execute.is_executed(path)


@pytest.fixture
def stand_in(monkeypatch):
    """Have a line of Python run in papermill's place."""

    def become(code):
        monkeypatch.setattr(execute, "command", lambda *_: [sys.executable, "-c", code])

    return become


def test_a_notebook_that_fails_raises_its_last_words(stand_in, tmp_path):
    stand_in("raise SystemExit('no such kernel')")
    with pytest.raises(NotebookError, match="no such kernel") as caught:
        execute.run_notebook("any", tmp_path / "out.ipynb", {}, {}, lambda: False)
    assert type(caught.value) is NotebookError, "nobody stopped it"
    stand_in("pass")
    execute.run_notebook("any", tmp_path / "out.ipynb", {}, {}, lambda: False)


def test_a_notebook_that_is_stopped_raises_another_error(stand_in, tmp_path):
    stand_in("import time; time.sleep(60)")
    with pytest.raises(NotebookStoppedError):
        execute.run_notebook("any", tmp_path / "out.ipynb", {}, {}, lambda: True)


def test_a_slot_is_free_again_after_a_failure(workspace, monkeypatch):
    jobs, used = grid.expand({"preset": "tiny", "fold": "0,1"}), []

    def fail(job, environment, mirror_url, stopped):
        used.append(environment)
        raise NotebookError("trouble")

    monkeypatch.setattr(execute, "train", fail)
    train, at_once = execute.local_engine(jobs, 1, "")
    assert at_once == 1
    for job in jobs:
        with pytest.raises(NotebookError):
            train(job, lambda: False)
    assert len(used) == 2
