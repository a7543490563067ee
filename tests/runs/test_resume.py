"""Resuming: killed at any moment, a training ends as if it had not been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tests.runs.helpers import OPTIONS, Stop, assert_same, stop_after
from tests.stand_ins import apex
from utils.config import InputError
from utils.machine import precision, runtime
from utils.machine.encoders import encoder_source
from utils.runs import artifacts, checkpoint
from utils.runs.fold import fit_fold

# --- as if it had not been stopped -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 6, 7, 13, 23, 24])
def test_a_training_that_broke_off_ends_bit_identically(step, whole, tiny, tiny_table, monkeypatch, capsys):
    """After step 1 there is no state yet; 6 ends an epoch; 24 is the last, whose evaluation is lost."""
    config = tiny(run="broken", save_every=1, **OPTIONS)
    go_on = stop_after(step, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    go_on()
    random.seed(99)  # the next session begins with other random states
    np.random.seed(99)
    capsys.readouterr()
    folder = fit_fold(config, tiny_table)
    said = capsys.readouterr().out
    assert (f"Fold 0: going on from step {step - 1} of 24, fp32 on " in said) == (step > 1), said
    assert_same(whole, folder)
    assert not (folder / "state").exists(), "a finished fold needs none"


@pytest.mark.parametrize(
    "options",
    [
        {"averaging": "ema", "optimizer": "adamw"},
        {"averaging": "none", "schedule": "linear", "loss": "rmse"},
        {"swa_flat_lr": 1e-3, "swa_every": 0},
    ],
    ids=str,
)
def test_other_recipes_resume_too(options, tiny, tiny_table, monkeypatch):
    options = {**OPTIONS, **options}
    folders = [fit_fold(tiny(run="whole", **options), tiny_table)]
    config = tiny(run="broken", save_every=3, **options)
    for step in (8, 15):
        go_on = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
        go_on()
    assert_same(folders[0], fit_fold(config, tiny_table))


@pytest.mark.parametrize("level", ["apex-O1", "apex-O2"])
def test_apex_resumes_with_its_masters_and_loss_scale(level, tiny, tiny_table, monkeypatch):
    def train(run, step=None):
        apex.install(monkeypatch).growth_interval = 4
        monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice(level, "asked for"))
        go_on = stop_after(step, monkeypatch)
        try:
            return fit_fold(tiny(run=run, save_every=1, **OPTIONS), tiny_table)
        finally:
            go_on()

    whole = train("whole")
    assert pd.read_csv(whole / "history.csv")["loss_scale"].nunique() > 3, "or nothing would tell that it is resumed"
    with pytest.raises(Stop):
        train("broken", 11)
    assert_same(whole, train("broken"))


SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from utils.config import Config
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table
config = Config.make("tiny", **json.loads(sys.argv[1]))
fit_fold(config, add_folds(load_table(config), config))
"""


def killed_at_random(options, states, generator, kills):
    """Train in processes of their own, each killed with SIGKILL at a random moment after it has saved a state.

    Returns:
        How many were killed, and what the last one said, which was left to end (if it did not end sooner).
    """
    for killed in range(kills + 1):
        before = checkpoint.latest(states)
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(options)], cwd=runtime.ROOT,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        if killed < kills:
            while process.poll() is None and checkpoint.latest(states) == before:
                time.sleep(0.01)
            time.sleep(generator.uniform(0.0, 0.3))
            process.kill()
        said = process.communicate()[0]
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, said
            return killed, said


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full), pytest.param(2, marks=pytest.mark.full)])
def test_sigkill_at_random_moments_changes_nothing(seed, tiny, tiny_table, tmp_path):
    options = {**OPTIONS, "precision": "fp32", "encoder": encoder_source("tiny"), "output_dir": str(tmp_path / "out"),
               "save_every": 1, "epochs": 12, "swa_start": 4.0}  # fmt: skip
    whole = fit_fold(tiny(**{**options, "run": "whole", "save_every": 0}), tiny_table)
    folder = tmp_path / "out" / "killed" / "fold-0"
    options["run"] = "killed"
    killed, said = killed_at_random(options, folder / "state", random.Random(seed), kills=4 if seed == 0 else 12)
    assert killed >= 3
    assert "going on from step" in said
    assert_same(whole, folder)


@pytest.mark.parametrize("moment", ["model.safetensors", "rest.pt", "manifest", "renaming", "pruning"])
def test_killed_while_a_state_is_written_the_one_before_is_whole(moment, whole, tiny, tiny_table, monkeypatch):
    config = tiny(run="broken", save_every=1, **OPTIONS)

    def break_off(target, name, when):
        real = getattr(target, name)

        def fail(*arguments, **options):
            if (fold_state := runtime.workspace() / "output" / "broken" / "fold-0" / "state").exists() and any(
                fold_state.glob("step-00000008")
            ):
                if when == "after":
                    real(*arguments, **options)
                raise Stop
            return real(*arguments, **options)

        monkeypatch.setattr(target, name, fail)
        return lambda: monkeypatch.setattr(target, name, real)

    go_on = {
        "model.safetensors": lambda: break_off(checkpoint, "save_file", "after"),
        "rest.pt": lambda: break_off(checkpoint.torch, "save", "after"),
        "manifest": lambda: break_off(checkpoint, "_seal", "before"),
        "renaming": lambda: break_off(os, "replace", "before"),
        "pruning": lambda: break_off(checkpoint, "prune", "before"),
    }[moment]()
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    go_on()
    newest = checkpoint.latest(whole.parent.parent / "broken" / "fold-0" / "state")
    assert checkpoint.read_manifest(newest)["step"] == 8
    assert_same(whole, fit_fold(config, tiny_table))


# --- a new session -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["fold", "run", "output", "above"])
def test_another_session_goes_on_from_a_mounted_output(given, whole, tiny, tiny_table, monkeypatch, tmp_path):
    go_on = stop_after(9, monkeypatch)
    config = tiny(run="kaggle", save_every=1, **OPTIONS)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    go_on()
    output = tmp_path / "output"
    mounted = tmp_path / "input" / "kernel"
    shutil.copytree(output / "kaggle", mounted / "output" / "kaggle")
    shutil.rmtree(output / "kaggle")
    before = {path: path.stat().st_mtime_ns for path in mounted.rglob("*")}
    source = {"fold": "output/kaggle/fold-0", "run": "output/kaggle", "output": "output", "above": ""}[given]
    folder = fit_fold(tiny(run="kaggle", resume_from=str(mounted / source), **OPTIONS), tiny_table)
    assert_same(whole, folder)
    assert before == {path: path.stat().st_mtime_ns for path in mounted.rglob("*")}, "nothing is written there"


def test_a_finished_fold_is_fetched_and_not_trained_again(tiny, tiny_table, tmp_path, capsys):
    folder = fit_fold(tiny(), tiny_table)
    shutil.copytree(tmp_path / "output", tmp_path / "mounted")
    again = fit_fold(tiny(num_workers=1, save_every=5), tiny_table)
    assert again == folder
    assert "Fold 0 is finished already, in output/tiny/fold-0; retrain=True trains it anew." in capsys.readouterr().out
    shutil.rmtree(folder)
    fetched = fit_fold(tiny(resume_from=str(tmp_path / "mounted")), tiny_table)
    assert_same(fetched, tmp_path / "mounted" / "tiny" / "fold-0")
    with pytest.raises(InputError, match=r"resume_from='/nowhere' holds no fold of run 'tiny'; check the path"):
        fit_fold(tiny(resume_from="/nowhere", fold=1), tiny_table)
    other = fit_fold(tiny(resume_from=str(tmp_path / "mounted"), fold=1), tiny_table)
    assert artifacts.read_result(other)["fold"] == 1, "the earlier session did not come to this one"


def test_a_finished_fold_that_does_not_fit_the_disk(tiny, tiny_table, tmp_path, monkeypatch):
    mounted = shutil.move(fit_fold(tiny(), tiny_table), tmp_path / "mounted" / "fold-0")
    copy = shutil.copytree

    def full(*arguments, **options):
        copy(*arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    config = tiny(resume_from=str(tmp_path / "mounted"))
    with pytest.raises(InputError, match=r"^output/tiny/fold-0 cannot be written \(.*No space left on device\)"):
        fit_fold(config, tiny_table)
    assert not artifacts.fold_folder(config).exists()
    assert (mounted / "result.json").exists()
    monkeypatch.setattr(shutil, "copytree", copy)
    assert artifacts.is_finished(fit_fold(config, tiny_table))
    assert [path.name for path in artifacts.fold_folder(config).parent.iterdir() if path.is_dir()] == ["fold-0"]
