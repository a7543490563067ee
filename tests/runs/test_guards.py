"""Full disks, dead processes and diverged losses end in one sentence, and saved files are kept."""

import dataclasses
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.runs.helpers import OPTIONS, Stop, assert_same, call_at
from utils.config import InputError
from utils.data import tokens
from utils.machine import files, runtime
from utils.machine.encoders import encoder_source
from utils.runs import artifacts, checkpoint, fold, guards, seal
from utils.runs.fold import fit_fold
from utils.training.setup import prepare


def test_killed_while_the_results_are_written(whole, tiny, tiny_table, monkeypatch, capsys):
    finish = fold.finish

    def stop(*arguments):
        raise Stop

    monkeypatch.setattr(fold, "finish", stop)
    with pytest.raises(Stop):
        fit_fold(tiny(run="late", save_every=1, **OPTIONS), tiny_table)
    monkeypatch.setattr(fold, "finish", finish)
    folder = fit_fold(tiny(run="late", save_every=1, **OPTIONS), tiny_table)
    assert "going on from step 24 of 24" in capsys.readouterr().out
    assert_same(whole, folder)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_step_and_texts(poison, tiny, tiny_table, monkeypatch):
    ids_of_step_5 = []
    make_loader = tokens.make_loader

    def poisoned(examples, batches, *rest):
        for number, batch in enumerate(make_loader(examples, batches, *rest)):
            if len(examples) > 20 and number == 9 and not ids_of_step_5:
                ids_of_step_5.extend(examples.ids[row] for row in [*batches[8], *batches[9]])
                batch = batch._replace(targets=batch.targets * poison)
            yield batch

    monkeypatch.setattr(tokens, "make_loader", poisoned)
    with pytest.raises(InputError, match=r"the loss of step 5 is (nan|inf)") as caught:
        fit_fold(tiny(run="poisoned", save_every=1, **OPTIONS), tiny_table)
    named = re.search(r"on the texts (.*); lower lr", str(caught.value))[1]
    assert named == ", ".join(ids_of_step_5)
    newest = checkpoint.latest(runtime.workspace() / "output" / "poisoned" / "fold-0" / "state")
    assert seal.read_manifest(newest)["step"] == 4, "not the last good state"


@pytest.mark.parametrize("file", ["best", "history.csv", "last", "predictions.csv", "result.json"])
def test_a_full_disk_while_writing_any_other_file(file, whole, tiny, tiny_table, monkeypatch):
    full = OSError(28, "No space left on device")
    save_model, atomic_file = artifacts.save_model, files.atomic_file

    def save_unless_full(config, weights, tokenizer, folder):
        if folder.name == file:
            raise full
        save_model(config, weights, tokenizer, folder)

    def write_unless_full(path):
        if path.name == file:
            raise full
        return atomic_file(path)

    monkeypatch.setattr(artifacts, "save_model", save_unless_full)
    monkeypatch.setattr(files, "atomic_file", write_unless_full)
    config = tiny(run="full", save_every=1, **OPTIONS)
    words = (
        r"output/full/fold-0 cannot be written \(No space left on device\); what was saved in "
        r"output/full/fold-0 is kept: free some space, run again"
    )
    with pytest.raises(InputError, match=words):
        fit_fold(config, tiny_table)
    monkeypatch.setattr(artifacts, "save_model", save_model)
    monkeypatch.setattr(files, "atomic_file", atomic_file)
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BrokenPipeError(32, "Broken pipe"), "another process of this fold is gone (Broken pipe)"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "signal: Killed.); what was",
        ),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nTraceback\nOSError: [Errno 28] no"
            ),
            "a data-loader process died (OSError: [Errno 28] no); what was saved in here is kept",
        ),
        (MemoryError(), "memory ran out (MemoryError); what was saved in here is kept"),
        (OSError(12, "Cannot allocate memory"), "memory ran out (Cannot allocate memory)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "memory ran out (CUDA out of memory. Tried"),
        (
            RuntimeError("[../gloo] Connection closed by peer [127.0.0.1]:1"),
            "another process of this fold is gone",
        ),
        (
            Exception("No space left on device (os error 28)"),
            "here cannot be written (No space left on device",
        ),
        (OSError(122, "Disk quota exceeded"), "here cannot be written (Disk quota exceeded)"),
        (
            FileNotFoundError(2, "No such file or directory", "/data/train.csv"),
            "/data/train.csv cannot be used (No such file or directory); what was saved in here is kept",
        ),
        (OSError(24, "Too many open files"), "a file of here cannot be used (Too many open files)"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y cannot be used (Permission denied)"),
        (Exception("a fault of the code"), None),
        (ValueError("a fault of the code"), None),
        (RuntimeError("a fault of the code"), None),
    ],
    ids=repr,
)
def test_what_goes_wrong_is_told_with_its_cause_and_a_fault_of_the_code_is_not_hidden(error, words):
    cause = guards.find_cause(error, "here", "run again")
    assert (cause is None) if words is None else (words in cause and "\n" not in cause)


def test_a_pipe_that_breaks_is_a_loaders_only_where_there_are_loaders():
    cause = guards.find_cause(BrokenPipeError(32, "Broken pipe"), "here", "run again without retrain", 2)
    assert cause.startswith("a data-loader process died (Broken pipe)")
    assert "run again without retrain, or set num_workers=0" in cause


def test_memory_that_runs_out_on_the_cpu_is_told(whole, tiny, tiny_table, monkeypatch):
    restore = call_at(9, lambda: torch.zeros(2**55), monkeypatch)
    config = tiny(run="large", save_every=1, **OPTIONS)
    with pytest.raises(
        InputError, match=r"memory ran out \(.*you tried to allocate.*lower batch_size"
    ) as caught:
        fit_fold(config, tiny_table)
    assert "cannot be written" not in str(caught.value)
    restore()
    assert_same(whole, fit_fold(config, tiny_table))


LIMITS = [2_000, 60_000, 300_000, 500_000, 600_000]


@pytest.mark.parametrize(
    "limit", [pytest.param(n, marks=pytest.mark.full) for n in LIMITS if n != 60_000] + [60_000]
)
def test_files_that_may_not_grow_end_in_a_sentence_whoever_writes_them(limit, tiny, tiny_table):
    """A real limit of the system, which safetensors, tokenizers, torch and Python report each in its way."""
    config = tiny(save_every=1)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def train():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            fit_fold(config, tiny_table)
        except Exception as error:
            sender.send(repr(error))

    encoder_source("tiny")  # which is made with other limits
    process = multiprocessing.get_context("fork").Process(target=train)
    process.start()
    process.join()
    assert receiver.poll(), "no error was raised"
    assert re.match(r"InputError\(.*(cannot be written|could not be saved).*File too large", receiver.recv())
    folder = artifacts.fold_folder(config)
    assert not [path for path in folder.parent.rglob(".*") if path.name != ".fold-0.lock"]
    assert artifacts.is_finished(fit_fold(config, tiny_table))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"run": "r" * 300}, "is too long a path; set a shorter run or output_dir"),
        ({"output_dir": "/".join(["d" * 200] * 20)}, "is too long a path; set a shorter run or output_dir"),
        ({"output_dir": "out\udcff"}, r"is not UTF-8; set another run or output_dir"),
        ({"resume_from": "/".join(["d" * 300] * 20)}, "holds no fold of run 'tiny'; check the path"),
        ({"resume_from": "earlier\udcff"}, "holds no fold of run 'tiny'; check the path"),
    ],
    ids=["run", "deep", "bytes", "long earlier output", "earlier output in bytes"],
)
def test_paths_that_cannot_be_are_refused_before_anything_is_written(
    overrides, words, tiny, tiny_table, workspace
):
    with pytest.raises(InputError, match=words) as caught:
        fit_fold(tiny(**overrides), tiny_table)
    assert "\n" not in str(caught.value)
    assert not (workspace / "output" / "tiny").exists()


@pytest.mark.parametrize("where", [".", "output", "output/locked"])
def test_a_read_only_output_folder_is_reported(where, tiny, tiny_table, workspace):
    """Train in a process without root's rights, since root may write anywhere."""
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
    assert receiver.poll(), "no error was raised"
    error = receiver.recv()
    words = r"/locked/fold-0 cannot be written \(Permission denied\); set output_dir"
    assert re.fullmatch(rf"InputError\(.*{words}.*", error)
    assert not (workspace / "output" / "locked" / "fold-0").exists()


def test_a_disk_that_is_too_small_is_reported_before_training(tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(guards.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(
        InputError, match=r"takes up to \d.\d GiB in output/tiny/fold-0, and 0.0 GiB are free"
    ):
        fit_fold(tiny(), tiny_table)


@pytest.mark.parametrize("optimizer", ["adamw", "madgrad"])
def test_a_fold_takes_no_more_disk_space_than_was_estimated(optimizer, tiny, tiny_table, monkeypatch):
    sizes, prune = [], checkpoint.prune
    folder = artifacts.fold_folder(tiny())

    def measure(*arguments, **options):
        paths = [*folder.rglob("*.safetensors"), *folder.rglob("*.pt")]
        sizes.append(sum(path.stat().st_size for path in paths))
        prune(*arguments, **options)

    monkeypatch.setattr(checkpoint, "prune", measure)
    config = tiny(**{**OPTIONS, "optimizer": optimizer})
    training = prepare(config, tiny_table, 0)
    fit_fold(config, tiny_table)
    overhead = 200_000  # names, schedules and random states, which do not grow with the model
    needed = guards.disk_needed(training)
    assert 0.3 * needed < max(sizes) < needed + overhead


def test_a_loader_process_that_dies_is_reported(whole, tiny, tiny_table, monkeypatch):
    config = tiny(run="orphan", save_every=1, **OPTIONS)
    make_loader = tokens.make_loader

    def make_dying_loader(examples, batches, tokenizer, num_workers=0):
        loader = make_loader(examples, batches, tokenizer, num_workers)
        collate = loader.collate_fn

        def die(rows):
            if len(examples.ids) > 20 and rows == batches[-1]:
                os._exit(3)
            return collate(rows)

        loader.collate_fn = die
        return loader

    monkeypatch.setattr(tokens, "make_loader", make_dying_loader)
    kept = "what was saved in output/orphan/fold-0 is kept: run again, or set num_workers=0"
    with pytest.raises(InputError, match=rf"a data-loader process died \(DataLoader worker .*\); {kept}"):
        fit_fold(dataclasses.replace(config, num_workers=1), tiny_table)
    monkeypatch.setattr(tokens, "make_loader", make_loader)
    assert_same(whole, fit_fold(config, tiny_table))


HOLD_LOCK = """
import sys, time
from pathlib import Path
from utils.runs.guards import lock_fold
with lock_fold(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_two_runs_cannot_train_the_same_fold(tiny, tiny_table):
    folder = artifacts.fold_folder(tiny())
    command = [sys.executable, "-c", HOLD_LOCK, folder]
    holder = subprocess.Popen(command, cwd=runtime.ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    words = "another run is training output/tiny/fold-0; wait for it, or set another run"
    with pytest.raises(InputError, match=words):
        fit_fold(tiny(), tiny_table)
    assert not folder.exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert artifacts.is_finished(fit_fold(tiny(), tiny_table)), "the lock of a killed run was not released"
