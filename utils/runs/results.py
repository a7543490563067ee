"""What a fold leaves for the later notebooks: its weights, predictions.csv and result.json."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from utils.machine.files import write_json, write_table
from utils.runs import artifacts
from utils.runs.progress import Progress, current_weights
from utils.training.setup import Training, split_rows


def write(training: Training, table: pd.DataFrame, folder: Path, progress: Progress, reason: str) -> None:
    """Write all of it, result.json last: it is what marks the fold as trained.

    ``reason``: why training stopped.
    """
    save(training, training.model, folder / "last")
    if training.averager is not None and "averaged" in progress.predictions:
        save(training, training.averager.model, folder / "averaged")
    best = {} if progress.best is None else {"best": progress.best}
    unordered = progress.predictions | best
    predictions = {weights: unordered[weights] for weights in artifacts.WEIGHTS if weights in unordered}
    values = {"target": training.targets, **predictions}
    write_table(folder / "predictions.csv", training.task.predictions_table(training.held_out.ids, values))
    finished = reason != "time limit"
    result = summary(training, progress, predictions) | {"finished": finished, "stopped_by": reason}
    result["baselines"] = baselines(training, table) if finished else {}
    write_json(folder / "result.json", result)
    if finished:
        shutil.rmtree(folder / "state", ignore_errors=True)


def save(training: Training, model: nn.Module, folder: Path) -> None:
    """Save ``model`` as a Hugging Face folder."""
    artifacts.save_model(training.model.config, current_weights(training, model), training.tokenizer, folder)


def summary(training: Training, progress: Progress, predictions: dict[str, np.ndarray]) -> dict:
    """The scores and sizes of result.json, the contract with the later notebooks."""
    history, metric = pd.DataFrame(progress.rows), training.task.metric
    scores = {
        weights: training.task.scores(training.targets, array) for weights, array in predictions.items()
    }
    best_epoch = float(history["epoch"].iloc[metric.best(history[metric.name])]) if len(history) else None
    return {
        "metric": asdict(metric),
        "scores": scores,
        "fold": training.config.fold,
        "default": "averaged" if "averaged" in scores else "last",
        "best_epoch": best_epoch,
        "steps": training.step,
        "n_averaged": training.averager.n_averaged if training.averager else 0,
        "parameters": sum(weight.numel() for weight in training.model.parameters()),
        "samples_per_second": float(history["samples_per_second"].median()) if len(history) else None,
        "seconds": round(progress.seconds, 1),  # of training and evaluation, in all sessions
    }


def baselines(training: Training, table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The scores of what needs no transformer, by name, fitted and scored on the fold's own rows."""
    predictions = training.task.baselines(*split_rows(table, training.config.fold))
    return {name: training.task.scores(training.targets, array) for name, array in predictions.items()}
