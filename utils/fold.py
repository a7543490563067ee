"""One fold from beginning to end: its epochs, evaluations and stops, and the folder that the later notebooks read.

Notebook 02 calls ``fit_fold``. From a shell, with as many processes as are wanted:

    accelerate launch --num_processes 2 -m utils.fold -p preset commonlit -p fold 3
"""

import argparse
import functools
import math
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from utils import checkpoint, data, devices, results, runtime, state
from utils.config import Config, InputError
from utils.data import add_folds, load_table
from utils.faults import (
    only_run,
    refuse_divergence,
    refuse_infinite_losses,
    refuse_too_small_a_disk,
    stop_signals,
    told_in_a_sentence,
)
from utils.resume import Progress, current_weights, earlier_output, fetch, refuse_changes, resume, save_state
from utils.train import Training, evaluate, prepare, train_epoch


def fit_fold(config: Config, table: pd.DataFrame, fold: int | None = None) -> Path:
    """Train on every row outside ``fold`` and write what the later notebooks read.

    Where an earlier run of the same fold was stopped or killed, this one goes on from its last saved state; a finished
    fold is left as it is, unless ``config.retrain``.

    Args:
        table: from ``load_table`` and ``add_folds``.
        fold: the held-out fold; None: ``config.fold``.

    Returns:
        The folder ``output/<run>/fold-<k>``: config.json, history.csv, predictions.csv, result.json, and the weights
        last/, best/ and, with averaging, swa/. Raises InputError before anything is written for what cannot work, and
        when it was told to stop, after saving its state.
    """
    config = config if fold is None else replace(config, fold=fold)
    folder = checkpoint.fold_folder(config, config.fold)
    fingerprint = data.fingerprint(table, config) if "fold" in table.columns else ""
    for place in () if config.retrain else (folder, earlier_output(config)):
        if place and checkpoint.is_finished(place):
            refuse_changes(checkpoint.read_about(place), config, fingerprint, place)
            if place != folder:
                with only_run(folder), told_in_a_sentence(folder):
                    devices.on_main(functools.partial(fetch, place, folder))
            print(f"Fold {config.fold} is finished already, in {runtime.shown(folder)}; retrain=True trains it anew.")
            return folder
    if (number := devices.to_launch(config.devices)) > 1:
        devices.launch(train_fold, (config, table, fingerprint, folder), number)
    else:
        train_fold(config, table, fingerprint, folder)
    return folder


def train_fold(config: Config, table: pd.DataFrame, fingerprint: str, folder: Path) -> None:
    """Prepare, go on or begin, train, and write the results: what each of the processes does that share a fold."""
    with devices.only_main_prints():
        training = prepare(config, table, config.fold)
        about = describe(training, table, fingerprint)
        with only_run(folder), told_in_a_sentence(folder):
            progress = resume(training, folder, about)
            if progress is None:
                devices.on_main(lambda: checkpoint.start_fold(folder, about))
                progress = Progress()
                print(f"Fold {config.fold}: {training.choice.name} on {about['device']} ({training.choice.reason}).")
            devices.on_main(lambda: refuse_too_small_a_disk(training, folder))
            reason = run_epochs(training, folder, about, progress)
            finish(training, folder, progress, reason)


def describe(training: Training, table: pd.DataFrame, fingerprint: str) -> dict:
    """config.json: the Config, what it came to on this machine, and what it was trained on."""
    return {
        "config": training.config.to_dict(),
        "precision": training.choice._asdict(),
        "device": runtime.device_name(devices.processes().num_processes),
        "platform": runtime.platform_name(),
        "versions": runtime.versions(),
        "data": {"rows": len(table), "held_out": len(training.held_out.ids), "fingerprint": fingerprint},
    }


def run_epochs(training: Training, folder: Path, about: dict, progress: Progress) -> str:
    """The epochs that are left, with their evaluations and saved states.

    Returns:
        Why it stopped: "" at the end of the plan, "patience" or "time limit". Raises InputError when a signal stopped
        it or the loss is no number.
    """
    config, before = training.config, progress.seconds
    if 0 < config.patience <= progress.stale(config):
        return "patience"  # stopped right after the evaluation that decided it
    began = time.perf_counter()  # never goes back, whatever is done to the clock
    mark = began, training.step
    bar = tqdm(total=training.total_steps, initial=training.step, unit="step", leave=False,
               disable=not (runtime.progress_wanted() and devices.processes().is_main_process))  # fmt: skip
    snapshots = training.averager.snapshot_steps(config.snapshots, training.total_steps) if training.averager else ()
    first = training.step // training.steps_per_epoch
    with bar, stop_signals() as stops:
        for step in (s for epoch in range(first, math.ceil(config.epochs)) for s in train_epoch(training, epoch)):
            bar.update()
            refuse_divergence(training)  # which at times waits for the GPU, before an evaluation always
            progress.seconds = before + time.perf_counter() - began
            if step in snapshots:
                devices.on_main(lambda: save_snapshot(training, folder / "snapshots"))
            due = training.evaluation_due()
            if due:
                evaluate_and_record(training, folder, progress, mark)
                progress.seconds = before + time.perf_counter() - began
            out_of_time = config.time_limit_hours and progress.seconds - before > config.time_limit_hours * 3600
            late = config.save_minutes and progress.seconds - progress.saved > config.save_minutes * 60
            number, out_of_time, late = devices.largest(max(stops, default=0), bool(out_of_time), bool(late))
            stop = "patience" if due and 0 < config.patience <= progress.stale(config) else ""
            stop = stop or ("time limit" if out_of_time else "")
            often = config.save_every and step % config.save_every == 0
            if due or often or late or stop or number:
                refuse_infinite_losses(training)
                save_state(training, folder, about, progress)
            if step == training.total_steps:
                break  # whatever it was told meanwhile: the results are a moment away
            if number:
                name = signal.Signals(number).name
                raise InputError(f"stopped by {name} after step {step}; the state is saved, run again to go on.")
            if stop:
                return stop
            if due:
                mark = time.perf_counter(), training.step
    return ""


def evaluate_and_record(training: Training, folder: Path, progress: Progress, mark: tuple[float, int]) -> None:
    """One evaluation: a row of the history, best/ if it is the best, and a line to read.

    ``mark``: when, and at which step, the training since the last one began.
    """
    train_loss = float(torch.stack(training.losses).mean())
    samples = len(training.train.ids) / training.steps_per_epoch * (training.step - mark[1])
    speed = samples / (time.perf_counter() - mark[0])
    training.losses.clear()
    progress.predictions = evaluate(training)
    if not all(np.isfinite(found).all() for found in progress.predictions.values()):
        raise InputError(f"training diverged by step {training.step}: the scores are not finite; lower lr.")
    rmse = {kind: results.rmse_of(training, found) for kind, found in progress.predictions.items()}
    row = {
        "step": training.step, "epoch": round(training.step / training.steps_per_epoch, 4), "train_loss": train_loss,
        "rmse": rmse["last"], "swa_rmse": rmse.get("swa", math.nan), "seconds": round(progress.seconds, 2),
        "samples_per_second": round(speed, 2), "loss_scale": training.backend.loss_scale(),
        **{f"lr {name}": rate for name, rate in training.rates.current().items()},
    }  # fmt: skip
    progress.rows.append(row)
    if progress.best is None or rmse["last"] < results.rmse_of(training, progress.best):
        devices.on_main(lambda: results.save(training, training.model, folder / "best"))
        progress.best = progress.predictions["last"]
        progress.best_digest = state.digest(folder / "best" / "model.safetensors")
    devices.on_main(lambda: checkpoint.write_table(folder / "history.csv", pd.DataFrame(progress.rows)))
    averaged = f" · averaged {rmse['swa']:.4f}" if "swa" in rmse else ""
    tqdm.write(
        f"epoch {row['epoch']:5.2f} · step {training.step:4d} · train loss {train_loss:.4f} · "
        f"RMSE raw {rmse['last']:.4f}{averaged} · {speed:.1f} samples/s"
    )


def save_snapshot(training: Training, folder: Path) -> None:
    """Keep the weights that went into the average just now."""
    folder.mkdir(exist_ok=True)
    weights = current_weights(training, training.model)
    checkpoint.write_weights(folder / f"step-{training.step:06d}.safetensors", weights)


def finish(training: Training, folder: Path, progress: Progress, reason: str) -> None:
    """Write what the later notebooks read. After a time limit the state stays, to go on from, and so does the plan."""
    if not progress.predictions or progress.rows[-1]["step"] != training.step:
        progress.predictions = evaluate(training)  # stopped between two evaluations, or resumed after the last one
    devices.on_main(lambda: results.write(training, folder, progress, reason))
    if reason == "patience":
        print(f"Stopped early: no better score in {training.config.patience} evaluations.")
    if reason == "time limit":
        print(
            f"The time limit is reached after step {training.step} of {training.total_steps}; the state is saved, "
            "run again to go on."
        )


# --- from a shell ------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.fold", description="Train one fold.")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="any field of Config, as papermill"
    )
    try:
        config = Config.make(**dict(parser.parse_args().p))
        table = devices.on_main(lambda: load_table(config))  # where it is downloaded, once
        fit_fold(config, add_folds(table, config))
    except InputError as error:
        sys.exit(f"InputError: {error}" if devices.processes().is_main_process else 1)


if __name__ == "__main__":
    main()
