"""Batches started from a shell, for real: in parallel, killed, interrupted, on a full disk."""

import os
import re
import signal
import subprocess
import sys

import pandas as pd
import psutil
import pytest

from batch import execute
from batch.__main__ import main, read_command_line
from tests.batch.helpers import LONG, finish, has_state, kernels, start, wait_for
from tests.runs.helpers import assert_same
from utils.machine import runtime


@pytest.mark.full
def test_three_folds_in_parallel_then_the_notebooks_that_compare_them(tmp_path):
    words = ["-p", "preset", "tiny", "-p", "fold", "0-2", "--jobs", "3"]
    printed = finish(start(*words, cwd=tmp_path))
    folder = tmp_path / "output" / "tiny"
    names = ["02_fold0", "02_fold1", "02_fold2", "03_swa_evaluation", "06_submission"]
    assert all(execute.is_executed(folder / f"{name}.ipynb") for name in names)
    table = pd.read_csv(folder / "summary.csv")
    assert list(table["fold"]) == [0, 1, 2]
    assert (table["state"] == "finished").all()
    assert table[["rmse_last", "rmse_best", "rmse_averaged", "seconds"]].notna().all(axis=None)
    assert "RMSE over all held-out texts" in printed
    started = [printed.index(f"fold {fold} · training") for fold in range(3)]
    assert max(started) < printed.index("finished"), "at the same time"

    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ipynb")}
    printed = finish(start(*words, cwd=tmp_path))
    assert printed.count("finished before") == 3
    again = {path: path.stat().st_mtime_ns for path in folder.rglob("*.ipynb")}
    assert again == written, "nothing is executed again"


def holds(process, path):
    try:
        return str(path) in {file.path for file in process.open_files()}
    except psutil.Error:  # it has just ended
        return False


@pytest.mark.full
def test_a_killed_fold_resumes_and_ends_the_same(tmp_path, uninterrupted):
    batch = start(*LONG, "--fold", "0,1", "--jobs", 2, "--no-evaluation", cwd=tmp_path)
    for fold in (0, 1):
        wait_for(lambda fold=fold: has_state(tmp_path, fold))
    folder = tmp_path / "output" / "tiny"
    victim = next(kernel for kernel in kernels(tmp_path) if holds(kernel, folder / ".fold-1.lock"))
    victim.send_signal(signal.SIGKILL)
    printed = finish(batch)
    assert "fold 1 · training, try 2" in printed
    assert "fold 0 · training, try 2" not in printed
    for fold, expected in uninterrupted.items():
        assert_same(expected, folder / f"fold-{fold}")
    assert re.search(r"from step \d+ of", (folder / "02_fold1.ipynb").read_text()), "it resumed"


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_a_second_call_resumes(number, tmp_path, uninterrupted):
    words = [*LONG, "--fold", "0,1", "--jobs", 2, "--no-evaluation"]
    batch = start(*words, cwd=tmp_path)
    for fold in (0, 1):
        wait_for(lambda fold=fold: has_state(tmp_path, fold))
    batch.send_signal(number)
    printed = finish(batch, code=130)
    assert printed.count("stopped by SIGINT after step") == 2, printed
    assert not kernels(tmp_path)
    folder = tmp_path / "output" / "tiny"
    assert set(pd.read_csv(folder / "summary.csv")["state"]) == {"stopped"}
    finish(start(*words, cwd=tmp_path))
    for fold, expected in uninterrupted.items():
        assert_same(expected, folder / f"fold-{fold}")


@pytest.mark.full
def test_a_killed_batch_leaves_no_training_behind(tmp_path):
    batch = start(*LONG, "--fold", "0", cwd=tmp_path)
    wait_for(lambda: has_state(tmp_path, 0))
    assert kernels(tmp_path)
    batch.kill()
    batch.communicate()
    wait_for(lambda: not kernels(tmp_path))
    assert has_state(tmp_path, 0), "it saved its state"
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


@pytest.mark.full
def test_a_disk_that_is_full_for_one_fold_is_reported_and_the_others_end(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FULL_DISK)
    (tmp_path / "full").touch()
    path = os.pathsep.join([str(tmp_path / "site"), str(runtime.ROOT)])
    variables = {"PYTHONPATH": path, "DISK_IS_FULL": str(tmp_path / "full")}
    words = ["--preset", "tiny", "--fold", "0-2", "--retries", "1", "--jobs", "2"]
    printed = finish(start(*words, cwd=tmp_path, **variables), code=1)
    table = pd.read_csv(tmp_path / "output" / "tiny" / "summary.csv")
    assert list(table["state"]) == ["finished", "failed", "finished"]
    assert list(table["tries"]) == [1, 2, 1]
    assert "No space left on device" in table["error"][1]
    assert "tiny, fold 1 failed, 2 tries" in printed
    assert "02_fold1.ipynb" in printed
    assert "03 and 06 are skipped (not finished: fold 1)" in printed
    (tmp_path / "full").unlink()
    finish(start(*words, "--no-evaluation", cwd=tmp_path, **variables))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fld", "1"], "InputError: 'fld' is not a parameter; did you mean 'fold'?"),
        (["-p", "fld", "1"], "InputError: 'fld' is not a parameter; did you mean 'fold'?"),
        (["--data", "nowhere.csv"], "InputError: data='nowhere.csv' is not a file; check the path."),
        (["--loss", "mse,mes"], "InputError: loss='mes' is not known; did you mean 'mse'?"),
        (["--retries", "-1"], "InputError: --jobs and --retries cannot be negative"),
        (["--mirror", "nosuch://x"], "InputError: 'nosuch://x/tiny' cannot be used: "),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = ["--output-dir", str(tmp_path / "output")]
    monkeypatch.setattr(sys, "argv", ["batch", "--preset", "tiny", *output, *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "output").exists()


def test_a_dry_run_prints_the_commands_and_writes_nothing(tmp_path, monkeypatch, capsys):
    words = ["--preset", "tiny", "--seed", "1,2", "--fold", "3", "--output-dir", str(tmp_path / "output")]
    monkeypatch.setattr(sys, "argv", ["batch", *words, "--dry-run"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.count(" -m papermill ") == 2
    assert "# tiny-seed-2, fold 3: starts" in printed
    assert not (tmp_path / "output").exists()


def test_settings_come_from_p_from_options_and_from_a_file(tmp_path, monkeypatch):
    path = tmp_path / "p.yaml"
    path.write_text("preset: tiny\nfold: 0-1\nseed: [1, 2]\n")
    words = ["--params", str(path), "-p", "fold", "3", "--swa-start=1.5", "-p", "encoder_dropout", "-1"]
    monkeypatch.setattr(sys, "argv", ["batch", *words, "--jobs", "2"])
    options = read_command_line()
    expected = {"preset": "tiny", "fold": "3", "seed": [1, 2], "swa_start": "1.5", "encoder_dropout": "-1"}
    assert options.parameters == expected
    assert options.jobs == 2


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("batch", "usage: python -m batch [-p NAME VALUE ...] [--NAME VALUE ...] [options]"),
        pytest.param(
            "batch.kaggle",
            "usage: python -m batch.kaggle [-p NAME VALUE ...] [--NAME VALUE ...] --user USER",
            marks=pytest.mark.full,
        ),
        ("batch.supervisor", "python -m batch.supervisor COMMAND ..."),
    ],
)
def test_each_command_says_how_it_is_used(module, part):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=runtime.ROOT, capture_output=True, text=True, check=True)
    assert part in done.stdout
