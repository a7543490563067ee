"""Resuming: training that was killed at any moment ends as if it had not been interrupted."""

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

# --- bit-identical results ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5, 6, 7, 13, 23, 24])
def test_interrupted_training_ends_bit_identically(step, whole, tiny, tiny_table, monkeypatch, capsys):
    """After step 1 there is no state yet. Step 6 ends an epoch. Step 24, the last, is not evaluated."""
    config = tiny(run="interrupted", save_every=1, **OPTIONS)
    restore = stop_after(step, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    restore()
    random.seed(99)  # the next session begins with other random states
    np.random.seed(99)
    capsys.readouterr()
    folder = fit_fold(config, tiny_table)
    output = capsys.readouterr().out
    assert (f"Fold 0: going on from step {step - 1} of 24, fp32 on " in output) == (step > 1), output
    assert_same(whole, folder)
    assert not (folder / "state").exists(), "a finished fold has kept its state"


@pytest.mark.parametrize(
    "options",
    [
        {"averaging": "ema", "optimizer": "adamw"},
        {"averaging": "none", "schedule": "linear", "loss": "rmse"},
        {"swa_flat_lr": 1e-3, "swa_every": 0},
        {"averaging": "ema", "optimizer": "sgd", "schedule": "one_cycle"},
        {"averaging": "none", "optimizer": "adam", "schedule": "plateau", "lr_patience": 1},
    ],
    ids=str,
)
def test_other_recipes_resume_too(options, tiny, tiny_table, monkeypatch):
    options = {**OPTIONS, **options}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    config = tiny(run="interrupted", save_every=3, **options)
    for step in (8, 15):
        restore = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
        restore()
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize("level", ["apex-O1", "apex-O2"])
def test_apex_resumes_with_its_master_weights_and_loss_scale(level, tiny, tiny_table, monkeypatch):
    def train(run, step=None):
        apex.install(monkeypatch).growth_interval = 4
        monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice(level, "asked for"))
        restore = stop_after(step, monkeypatch)
        try:
            return fit_fold(tiny(run=run, save_every=1, **OPTIONS), tiny_table)
        finally:
            restore()

    whole = train("whole")
    scales = pd.read_csv(whole / "history.csv")["loss_scale"]
    assert scales.nunique() > 3, "the loss scale has to change, or resuming it would not be tested"
    with pytest.raises(Stop):
        train("interrupted", 11)
    assert_same(whole, train("interrupted"))


TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
from utils.config import Config
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table
config = Config.make("tiny", **json.loads(sys.argv[1]))
fit_fold(config, add_folds(load_table(config), config))
"""


def train_and_kill(options, states, generator, kills):
    """Train in subprocesses, killing each with SIGKILL at a random moment after it has saved a state.

    The one after ``kills`` killed ones is left to finish, unless an earlier one finishes before it is killed.

    Returns:
        How many were killed, and what the one that finished printed.
    """
    command = [sys.executable, "-c", TRAIN, json.dumps(options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    for killed in range(kills + 1):
        before = checkpoint.latest(states)
        process = subprocess.Popen(command, cwd=runtime.ROOT, **pipes)
        if killed < kills:
            while process.poll() is None and checkpoint.latest(states) == before:
                time.sleep(0.01)
            time.sleep(generator.uniform(0.0, 0.3))
            process.kill()
        output = process.communicate()[0]
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, output
            return killed, output


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sigkill_at_random_moments_changes_nothing(seed, tiny, tiny_table, tmp_path):
    options = {
        **OPTIONS,
        "precision": "fp32",
        "encoder": encoder_source("tiny"),
        "output_dir": str(tmp_path / "out"),
        "save_every": 1,
        "epochs": 12,
        "swa_start": 4.0,
    }
    whole = fit_fold(tiny(**{**options, "run": "whole", "save_every": 0}), tiny_table)
    folder = tmp_path / "out" / "killed" / "fold-0"
    options["run"] = "killed"
    generator, kills = random.Random(seed), 4 if seed == 0 else 12
    killed, output = train_and_kill(options, folder / "state", generator, kills)
    assert killed >= 3
    assert "going on from step" in output
    assert_same(whole, folder)
    hidden = {path.name for path in folder.parent.rglob(".*")}
    assert hidden == {".fold-0.lock"}, "killed runs have left litter"


@pytest.mark.parametrize("moment", ["model.safetensors", "rest.pt", "manifest", "renaming", "pruning"])
def test_killed_while_a_state_is_written_the_earlier_one_is_whole(
    moment, whole, tiny, tiny_table, monkeypatch
):
    config = tiny(run="interrupted", save_every=1, **OPTIONS)
    states = artifacts.fold_folder(config) / "state"
    target, name = {
        "model.safetensors": (checkpoint, "save_file"),
        "rest.pt": (checkpoint.torch, "save"),
        "manifest": (checkpoint.seal, "seal"),
        "renaming": (os, "replace"),
        "pruning": (checkpoint, "prune"),
    }[moment]
    function = getattr(target, name)

    def stop(*arguments, **options):
        if not (states / "step-00000008").exists():
            return function(*arguments, **options)
        if moment in ("model.safetensors", "rest.pt"):
            function(*arguments, **options)
        raise Stop

    monkeypatch.setattr(target, name, stop)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    monkeypatch.setattr(target, name, function)
    assert checkpoint.seal.verify(checkpoint.latest(states))["step"] == 8
    assert_same(whole, fit_fold(config, tiny_table))


# --- a new session -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["output/kaggle/fold-0", "output/kaggle", "output", ""],
    ids=["fold", "run", "output", "parent"],
)
def test_another_session_resumes_from_a_mounted_output(
    source, whole, tiny, tiny_table, monkeypatch, tmp_path
):
    restore = stop_after(9, monkeypatch)
    config = tiny(run="kaggle", save_every=1, **OPTIONS)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    restore()
    output = tmp_path / "output"
    mounted = tmp_path / "input" / "kernel"
    shutil.copytree(output / "kaggle", mounted / "output" / "kaggle")
    shutil.rmtree(output / "kaggle")
    before = {path: path.stat().st_mtime_ns for path in mounted.rglob("*")}
    folder = fit_fold(tiny(run="kaggle", resume_from=str(mounted / source), **OPTIONS), tiny_table)
    assert_same(whole, folder)
    after = {path: path.stat().st_mtime_ns for path in mounted.rglob("*")}
    assert after == before, "the mounted folder was written to"


def test_a_finished_fold_is_copied_and_not_trained_again(tiny, tiny_table, tmp_path, capsys):
    folder = fit_fold(tiny(), tiny_table)
    shutil.copytree(tmp_path / "output", tmp_path / "mounted")
    again = fit_fold(tiny(num_workers=1, save_every=5), tiny_table)
    assert again == folder
    output = capsys.readouterr().out
    assert "Fold 0 is finished already, in output/tiny/fold-0; retrain=True trains it anew." in output
    shutil.rmtree(folder)
    copied = fit_fold(tiny(resume_from=str(tmp_path / "mounted")), tiny_table)
    assert_same(copied, tmp_path / "mounted" / "tiny" / "fold-0")
    with pytest.raises(
        InputError, match=r"resume_from='/nowhere' holds no fold of run 'tiny'; check the path"
    ):
        fit_fold(tiny(resume_from="/nowhere", fold=1), tiny_table)
    other = fit_fold(tiny(resume_from=str(tmp_path / "mounted"), fold=1), tiny_table)
    assert artifacts.read_result(other)["fold"] == 1, (
        "the fold that the earlier session lacked was not trained"
    )


def test_a_finished_fold_that_does_not_fit_on_the_disk_is_reported(tiny, tiny_table, tmp_path, monkeypatch):
    mounted = shutil.move(fit_fold(tiny(), tiny_table), tmp_path / "mounted" / "fold-0")
    copytree = shutil.copytree

    def copy_until_full(*arguments, **options):
        copytree(*arguments, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", copy_until_full)
    config = tiny(resume_from=str(tmp_path / "mounted"))
    with pytest.raises(
        InputError, match=r"^output/tiny/fold-0 cannot be written \(.*No space left on device\)"
    ):
        fit_fold(config, tiny_table)
    assert not artifacts.fold_folder(config).exists()
    assert (mounted / "result.json").exists()
    monkeypatch.setattr(shutil, "copytree", copytree)
    folder = fit_fold(config, tiny_table)
    assert artifacts.is_finished(folder)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["fold-0"]
