"""What a fold leaves for the later notebooks: its weights, predictions.csv and result.json."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from utils import checkpoint
from utils.metrics import batch_rmse, score
from utils.model import TextRegressor
from utils.resume import Progress, current_weights
from utils.train import Training


def write(training: Training, folder: Path, progress: Progress, reason: str) -> None:
    """All of it, result.json last, by which the fold is known to be there. ``reason``: why training stopped."""
    for kind, model in {"last": training.model, "swa": training.averager and training.averager.model}.items():
        if kind in progress.predictions:
            save(training, model, folder / kind)
    found = progress.predictions | ({"best": progress.best} if progress.best is not None else {})
    checkpoint.write_table(folder / "predictions.csv", predictions_table(training, found))
    finished = reason != "time limit"
    result = summary(training, progress, found) | {"finished": finished, "stopped_by": reason}
    checkpoint.write_json(folder / "result.json", result)
    if finished:
        shutil.rmtree(folder / "state", ignore_errors=True)


def save(training: Training, model: TextRegressor, folder: Path) -> None:
    """Save ``model`` as a Hugging Face folder."""
    checkpoint.save_model(training.model.config, current_weights(training, model), training.tokenizer, folder)


def rmse_of(training: Training, predictions: np.ndarray) -> float:
    return score(training.held_out.targets, predictions, training.config.target_columns)["rmse"]


def predictions_table(training: Training, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """id, target, last, best, swa; with several targets each column once a target, as "<target> <column>"."""
    config, held_out = training.config, training.held_out
    table = {"id": held_out.ids}
    for i, name in enumerate(config.target_columns):
        prefix = f"{name} " if len(config.target_columns) > 1 else ""
        table[f"{prefix}target"] = held_out.targets[:, i]
        for kind in (kind for kind in checkpoint.KINDS if kind in predictions):
            table[f"{prefix}{kind}"] = predictions[kind][:, i]
    return pd.DataFrame(table)


def summary(training: Training, progress: Progress, predictions: dict[str, np.ndarray]) -> dict:
    """The scores and sizes of result.json, the contract with the later notebooks."""
    targets, history = training.held_out.targets, pd.DataFrame(progress.rows)
    scores = {
        kind: score(targets, predictions[kind], training.config.target_columns)
        | {"batch_rmse": batch_rmse(targets, predictions[kind])}
        for kind in checkpoint.KINDS
        if kind in predictions
    }
    return {
        "scores": scores,
        "fold": training.config.fold,
        "default": "swa" if "swa" in scores else "last",
        "best_epoch": float(history.loc[history["rmse"].idxmin(), "epoch"]) if len(history) else None,
        "steps": training.step,
        "n_averaged": training.averager.n_averaged if training.averager else 0,
        "parameters": sum(weight.numel() for weight in training.model.parameters()),
        "samples_per_second": float(history["samples_per_second"].median()) if len(history) else None,
        "seconds": round(progress.seconds, 1),  # of training and evaluation, in all sessions
    }
