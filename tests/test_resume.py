"""Resuming: killed at any moment, a training ends as if it had not been; everything else is refused in one sentence."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.stand_ins import apex
from utils import checkpoint, data, faults, fold, precision, runtime, state
from utils.config import InputError
from utils.fold import fit_fold
from utils.model import encoder_source
from utils.train import prepare

OPTIONS = {"epochs": 4, "swa_start": 1.0, "swa_every": 2, "eval_every": 2, "batch_size": 4, "accumulation_steps": 2,
           "encoder_dropout": 0.1, "optimizer": "madgrad", "lr": 1e-3}  # fmt: skip


class Stop(Exception):  # noqa: N818 - it is no error
    """What the tests interrupt a training with."""


def stop_after(step, monkeypatch):
    """Make the training break off after this optimizer step, before anything is saved for it."""
    look = fold.refuse_divergence

    def stop(training):
        if training.step == step:
            raise Stop
        look(training)

    monkeypatch.setattr(fold, "refuse_divergence", stop)
    return lambda: monkeypatch.setattr(fold, "refuse_divergence", look)


def contents(folder):
    """What a fold has come to, without timings: weights, history and predictions, to the bit."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors" or name == "predictions.csv":
            found[name] = path.read_bytes()
    found["history"] = pd.read_csv(folder / "history.csv").drop(columns=["seconds", "samples_per_second"])
    result = checkpoint.read_result(folder)
    found["result"] = {name: result[name] for name in result if name not in ("seconds", "samples_per_second")}
    return found


def assert_same(a, b):
    a, b = contents(a), contents(b)
    assert set(a) == set(b)
    for name, value in a.items():
        if name == "history":
            pd.testing.assert_frame_equal(value, b[name], check_exact=True)
        else:
            assert value == b[name], name


@pytest.fixture
def whole(tiny, tiny_table):
    return fit_fold(tiny(run="whole", **OPTIONS), tiny_table)


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
from utils.data import add_folds, load_table
from utils.fold import fit_fold
config = Config.make("tiny", **json.loads(sys.argv[1]))
fit_fold(config, add_folds(load_table(config), config))
"""


def killed_at_random(options, states, generator, kills):
    """Train in processes of their own, each killed with SIGKILL at a random moment after it has saved a state.

    Returns:
        How many were killed, and what the last one said, which was left to end (if it did not end sooner).
    """
    for killed in range(kills + 1):
        before = state.newest(states)
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(options)], cwd=runtime.ROOT,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
        if killed < kills:
            while process.poll() is None and state.newest(states) == before:
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
        "model.safetensors": lambda: break_off(state, "save_file", "after"),
        "rest.pt": lambda: break_off(state.torch, "save", "after"),
        "manifest": lambda: break_off(state, "_seal", "before"),
        "renaming": lambda: break_off(state.os, "replace", "before"),
        "pruning": lambda: break_off(state, "prune", "before"),
    }[moment]()
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    go_on()
    newest = state.newest(whole.parent.parent / "broken" / "fold-0" / "state")
    assert state.read_manifest(newest)["step"] == 8
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
    assert checkpoint.read_result(other)["fold"] == 1, "the earlier session did not come to this one"


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
    assert not checkpoint.fold_folder(config).exists()
    assert (mounted / "result.json").exists()
    monkeypatch.setattr(shutil, "copytree", copy)
    assert checkpoint.is_finished(fit_fold(config, tiny_table))
    assert [path.name for path in checkpoint.fold_folder(config).parent.iterdir() if path.is_dir()] == ["fold-0"]


def test_the_time_limit_saves_stops_and_leaves_what_there_is(whole, tiny, tiny_table, capsys):
    options = {"run": "limited", **OPTIONS}
    folder = fit_fold(tiny(time_limit_hours=1e-9, **options), tiny_table)
    assert "The time limit is reached after step 1 of 24; the state is saved, run again" in capsys.readouterr().out
    assert not checkpoint.is_finished(folder)
    assert (folder / "predictions.csv").is_file()
    assert checkpoint.read_result(folder)["stopped_by"] == "time limit"
    assert_same(whole, fit_fold(tiny(**options), tiny_table))


# --- what is not the same training -------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 2e-3}, r"lr \(was 0.001, is 0.002\)"),
        ({"seed": 5, "epochs": 5}, r"seed \(was 2021, is 5\), epochs \(was 4.0, is 5.0\);"),
        ({"target_columns": "standard_error"}, r"target_columns \(was \['target'\], is \('standard_error',\)\)"),
        ("data", "holds another training: the data;"),
    ],
)
def test_a_changed_config_or_changed_data_is_refused_by_name(finished, changes, words, tiny, tiny_table, monkeypatch):
    config = tiny(save_every=1, **OPTIONS)
    go_on = stop_after(0 if finished else 9, monkeypatch)
    if finished:
        fit_fold(config, tiny_table)
    else:
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
    go_on()
    table = tiny_table
    if changes == "data":
        changes, table = {}, tiny_table.assign(excerpt=tiny_table["excerpt"] + " more")
    with pytest.raises(InputError, match=words) as caught:
        fit_fold(tiny(**{**OPTIONS, **changes}), table)
    assert "set run to train beside it, or retrain=True to replace it." in str(caught.value)
    assert "\n" not in str(caught.value)
    fit_fold(tiny(retrain=True, **{**OPTIONS, **changes}), table)


def test_another_precision_is_refused(tiny, tiny_table, monkeypatch):
    go_on = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(precision="auto", save_every=1, **OPTIONS), tiny_table)
    go_on()
    here = precision.choose("auto").name
    other = "bf16" if here == "fp32" else "fp32"
    monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice(other, "another machine"))
    with pytest.raises(InputError, match=rf"precision \(was {here}, here {other}\)"):
        fit_fold(tiny(precision="auto", **OPTIONS), tiny_table)


@pytest.fixture
def saved(tiny, tiny_table, monkeypatch):
    """The state of a training that broke off."""
    go_on = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(save_every=1, **OPTIONS), tiny_table)
    go_on()
    return state.newest(checkpoint.fold_folder(tiny()) / "state")


@pytest.mark.parametrize("name", ["model.safetensors", "average.safetensors", "rest.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut short", "one byte", "missing"])
def test_a_damaged_state_is_refused_by_name(name, damage, saved, tiny, tiny_table):
    path = saved / name
    content = bytearray(path.read_bytes())
    generator = random.Random(7)
    for _ in range(5 if damage == "one byte" else 1):
        altered = content.copy()
        if damage == "cut short":
            altered = altered[: len(altered) // 2]
        elif damage == "one byte":
            place = generator.randrange(len(altered))
            altered[place] ^= 1 << generator.randrange(8)
        path.write_bytes(altered)
        if damage == "missing":
            path.unlink()
        with pytest.raises(InputError, match=rf"{name} (is|has) .*(damaged|altered)") as caught:
            fit_fold(tiny(**OPTIONS), tiny_table)
        assert "set retrain=True to start anew" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_state_of_another_version_is_refused(saved, tiny, tiny_table):
    sealed = json.loads((saved / "manifest.json").read_text())
    sealed["content"]["format"] = 99
    sealed["sha256"] = state._seal(sealed["content"])
    (saved / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(InputError, match=r"manifest.json is of format 99, this version reads 2"):
        fit_fold(tiny(**OPTIONS), tiny_table)


class Malice:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICE"],)


def test_no_code_comes_out_of_a_state(saved, tiny, tiny_table, tmp_path, monkeypatch):
    """A state that somebody else made, seals and all: what it would run is not run."""
    monkeypatch.setenv("MALICE", str(tmp_path / "malice"))
    torch.save({"optimizer": Malice()}, saved / "rest.pt")
    sealed = json.loads((saved / "manifest.json").read_text())
    sealed["content"]["files"]["rest.pt"] = state.digest(saved / "rest.pt")
    sealed["sha256"] = state._seal(sealed["content"])
    (saved / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(InputError, match=r"rest.pt .*cannot be read.*retrain=True"):
        fit_fold(tiny(**OPTIONS), tiny_table)
    assert not (tmp_path / "malice").exists()


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_full_disk_while_saving_leaves_the_earlier_state(whole, tiny, tiny_table, monkeypatch):
    real, calls = state.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 11:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(state, "save_file", full)
    config = tiny(run="full", save_every=1, **OPTIONS)
    with pytest.raises(InputError, match=r"could not be saved in output/full/fold-0/state \(No space left on device\); "
                       r"the state of step-0000000\d is still there; free some space and run again"):  # fmt: skip
        fit_fold(config, tiny_table)
    monkeypatch.undo()
    monkeypatch.setattr(runtime, "workspace", lambda: whole.parents[2])
    assert len(list((whole.parent.parent / "full" / "fold-0" / "state").iterdir())) == 1, "and nothing half-written"
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_next_run_goes_on(number, whole, tiny, tiny_table, monkeypatch):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    look = fold.refuse_divergence

    def send(training):
        if training.step == 9:
            os.kill(os.getpid(), number)
        look(training)

    monkeypatch.setattr(fold, "refuse_divergence", send)
    config = tiny(run="signalled", **OPTIONS)
    with pytest.raises(InputError, match=f"stopped by {number.name} after step 9; the state is saved, run again"):
        fit_fold(config, tiny_table)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.setattr(fold, "refuse_divergence", look)
    assert_same(whole, fit_fold(config, tiny_table))


def test_what_a_time_limit_leaves_belongs_together(tiny, tiny_table, monkeypatch):
    """Stopped between two evaluations: the predictions are those of the weights beside them."""
    clock = itertools.chain(range(8), itertools.count(7200))
    monkeypatch.setattr(fold, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = tiny(time_limit_hours=1, **{**OPTIONS, "eval_every": 3})
    folder = fit_fold(config, tiny_table)
    result = checkpoint.read_result(folder)
    assert result["stopped_by"] == "time limit"
    assert result["steps"] % 3
    model, tokenizer = checkpoint.load_model(folder, "last")
    rows = tiny_table[tiny_table["fold"] == 0]
    with torch.no_grad():
        scores = [
            float(model(**tokenizer(text, return_tensors="pt", truncation=True)).logits) for text in rows["excerpt"]
        ]
    np.testing.assert_allclose(pd.read_csv(folder / "predictions.csv")["last"], scores, atol=1e-5)


def test_a_signal_at_the_last_step_changes_nothing(whole, tiny, tiny_table, monkeypatch):
    look = fold.refuse_divergence

    def send(training):
        if training.step == 24:
            os.kill(os.getpid(), signal.SIGTERM)
        look(training)

    monkeypatch.setattr(fold, "refuse_divergence", send)
    assert_same(whole, fit_fold(tiny(run="late", time_limit_hours=1, **OPTIONS), tiny_table))


def test_killed_while_the_results_are_written(whole, tiny, tiny_table, monkeypatch, capsys):
    real = fold.finish

    def killed(*arguments):
        raise Stop

    monkeypatch.setattr(fold, "finish", killed)
    with pytest.raises(Stop):
        fit_fold(tiny(run="late", **OPTIONS), tiny_table)
    monkeypatch.setattr(fold, "finish", real)
    folder = fit_fold(tiny(run="late", **OPTIONS), tiny_table)
    assert "going on from step 24 of 24" in capsys.readouterr().out
    assert_same(whole, folder)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_its_step_and_texts(poison, tiny, tiny_table, monkeypatch):
    texts_of_step_5 = []
    real = data.make_loader

    def poisoned(texts, batches, *rest):
        for number, (inputs, labels) in enumerate(real(texts, batches, *rest)):
            if batches is not None and len(texts.ids) > 20 and number == 9 and not texts_of_step_5:
                texts_of_step_5.extend(texts.ids[row] for row in [*batches[8], *batches[9]])
                labels = labels * poison
            yield inputs, labels

    monkeypatch.setattr(data, "make_loader", poisoned)
    with pytest.raises(InputError, match=r"the loss of step 5 is (nan|inf)") as caught:
        fit_fold(tiny(run="poisoned", **OPTIONS), tiny_table)
    named = re.search(r"on the texts (.*); lower lr", str(caught.value))[1]
    assert named == ", ".join(texts_of_step_5)
    newest = state.newest(runtime.workspace() / "output" / "poisoned" / "fold-0" / "state")
    assert state.read_manifest(newest)["step"] == 4, "the last good one"


@pytest.mark.parametrize("file", ["best", "history.csv", "last", "predictions.csv", "result.json"])
def test_a_full_disk_at_any_other_file(file, whole, tiny, tiny_table, monkeypatch):
    full = OSError(28, "No space left on device")
    model, text = checkpoint.save_model, checkpoint._write

    def save_model(config, weights, tokenizer, target):
        if target.name == file:
            raise full
        model(config, weights, tokenizer, target)

    def write(path, content):
        if path.name == file:
            raise full
        text(path, content)

    monkeypatch.setattr(checkpoint, "save_model", save_model)
    monkeypatch.setattr(checkpoint, "_write", write)
    config = tiny(run="full", save_every=1, **OPTIONS)
    with pytest.raises(InputError, match=r"output/full/fold-0 cannot be written \(No space left on device\); what was "
                       r"saved in output/full/fold-0 is kept: free some space, run again"):  # fmt: skip
        fit_fold(config, tiny_table)
    monkeypatch.setattr(checkpoint, "save_model", model)
    monkeypatch.setattr(checkpoint, "_write", text)
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize("where", [".", "output", "output/locked"])
def test_an_output_folder_that_is_read_only(where, tiny, tiny_table, workspace):
    """As a user without rights, in a process of its own: root may write anywhere."""
    for file in Path(encoder_source("tiny")).iterdir():
        file.chmod(0o644)
    (workspace / "output" / "locked").mkdir()
    for folder in (workspace, *(parent for parent in workspace.parents if "pytest-of" in str(parent))):
        folder.chmod(0o755)
    (workspace / where).chmod(0o555)
    config = tiny(run="locked", output_dir="elsewhere/output" if where == "." else "output")
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def train():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            fit_fold(config, tiny_table)
        except Exception as error:
            sender.send(repr(error))

    process = multiprocessing.get_context("fork").Process(target=train)
    process.start()
    process.join()
    assert receiver.poll(), "it found no fault"
    said = receiver.recv()
    assert re.fullmatch(r"InputError\(.*/locked/fold-0 cannot be written \(Permission denied\); set output_dir.*", said)
    assert not (workspace / "output" / "locked" / "fold-0").exists()


def test_a_disk_that_is_too_small_is_said_before_training(tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(faults.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(InputError, match=r"takes up to \d.\d GiB in output/tiny/fold-0, and 0.0 GiB are free"):
        fit_fold(tiny(), tiny_table)


@pytest.mark.parametrize("optimizer", ["adamw", "madgrad"])
def test_the_disk_that_a_fold_takes_is_no_more_than_was_said(optimizer, tiny, tiny_table, monkeypatch):
    seen, real = [], state.prune
    folder = checkpoint.fold_folder(tiny())
    monkeypatch.setattr(
        state,
        "prune",
        lambda *a, **k: (
            seen.append(
                sum(path.stat().st_size for path in folder.rglob("*.*") if path.suffix in (".safetensors", ".pt"))
            ),
            real(*a, **k),
        ),
    )
    config = tiny(**{**OPTIONS, "optimizer": optimizer})
    training = prepare(config, tiny_table, 0)
    fit_fold(config, tiny_table)
    overhead = 200_000  # names, schedules and random states, which do not grow with the model
    assert 0.3 * faults.disk_needed(training) < max(seen) < faults.disk_needed(training) + overhead


def test_a_loader_process_that_dies(whole, tiny, tiny_table, monkeypatch):
    config = tiny(run="orphan", save_every=1, **OPTIONS)
    real = data.make_loader

    def deadly(texts, batches, tokenizer, num_workers=0):
        loader = real(texts, batches, tokenizer, num_workers)
        collate = loader.collate_fn

        def die(rows):
            if len(texts.ids) > 20 and rows == batches[-1]:
                os._exit(3)
            return collate(rows)

        loader.collate_fn = die
        return loader

    monkeypatch.setattr(data, "make_loader", deadly)
    with pytest.raises(InputError, match=r"a data-loader process died; what was saved in "
                       r"output/orphan/fold-0 is kept: run again, with num_workers=0"):  # fmt: skip
        fit_fold(dataclasses.replace(config, num_workers=1), tiny_table)
    monkeypatch.setattr(data, "make_loader", real)
    assert_same(whole, fit_fold(config, tiny_table))


def test_two_runs_on_one_folder(tiny, tiny_table):
    folder = checkpoint.fold_folder(tiny())
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pathlib import Path; from utils.faults import only_run\n"
         "with only_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)", folder],
        cwd=runtime.ROOT, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(
        InputError, match=r"another run is training output/tiny/fold-0; wait for it, or set another run"
    ):
        fit_fold(tiny(), tiny_table)
    assert not folder.exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert checkpoint.is_finished(fit_fold(tiny(), tiny_table)), "the system lets go of a killed run's folder"


def test_a_clock_that_jumps_is_no_matter(whole, tiny, tiny_table, monkeypatch):
    jumps = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(time, "time", lambda: 1.8e9 - next(jumps))
    folder = fit_fold(tiny(run="jumping", time_limit_hours=1, save_minutes=1, **OPTIONS), tiny_table)
    assert_same(whole, folder)
    assert (pd.read_csv(folder / "history.csv")["seconds"].diff().dropna() >= 0).all()


def test_save_minutes_saves_between_evaluations(tiny, tiny_table, monkeypatch):
    saves = []
    real = fold.save_state
    monkeypatch.setattr(fold, "save_state", lambda t, *rest: (saves.append(t.step), real(t, *rest)))
    fit_fold(tiny(run="a", save_minutes=1e-9, eval_every=100, epochs=2), tiny_table)
    fit_fold(tiny(run="b", eval_every=2, epochs=2), tiny_table)
    fit_fold(tiny(run="c", save_every=4, eval_every=100, epochs=2), tiny_table)
    assert saves == [1, 2, 3, 4, 5, 6, 2, 4, 6, 4, 6]


# --- early stopping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["raw", "averaged"])
def test_early_stopping_keeps_the_average(on, tiny, tiny_table, capsys):
    options = {**OPTIONS, "epochs": 40, "lr": 3e-2, "patience": 3, "patience_on": on}
    folder = fit_fold(tiny(**options), tiny_table)
    column = "rmse" if on == "raw" else "swa_rmse"
    scores = pd.read_csv(folder / "history.csv")[column].dropna().to_numpy()
    assert len(scores) - 1 - scores.argmin() == 3
    assert all(len(scores[:n]) - 1 - scores[:n].argmin() < 3 for n in range(1, len(scores)))
    assert "Stopped early: no better score in 3 evaluations." in capsys.readouterr().out
    result = checkpoint.read_result(folder)
    assert result["stopped_by"] == "patience"
    assert checkpoint.is_finished(folder)
    assert result["n_averaged"] > 0
    assert (folder / "swa" / "model.safetensors").is_file()


@pytest.mark.parametrize("on", ["raw", "averaged"])
def test_patience_survives_a_kill(on, tiny, tiny_table, monkeypatch):
    """A run that would stop early stops at the same step, wherever it broke off: also after the deciding evaluation."""
    options = {**OPTIONS, "epochs": 40, "lr": 3e-2, "patience": 3, "patience_on": on}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    last = checkpoint.read_result(whole)["steps"]
    for step in (last - 3, last - 1, last):
        config = tiny(run=f"broken-{step}", **options)
        go_on = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
        go_on()
        folder = fit_fold(config, tiny_table)
        assert checkpoint.read_result(folder)["stopped_by"] == "patience"
        assert_same(folder, whole)
