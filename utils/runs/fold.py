"""One fold from beginning to end: epochs, evaluations, stops, and the folder that later notebooks read.

Notebook 02 calls ``fit_fold``. From a shell, with as many processes as are wanted:

    accelerate launch --num_processes 2 -m utils train -p preset commonlit -p fold 3
"""

import functools
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from utils.config import Config, InputError
from utils.data.table import fingerprint
from utils.machine import distributed, runtime
from utils.machine.files import remove_leftovers, write_table
from utils.machine.runtime import say
from utils.runs import artifacts, results
from utils.runs.guards import check_disk_space, check_divergence, lock_fold, readable_errors, run_again
from utils.runs.progress import Clock, Progress
from utils.runs.resume import check_same_training, check_second_stage, earlier_output, fetch, resume
from utils.runs.samples import Sampler
from utils.runs.seal import verify
from utils.runs.stopping import Saver, Stopper, stop_signals
from utils.tasks import find_leaks
from utils.training.loop import evaluate, train_epoch
from utils.training.probe import probe
from utils.training.setup import Training, prepare


def fit_fold(config: Config, table: pd.DataFrame, fold: int | None = None) -> Path:
    """Train on every row outside ``fold`` and write what the later notebooks read.

    Where an earlier run of the same fold was stopped or killed, this one goes on from its last saved state; a
    finished fold is left as it is, unless ``config.retrain``.

    Args:
        table: from ``load_table`` and ``add_folds``.
        fold: the held-out fold; None: ``config.fold``.

    Returns:
        The folder ``output/<run>/fold-<k>``: run.json, history.csv, samples.jsonl, predictions.csv,
        result.json, the weights last/, best/ and, with averaging, averaged/, and the manifest that seals
        them. Raises InputError before anything is written for what cannot work, for a finished fold that is
        damaged, and when it was told to stop, after saving its state.
    """
    config = config if fold is None else replace(config, fold=fold)
    folder = artifacts.fold_folder(config)
    data = fingerprint(table, config) if "fold" in table.columns else ""
    if not config.retrain and find_finished(config, folder, data):
        say(
            f"Fold {config.fold} is finished already, in {runtime.display_path(folder)}; "
            "retrain=True trains it anew."
        )
        return folder
    check_second_stage(config, data)
    if (number := distributed.processes_to_launch(config.devices)) > 1:
        distributed.launch(train_fold, (config, table, data, folder), number)
    else:
        train_fold(config, table, data, folder)
    return folder


def find_finished(config: Config, folder: Path, data: str) -> bool:
    """Whether the fold is finished, here or under ``resume_from``, from where it is copied here.

    Raises InputError if what is finished is damaged, or is another training.
    """
    for source in (folder, earlier_output(config)):
        if source and artifacts.is_finished(source):
            close_fold(source)
            check_same_training(artifacts.read_metadata(source), config, data, source)
            if source != folder:
                with lock_fold(folder), readable_errors(folder, config):
                    distributed.run_on_main(functools.partial(fetch, source, folder))
            return True
    return False


def close_fold(folder: Path) -> None:
    """Prove a finished fold whole; remove the state that a run left there if it was killed in this moment."""
    verify(folder)
    if distributed.run_on_main(lambda: (folder / "state").exists() and os.access(folder, os.W_OK)):
        with lock_fold(folder):
            distributed.run_on_main(lambda: shutil.rmtree(folder / "state", ignore_errors=True))


def train_fold(config: Config, table: pd.DataFrame, data: str, folder: Path) -> None:
    """Prepare, resume or begin, train, write the results: what each process that shares the fold does."""
    with distributed.only_main_prints(), readable_errors(folder, config):
        training = prepare(config, table, config.fold)
        probe(training)
        metadata = describe(training, table, data)
        with lock_fold(folder):
            parts = [folder / name for name in (*artifacts.WEIGHTS, "snapshots")]
            distributed.run_on_main(lambda: remove_leftovers(folder, *parts))
            if not config.retrain and artifacts.is_finished(folder):
                return  # put back just now, or finished by another run while this one was prepared
            distributed.run_on_main(lambda: check_disk_space(training, folder))
            progress = resume(training, folder, metadata)
            if progress is None:  # the first thing that replaces an earlier training
                distributed.run_on_main(lambda: artifacts.start_fold(folder, metadata))
                progress = Progress()
                choice = training.choice
                say(f"Fold {config.fold}: {choice.name} on {metadata['device']} ({choice.reason}).")
            if leaks := distributed.run_on_main(lambda: find_leaks(table, training.task)):
                say(leaks)
            reason = run_epochs(training, table, folder, metadata, progress)
            finish(training, table, folder, progress, reason)


def describe(training: Training, table: pd.DataFrame, data: str) -> dict:
    """run.json: the Config, what it came to on this machine, and what it was trained on."""
    return {
        "config": training.config.to_dict(),
        "started": datetime.now(UTC).isoformat(),
        "precision": training.choice._asdict(),
        "device": runtime.device_name(distributed.processes().num_processes),
        "platform": runtime.platform_name(),
        "versions": runtime.versions(),
        "data": {"rows": len(table), "held_out": len(training.held_out.ids), "fingerprint": data},
    }


def run_epochs(
    training: Training, table: pd.DataFrame, folder: Path, metadata: dict, progress: Progress
) -> str:
    """The steps that are left, with their evaluations, samples and saved states.

    Returns:
        Why it stopped: "" at the end of the plan, "patience" or "time limit". Raises InputError when a signal
        stopped it or the loss is no number.
    """
    if progress.out_of_patience(training.config, training.task.metric):
        return "patience"  # stopped right after the evaluation that decided it
    snapshots = snapshot_steps(training)
    clock, sampler = Clock(progress, training.step), Sampler(training, table, folder, progress)
    with progress_bar(training) as bar, stop_signals() as signals:
        stopper, saver = Stopper(training, progress, signals), Saver(training, progress, folder, metadata)
        for step in steps_left(training):
            bar.update()
            check_divergence(training)  # which at times waits for the GPU, before an evaluation always
            clock.tick()
            if step in snapshots:
                distributed.run_on_main(lambda: results.save_snapshot(training, folder / "snapshots"))
            due = training.evaluation_due()
            if due:
                evaluate_and_record(training, folder, progress, clock)
            sampler.look(evaluated=due)
            clock.tick()
            stop = stopper.look(evaluated=due)
            saver.look(evaluated=due, must=stop)
            if step == training.total_steps:
                break  # whatever it was told meanwhile: the results are a moment away
            stopper.raise_if_signalled()
            if stop:
                return stopper.reason
            if due:
                clock.restart(step)
    return ""


def steps_left(training: Training) -> Iterator[int]:
    """Take the steps that the plan has left; yields after each."""
    for epoch in range(training.step // training.steps_per_epoch, math.ceil(training.config.epochs)):
        yield from train_epoch(training, epoch)


def snapshot_steps(training: Training) -> set[int]:
    """The steps after which the weights are kept as files."""
    if training.averager is None:
        return set()
    return training.averager.snapshot_steps(training.config.snapshots, training.total_steps)


def progress_bar(training: Training) -> tqdm:
    wanted = runtime.progress_wanted() and distributed.processes().is_main_process
    return tqdm(
        total=training.total_steps, initial=training.step, unit="step", leave=False, disable=not wanted
    )


def evaluate_and_record(training: Training, folder: Path, progress: Progress, clock: Clock) -> None:
    """One evaluation of our own loop, recorded."""
    train_loss = float(torch.stack(training.losses).mean())  # waits for the GPU; only then is the clock read
    speed = clock.samples_per_second(training)
    progress.predictions = evaluate(training)
    record(training, folder, progress, train_loss, speed)


def record(training: Training, folder: Path, progress: Progress, train_loss: float, speed: float) -> None:
    """Of the predictions in ``progress``: a row of the history, best/ if it is the best, a line to read."""
    training.losses.clear()
    if not all(np.isfinite(array).all() for array in progress.predictions.values()):
        raise InputError(f"training diverged by step {training.step}: the scores are not finite; lower lr.")
    task, metric = training.task, training.task.metric
    scores = {name: task.score(training.targets, array) for name, array in progress.predictions.items()}
    training.rates.evaluated(scores["last"], metric.higher_is_better)
    row = {
        "step": training.step,
        "epoch": round(training.step / training.steps_per_epoch, 4),
        "train_loss": train_loss,
        metric.name: scores["last"],
        f"averaged_{metric.name}": scores.get("averaged", math.nan),
        "seconds": round(progress.seconds, 2),
        "samples_per_second": round(speed, 2),
        "loss_scale": training.backend.loss_scale(),
        **{f"lr {name}": rate for name, rate in training.rates.current().items()},
    }
    progress.rows.append(row)
    if progress.best is None or metric.is_better(scores["last"], task.score(training.targets, progress.best)):
        distributed.run_on_main(lambda: results.save(training, training.model, folder / "best"))
        progress.best = progress.predictions["last"]
    distributed.run_on_main(lambda: write_table(folder / "history.csv", pd.DataFrame(progress.rows)))
    averaged = f" · averaged {scores['averaged']:.4f}" if "averaged" in scores else ""
    with tqdm.external_write_mode():  # beside the progress bar
        say(
            f"epoch {row['epoch']:5.2f} · step {training.step:4d} · train loss {train_loss:.4f} · "
            f"{metric.label} raw {scores['last']:.4f}{averaged} · {speed:.1f} samples/s"
        )


def finish(training: Training, table: pd.DataFrame, folder: Path, progress: Progress, reason: str) -> None:
    """Write what the later notebooks read.

    After a time limit the state stays, to go on from, and so does the plan.
    """
    if not progress.predictions or progress.rows[-1]["step"] != training.step:
        # Stopped between two evaluations, or resumed after the last one.
        progress.predictions = evaluate(training)
    distributed.run_on_main(lambda: results.write(training, table, folder, progress, reason))
    if training.compiled != "off":
        say(f"Compiling took {training.compile_seconds():.1f} s of the {progress.seconds:.1f} s.")
    if reason == "patience":
        say(f"Stopped early: no better score in {training.config.patience} evaluations.")
    if reason == "time limit":
        say(
            f"The time limit is reached after step {training.step} of {training.total_steps}; "
            f"the state is saved, {run_again(training.config)} to go on."
        )
