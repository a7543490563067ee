"""Batches of folds: tried again, stopped, killed, on a full disk, on a cluster that loses a machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from tests.test_resume import assert_same
from utils import batch, execute, grid, runtime, summary, watch
from utils.batch import Batch
from utils.config import Config, InputError
from utils.fold import fit_fold
from utils.mirror import Mirror

# Long enough to be stopped in the middle.
LONG = ["--preset", "tiny", "--precision", "fp32", "--epochs", "100", "--swa-start", "20", "--save-every", "1"]
SETTINGS = {"epochs": 100, "swa_start": 20, "save_every": 1}


def start(*words, cwd, **environment):
    # Two folds at once have a thread each, whatever the machine: other numbers of threads round differently.
    own = {"PYTHONPATH": str(runtime.ROOT), "OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "2", "FORCE_COLOR": ""}
    environment = {**os.environ, **own, **environment}
    command = [sys.executable, "-m", "utils.batch", *map(str, words), "--output-dir", str(cwd / "output")]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def states(folder, fold, steps=1):
    return len(list(folder.glob(f"output/tiny/fold-{fold}/state/step-*"))) >= steps


def kernels(folder):
    """The notebooks' processes that belong to ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            if any("ipykernel" in word for word in process.cmdline()) and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folds as they come out when nothing interrupts them."""
    folder = tmp_path_factory.mktemp("whole")
    config = Config.make("tiny", precision="fp32", output_dir=str(folder), **SETTINGS)
    from utils.data import add_folds, load_table

    table = add_folds(load_table(config), config)
    return {fold: fit_fold(config, table, fold) for fold in (0, 1)}


# --- one after another, in this process --------------------------------------------------------------------------


def never(job):
    raise AssertionError("nothing was to be trained anew")


def finish(job):
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "result.json").write_text('{"scores": {"last": {"rmse": 0.5}}, "seconds": 1.5}')
    return ""


def test_a_fold_that_fails_is_tried_again_and_stops_no_other(workspace):
    jobs, calls = grid.expand({"preset": "tiny", "fold": "0-3"}), []

    def train(job, stopped):
        fold = job.config.fold
        calls.append(fold)
        if fold == 1 and calls.count(1) < 3:
            return "a moment's trouble"
        if fold == 2:
            raise RuntimeError("broken")
        return finish(job)

    run = Batch(jobs, train, never, at_once=2, retries=2)
    run.run()
    assert [(status.state, status.tries, status.error) for status in run.statuses] == [
        ("finished", 1, ""), ("finished", 3, ""), ("failed", 3, "RuntimeError: broken"), ("finished", 1, ""),
    ]  # fmt: skip
    summary.summarize(run.statuses, [], workspace / "summary.csv")
    table = pd.read_csv(workspace / "summary.csv")
    assert list(table["state"]) == ["finished", "finished", "failed", "finished"]
    assert list(table["rmse_last"].fillna(-1)) == [0.5, 0.5, -1, 0.5]
    assert table["error"][2] == "RuntimeError: broken"

    calls.clear()
    again = Batch(grid.expand({"preset": "tiny", "fold": "0-3"}), train, never, at_once=4, retries=0)
    again.run()
    assert calls == [2], "what is finished is not run again"
    assert [status.state for status in again.statuses] == ["finished before", "finished before", "failed",
                                                           "finished before"]  # fmt: skip


def test_so_many_run_at_once_and_no_more(workspace):
    running, most, lock, three = 0, [], threading.Lock(), threading.Barrier(3)

    def train(job, stopped):
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        if len(most) <= 3:
            three.wait(timeout=60)
        time.sleep(0.05)  # in which a fourth would come, were there one
        with lock:
            running -= 1
        return finish(job)

    Batch(grid.expand({"preset": "tiny", "seed": "1,2"}), train, never, at_once=3, retries=0).run()
    assert max(most) == 3
    assert len(most) == 10


def test_a_stop_ends_what_runs_and_begins_nothing_more(workspace):
    def train(job, stopped):
        run.stop.set()
        wait_for(stopped)
        return "stopped by SIGINT"

    run = Batch(grid.expand({"preset": "tiny", "fold": "0-2"}), train, never, at_once=1, retries=5)
    run.run()
    assert [(status.state, status.tries) for status in run.statuses] == [("stopped", 1), ("stopped", 0), ("stopped", 0)]


def test_a_time_limit_is_no_failure_and_an_empty_folder_is(workspace):
    def limit(job, stopped):
        finish(job)
        (job.folder / "result.json").write_text('{"finished": false}')
        return ""

    for train, state, part in ((limit, "stopped", "time limit"), (lambda *_: "", "failed", "do all machines share")):
        run = Batch(grid.expand({"preset": "tiny", "run": state, "fold": 0}), train, never, at_once=1, retries=0)
        run.run()
        assert run.statuses[0].state == state
        assert part in run.statuses[0].error


def test_a_fold_that_is_trained_anew_is_forgotten_once_and_then_gone_on_with(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 0, "retrain": True, "resume_from": "old"})
    finish(job)
    forgotten, given = [], []

    def train(job, stopped):
        given.append(job.given)
        return "trouble" if len(given) == 1 else finish(job)

    def forget(job):
        forgotten.append(job)
        batch.forget(job, "")

    run = Batch([job], train, forget, at_once=1, retries=1)
    run.run()
    assert (run.statuses[0].state, run.statuses[0].tries, len(forgotten)) == ("finished", 2, 1)
    assert given == [{"preset": "tiny", "fold": 0}] * 2

    stopped = Batch([job], lambda *_: "a dead kernel", forget, at_once=1, retries=0)
    stopped.run()
    assert stopped.statuses[0].state == "failed", "the old result is no result of this training"


def test_a_damaged_result_and_a_second_batch_stop_no_other_fold(workspace):
    jobs = grid.expand({"preset": "tiny", "fold": "0-2"})
    finish(jobs[0])
    (jobs[0].folder / "result.json").write_text("{")
    jobs[1].run_folder.mkdir(exist_ok=True)
    with FileLock(jobs[1].run_folder / ".02_fold1.ipynb.lock"):
        run = Batch(jobs, lambda job, stopped: finish(job), never, at_once=1, retries=1)
        run.run()
    assert [status.state for status in run.statuses] == ["failed", "failed", "finished"]
    assert "is damaged; train that fold again" in run.statuses[0].error
    assert "another batch is training it" in run.statuses[1].error


def test_the_summary_keeps_other_folds(workspace):
    path = workspace / "summary.csv"
    for folds in ("0-1", "1-2"):
        statuses = [watch.Status(job, state="failed") for job in grid.expand({"preset": "tiny", "fold": folds})]
        summary.summarize(statuses, [], path)
    assert list(pd.read_csv(path)["fold"]) == [0, 1, 2]


# --- how many at a time ------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    def become(cores=8, memory=64, gpus=0, visible=None):
        monkeypatch.setattr(execute.joblib, "cpu_count", lambda **_: cores)
        memory = type("Memory", (), {"available": memory * 2**30})
        monkeypatch.setattr(execute.psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(execute.runtime, "device", lambda: type("D", (), {"type": "cuda" if gpus else "cpu"}))
        monkeypatch.setattr(execute.torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(execute.torch.cuda, "device_count", lambda: gpus)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return become


def threads(slots):
    return [slot["OMP_NUM_THREADS"] for slot in slots]


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
    assert threads(execute.slots([Config.make("demo", devices=4)] * 5)) == ["1", "1"], "of four processes each"


def test_gpus_are_given_one_by_one_or_as_many_as_a_fold_asks_for(machine):
    configs = [Config.make("demo", fold=fold) for fold in range(5)]
    machine(gpus=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in execute.slots(configs)] == ["0", "1"]
    assert threads(execute.slots(configs)) == ["4", "4"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in execute.slots(configs, wanted=4)] == ["0", "1", "0", "1"]
    machine(gpus=4, visible="3,5,6,7")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in execute.slots(configs)] == ["3", "5", "6", "7"]
    pairs = [Config.make("demo", devices=2)] * 5
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in execute.slots(pairs)] == ["3,5", "6,7"]
    everything = [Config.make("demo", devices=0)] * 5
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in execute.slots(everything)] == ["3,5,6,7"]


# --- what is seen ------------------------------------------------------------------------------------------------


def test_the_table_shows_where_each_fold_stands(workspace):
    (job,) = grid.expand({"preset": "tiny", "fold": 1, "epochs": 4})
    status = watch.Status(job)
    assert watch.row_of(status, "") == ["tiny, fold 1", "waiting", "", "", "", ""]
    status.state, status.tries = "training", 2
    job.folder.mkdir(parents=True)
    rows = {"epoch": [1.0, 2.0], "rmse": [0.7, 0.61234], "swa_rmse": [float("nan"), 0.6], "seconds": [60.0, 120.0]}
    pd.DataFrame(rows).to_csv(job.folder / "history.csv")
    expected = ["tiny, fold 1", "training, try 2", "2.00 of 4", "0.6123", "0.6000", "2 min"]
    assert watch.row_of(status, "") == expected
    assert watch.row_of(status, f"file://{workspace}/output") == expected, "read from where a cluster's machines write"
    assert len(watch.live_table([status], "").rows) == 1


def test_the_last_lines_of_an_error_come_from_the_notebook(tmp_path):
    path = tmp_path / "out.ipynb"
    assert execute.error_of(path, "one\ntwo\n\nthree\nfour\n") == "two\nthree\nfour"
    assert not execute.is_executed(path)
    traceback = ["\x1b[0;31mInputError\x1b[0m: a sentence."]
    error = nbformat.v4.new_output("error", ename="InputError", evalue="", traceback=traceback)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[error])]), path)
    assert execute.error_of(path, "noise") == "InputError: a sentence."
    assert not execute.is_executed(path)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
    assert execute.is_executed(path)


# --- from a shell, for real --------------------------------------------------------------------------------------


def test_three_folds_in_parallel_then_the_notebooks_that_compare_them(tmp_path):
    words = ["--preset", "tiny", "--fold", "0-2", "--jobs", "3"]
    done = start(*words, cwd=tmp_path)
    said = done.communicate(timeout=400)[0]
    assert done.returncode == 0, said
    folder = tmp_path / "output" / "tiny"
    names = ["02_fold0", "02_fold1", "02_fold2", "03_swa_evaluation", "06_submission"]
    assert all(execute.is_executed(folder / f"{name}.ipynb") for name in names)
    table = pd.read_csv(folder / "summary.csv")
    assert list(table["fold"]) == [0, 1, 2]
    assert (table["state"] == "finished").all()
    assert table[["rmse_last", "rmse_best", "rmse_swa", "seconds"]].notna().all(axis=None)
    assert "RMSE over all held-out texts" in said
    began = [said.index(f"fold {fold} · training") for fold in range(3)]
    assert max(began) < said.index("finished"), "at the same time"

    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ipynb")}
    again = start(*words, cwd=tmp_path)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert said.count("finished before") == 3
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.ipynb")} == written, "nothing is run again"


def test_a_killed_fold_goes_on_and_ends_the_same(tmp_path, whole):
    running = start(*LONG, "--fold", "0,1", "--jobs", 2, "--no-evaluation", cwd=tmp_path)
    wait_for(lambda: states(tmp_path, 0))
    wait_for(lambda: states(tmp_path, 1))
    victim = next(
        kernel for kernel in kernels(tmp_path) if holds(kernel, tmp_path / "output" / "tiny" / ".fold-1.lock")
    )
    victim.send_signal(signal.SIGKILL)
    said = running.communicate(timeout=300)[0]
    assert running.returncode == 0, said
    assert "fold 1 · training, try 2" in said
    assert "fold 0 · training, try 2" not in said
    for fold, folder in whole.items():
        assert_same(folder, tmp_path / "output" / "tiny" / f"fold-{fold}")
    assert "going on from step" in (tmp_path / "output" / "tiny" / "02_fold1.ipynb").read_text()


def holds(process, path):
    try:
        return str(path) in {file.path for file in process.open_files()}
    except psutil.Error:  # it has just ended
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_interrupted_it_saves_and_a_second_call_goes_on(number, tmp_path, whole):
    words = [*LONG, "--fold", "0,1", "--jobs", 2, "--no-evaluation"]
    running = start(*words, cwd=tmp_path)
    wait_for(lambda: states(tmp_path, 0))
    wait_for(lambda: states(tmp_path, 1))
    running.send_signal(number)
    said = running.communicate(timeout=300)[0]
    assert running.returncode == 130, said
    assert said.count("stopped by SIGINT after step") == 2, said
    assert not kernels(tmp_path)
    assert set(pd.read_csv(tmp_path / "output" / "tiny" / "summary.csv")["state"]) == {"stopped"}
    again = start(*words, cwd=tmp_path)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    for fold, folder in whole.items():
        assert_same(folder, tmp_path / "output" / "tiny" / f"fold-{fold}")


def test_a_killed_batch_leaves_no_training_behind(tmp_path):
    running = start(*LONG, "--fold", "0", cwd=tmp_path)
    wait_for(lambda: states(tmp_path, 0))
    assert kernels(tmp_path)
    running.kill()
    running.communicate()
    wait_for(lambda: not kernels(tmp_path))
    assert states(tmp_path, 0), "it saved its state"
    assert not (tmp_path / "output" / "tiny" / "fold-0" / "result.json").exists()


FULL_DISK = """
import errno, os
replace = os.replace

def full(source, target, **options):
    if "fold-1" in str(target) and os.path.exists(os.environ["DISK_IS_FULL"]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return replace(source, target, **options)

os.replace = full
"""


def test_a_disk_that_is_full_for_one_fold_is_told_and_the_others_end(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FULL_DISK)
    (tmp_path / "full").touch()
    path = os.pathsep.join([str(tmp_path / "site"), str(runtime.ROOT)])
    words = ["--preset", "tiny", "--fold", "0-2", "--retries", "1", "--jobs", "2"]
    done = start(*words, cwd=tmp_path, PYTHONPATH=path, DISK_IS_FULL=str(tmp_path / "full"))
    said = done.communicate(timeout=300)[0]
    assert done.returncode == 1, said
    table = pd.read_csv(tmp_path / "output" / "tiny" / "summary.csv")
    assert list(table["state"]) == ["finished", "failed", "finished"]
    assert list(table["tries"]) == [1, 2, 1]
    assert "No space left on device" in table["error"][1]
    assert "tiny, fold 1 failed, 2 tries" in said
    assert "02_fold1.ipynb" in said
    assert "03 and 06 are left out (not finished: fold 1)" in said
    (tmp_path / "full").unlink()
    again = start(*words, "--no-evaluation", cwd=tmp_path, PYTHONPATH=path, DISK_IS_FULL=str(tmp_path / "full"))
    assert again.wait(timeout=300) == 0, again.communicate()[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fld", "1"], "InputError: 'fld' is not a parameter; did you mean 'fold'?"),
        (["--data", "nowhere.csv"], "InputError: data='nowhere.csv' is not a file; check the path."),
        (["--retries", "-1"], "InputError: --jobs and --retries cannot be negative"),
        (["--mirror", "nosuch://x"], "InputError: 'nosuch://x/tiny' cannot be used: "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["batch", "--preset", "tiny", "--output-dir", str(tmp_path / "output"), *words])
    with pytest.raises(SystemExit) as found:
        batch.main()
    assert str(found.value).startswith(sentence)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "output").exists()


def test_a_dry_run_prints_the_commands_and_writes_nothing(tmp_path, monkeypatch, capsys):
    words = ["--preset", "tiny", "--seed", "1,2", "--fold", "3", "--output-dir", str(tmp_path / "output")]
    monkeypatch.setattr(sys, "argv", ["batch", *words, "--dry-run"])
    with pytest.raises(SystemExit) as found:
        batch.main()
    assert found.value.code == 0
    said = capsys.readouterr().out
    assert said.count(" -m papermill ") == 2
    assert "# tiny-seed-2, fold 3: begins" in said
    assert not (tmp_path / "output").exists()


# --- elsewhere ---------------------------------------------------------------------------------------------------


def write(folder, *names, content=""):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


STATES = ["fold-0/state/step-1/manifest.json", "fold-0/state/step-1/model.safetensors"]


def test_a_mirror_copies_what_has_changed_and_half_a_state_is_not_read(tmp_path):
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    mirror = Mirror(here, f"file://{there}")
    write(here, *STATES, "fold-0/state/step-2/manifest.json", "fold-0/.new/part", "fold-1/result.json")
    mirror.push("fold-0")
    assert files(there) == {*STATES, "fold-0/state/step-2/manifest.json"}

    (here / "fold-0" / "state" / "step-2" / "manifest.json").unlink()
    write(here, "fold-0/state/step-2/model.safetensors")
    write(here, STATES[1], content="changed")
    mirror.push("fold-0")
    assert files(there) == {*STATES, "fold-0/state/step-2/model.safetensors"}
    assert (there / STATES[1]).read_text() == "changed"

    Mirror(other, f"file://{there}").pull("fold-0")
    assert files(other / "fold-0") == {name.removeprefix("fold-0/") for name in STATES}


def test_of_a_fold_the_copy_that_is_further_on_stays(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    mirror = Mirror(here, f"file://{there}")
    write(there, *STATES, "fold-0/history.csv", content="old")
    write(here, "fold-0/state/step-2/manifest.json", "fold-0/history.csv", content="new")
    mirror.pull("fold-0")
    assert (here / "fold-0" / "history.csv").read_text() == "new"
    assert mirror.is_ahead("fold-0")
    mirror.push("fold-0")
    assert (there / "fold-0" / "history.csv").read_text() == "new"
    assert not mirror.is_ahead("fold-0")

    other = Mirror(tmp_path / "other", f"file://{there}")
    write(tmp_path / "other", *STATES, "fold-0/history.csv", content="old")
    other.pull("fold-0")
    assert (tmp_path / "other" / "fold-0" / "history.csv").read_text() == "new"
    write(there, "fold-0/result.json")
    for step in (1, 2):
        shutil.rmtree(there / "fold-0" / "state" / f"step-{step}", ignore_errors=True)
    mirror.pull("fold-0")
    assert (here / "fold-0" / "result.json").exists()
    assert not (here / "fold-0" / "state").exists(), "a finished fold needs none"


def test_a_finished_fold_leaves_no_state_that_another_mirror_had_copied(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write(there, *STATES)
    write(here, "fold-0/result.json")
    Mirror(here, f"file://{there}").push("fold-0")
    assert files(there) == {"fold-0/result.json"}


def test_a_pull_that_breaks_off_leaves_what_was_there(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    write(there, "fold-0/result.json", "fold-0/swa/model.safetensors", content="new")
    write(here, *STATES)
    real = LocalFileSystem.get_file

    def broken(self, path, target):
        if "swa" in path:
            raise ConnectionError
        real(self, path, target)

    monkeypatch.setattr(LocalFileSystem, "get_file", broken)
    with pytest.raises(ConnectionError):
        Mirror(here, f"file://{there}").pull("fold-0")
    assert files(here / "fold-0") == {name.removeprefix("fold-0/") for name in STATES}
    monkeypatch.undo()
    Mirror(here, f"file://{there}").pull("fold-0")
    assert files(here / "fold-0") == {"result.json", "swa/model.safetensors"}


def test_what_makes_a_state_whole_is_copied_last(tmp_path, monkeypatch):
    state = "fold-0/state/step-1"
    write(tmp_path / "here", *(f"{state}/{name}" for name in ("manifest.json", "average.safetensors", "rest.pt")))
    write(tmp_path / "here", "fold-0/result.json")
    order, real = [], LocalFileSystem.put_file

    def put(self, source, target, **options):
        order.append(Path(source).name)
        real(self, source, target, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", put)
    Mirror(tmp_path / "here", f"file://{tmp_path}/there").push("fold-0")
    assert set(order[:2]) == {"average.safetensors", "rest.pt"}
    assert set(order[2:]) == {"manifest.json", "result.json"}


def test_a_moment_without_a_network_does_not_stop_a_training(workspace, monkeypatch):
    """The training is a stand-in that lasts until something has been pushed."""
    (job,) = grid.expand({"preset": "tiny", "fold": 0})
    write(job.run_folder, "fold-0/config.json")
    monkeypatch.setattr(execute, "PUSH_SECONDS", 0)
    tries, real = [], LocalFileSystem.put_file

    def put(self, source, target, **options):
        tries.append(source)
        if len(tries) == 1:
            raise RuntimeError("no network")
        real(self, source, target, **options)

    def run_notebook(name, output, given, environment, stopped, tick):
        tick()
        return ""

    monkeypatch.setattr(LocalFileSystem, "put_file", put)
    monkeypatch.setattr(execute, "run_notebook", run_notebook)
    assert execute.train(job, {}, f"file://{workspace}/there") == ""
    assert len(tries) == 2
    assert files(workspace / "there" / "tiny") == {"fold-0/config.json"}


def test_a_training_goes_on_on_another_machine_from_the_mirror(tmp_path, whole):
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    words = [*LONG, "--fold", "0,1", "--jobs", 2, "--no-evaluation", "--mirror", f"file://{tmp_path}/bucket"]
    running = start(*words, cwd=here)
    wait_for(lambda: states(here, 0))
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=300)[0]
    assert running.returncode == 130, said
    again = start(*words, cwd=other)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert "going on from step" in (tmp_path / "bucket" / "tiny" / "02_fold0.ipynb").read_text()
    for fold, folder in whole.items():
        assert_same(folder, other / "output" / "tiny" / f"fold-{fold}")
        assert_same(folder, tmp_path / "bucket" / "tiny" / f"fold-{fold}")
    assert (tmp_path / "bucket" / "tiny" / "summary.csv").exists()


@pytest.fixture
def cluster():
    """Two machines of one processor each, on this one; and what loses the second."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def words_for(cluster, *words):
    return [*LONG, "--fold", "0,1", "--no-evaluation", "--engine", "ray", "--address", cluster.address, *words]


def lose(cluster):
    cluster.remove_node(cluster.second, allow_graceful=False)


def test_the_folds_finish_though_the_cluster_loses_a_machine(cluster, tmp_path, whole):
    running = start(*words_for(cluster), cwd=tmp_path)
    for fold in (0, 1):
        wait_for(lambda fold=fold: states(tmp_path, fold))
    lose(cluster)
    said = running.communicate(timeout=400)[0]
    assert running.returncode == 0, said
    assert said.count("training, try 2") >= 1, said
    for fold, folder in whole.items():
        assert_same(folder, tmp_path / "output" / "tiny" / f"fold-{fold}")
    table = pd.read_csv(tmp_path / "output" / "tiny" / "summary.csv")
    assert sorted(table["tries"]) == [1, 2]


@pytest.mark.full
def test_machines_without_a_shared_disk_meet_at_the_mirror(cluster, tmp_path, whole):
    bucket = tmp_path / "bucket"
    running = start(*words_for(cluster, "--mirror", f"file://{bucket}"), cwd=tmp_path)
    wait_for(lambda: all(list(bucket.glob(f"tiny/fold-{fold}/state/*/manifest.json")) for fold in (0, 1)))
    lose(cluster)
    said = running.communicate(timeout=400)[0]
    assert running.returncode == 0, said
    for fold, folder in whole.items():
        assert_same(folder, bucket / "tiny" / f"fold-{fold}")
        assert_same(folder, tmp_path / "output" / "tiny" / f"fold-{fold}")


@pytest.mark.full
@pytest.mark.parametrize("mirrored", [False, True])
def test_interrupted_on_a_cluster_the_folds_save_too(mirrored, cluster, tmp_path):
    bucket = tmp_path / "bucket"
    words = ["--epochs", "200", *(["--mirror", f"file://{bucket}"] if mirrored else [])]
    running = start(*words_for(cluster, *words), cwd=tmp_path)
    place = bucket if mirrored else tmp_path / "output"
    for fold in (0, 1):
        wait_for(lambda fold=fold: list(place.glob(f"tiny/fold-{fold}/state/*/manifest.json")))
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=200)[0]
    assert running.returncode == 130, said
    assert list(pd.read_csv(tmp_path / "output" / "tiny" / "summary.csv")["state"]) == ["stopped", "stopped"]
    for fold in (0, 1):
        told = re.search(r"stopped by SIGINT after step (\d+)", (place / "tiny" / f"02_fold{fold}.ipynb").read_text())
        assert (place / "tiny" / f"fold-{fold}" / "state" / f"step-{int(told[1]):08d}" / "manifest.json").exists()


@pytest.mark.full
def test_data_of_ones_own_reach_the_machines_that_share_no_disk(cluster, tmp_path):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv").sample(60, random_state=0)
    table.to_csv(tmp_path / "mine.csv", index=False)
    words = ["--preset", "tiny", "--max-rows", "0", "--data", "mine.csv", "--fold", "0", "--no-evaluation"]
    words += ["--engine", "ray", "--address", cluster.address, "--mirror", f"file://{tmp_path}/bucket"]
    done = start(*words, cwd=tmp_path)
    said = done.communicate(timeout=200)[0]
    assert done.returncode == 0, said
    assert (tmp_path / "output" / "tiny-mine" / "fold-0" / "result.json").exists()


def test_no_cluster_and_no_ray_are_told_in_a_sentence(monkeypatch):
    from utils import cluster as clusters

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"Ray is not installed; pip install -r requirements-ray\.txt"):
        clusters.connect("auto")
