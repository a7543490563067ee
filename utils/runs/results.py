"""What a fold leaves for the later notebooks: its weights, predictions.csv and result.json, sealed."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from utils.config import InputError
from utils.data import tokens
from utils.machine.files import write_json, write_table
from utils.machine.runtime import display_path
from utils.runs import artifacts
from utils.runs.progress import Progress, current_weights
from utils.training.predict import decode, predict_batches
from utils.training.setup import Training, split_rows


def write(training: Training, table: pd.DataFrame, folder: Path, progress: Progress, reason: str) -> None:
    """Write all of it; last the seal that marks the fold as finished, once it is on the disk.

    ``reason``: why training stopped. Raises InputError if a saved model's scores are not those of training.
    """
    save(training, training.model, folder / "last")
    if training.averager is not None and "averaged" in progress.predictions:
        save(training, training.averager.model, folder / "averaged")
    best = {} if progress.best is None else {"best": progress.best}
    unordered = progress.predictions | best
    predictions = {weights: unordered[weights] for weights in artifacts.WEIGHTS if weights in unordered}
    for weights, array in predictions.items():
        check_scores(training, table, folder / weights, array)
    values = {"target": training.targets, **predictions}
    write_table(folder / "predictions.csv", training.task.predictions_table(training.held_out.ids, values))
    finished = reason != "time limit"
    result = summary(training, progress, predictions) | {"finished": finished, "stopped_by": reason}
    result["baselines"] = baselines(training, table) if finished else {}
    write_json(folder / "result.json", result)
    if finished:
        artifacts.seal_fold(folder)
        shutil.rmtree(folder / "state", ignore_errors=True)


def save(training: Training, model: nn.Module, folder: Path) -> None:
    """Save ``model`` as a Hugging Face folder."""
    artifacts.save_model(training.model.config, current_weights(training, model), training.tokenizer, folder)


def save_snapshot(training: Training, folder: Path) -> None:
    """Keep the weights that went into the average just now."""
    path = folder / f"step-{training.step:06d}.safetensors"
    artifacts.write_weights(path, current_weights(training, training.model))


def check_scores(training: Training, table: pd.DataFrame, folder: Path, predictions: np.ndarray) -> None:
    """Raise InputError if the model in ``folder`` does not predict for some held-out texts as in training.

    It reads them in float32 on the CPU; ``predictions`` may come from half precision and another device, and
    may differ by what rounding adds up to over the layers: 64 units of the last place (2**-8 in bf16, 2**-11
    in fp16 and TF32) of the targets' standard deviation, which is a quarter of it in bf16 and 0.03 otherwise.
    Weights were compared to the last bit when they were saved; this finds whatever else may be lost.
    """
    rows = np.unique(np.linspace(0, len(predictions) - 1, 8).astype(int))
    model, tokenizer = artifacts.load_model(folder)
    held_out = split_rows(table, training.config.fold)[1].iloc[rows]
    examples = training.task.encode(held_out, tokenizer)
    batches = tokens.evaluation_batches(examples.lengths, training.config.eval_batch_size)
    pairs = predict_batches(model, examples, batches, tokenizer, torch.device("cpu"))
    task, trained = training.task, training.task.comparable(predictions[rows])
    difference = np.abs(task.comparable(decode(task, examples, pairs)) - trained)
    spread = task.spread(training.targets, predictions)
    allowed = 64 * spread * 2.0 ** (-8 if training.choice.name == "bf16" else -11)
    if not (difference <= allowed + 1e-5 * np.abs(trained)).all():
        raise InputError(
            f"{display_path(folder)}: the saved model's predictions differ from those in training by up to "
            f"{difference.max():.2g}, so that it cannot be used; choose another encoder or precision."
        )


def summary(training: Training, progress: Progress, predictions: dict[str, np.ndarray]) -> dict:
    """The scores and sizes of result.json, the contract with the later notebooks."""
    history, metric = pd.DataFrame(progress.rows), training.task.metric
    scores = {
        weights: training.task.scores(training.targets, array) for weights, array in predictions.items()
    }
    compiling = (
        {} if training.compiled == "off" else {"compile_seconds": round(training.compile_seconds(), 1)}
    )
    best_epoch = float(history["epoch"].iloc[metric.best(history[metric.name])]) if len(history) else None
    return {
        "metric": asdict(metric),
        "scores": scores,
        "fold": training.config.fold,
        "default": "averaged" if "averaged" in scores else "last",
        "best_epoch": best_epoch,
        "steps": training.step,
        "n_averaged": training.averager.n_averaged if training.averager else 0,
        "parameters": sum(count_parameters(training.model).values()),
        "parameters_of": count_parameters(training.model),
        "trainable_parameters": sum(count_parameters(training.model, trainable=True).values()),
        "samples_per_second": float(history["samples_per_second"].median()) if len(history) else None,
        "seconds": round(progress.seconds, 1),  # of training and evaluation, in all sessions
        **compiling,  # of this session, among them
    }


def count_parameters(model: nn.Module, trainable: bool = False) -> dict[str, int]:
    """How many numbers each part of a model holds: encoder, pooling and head; or how many are trained."""
    return {
        name: sum(p.numel() for p in part.parameters() if p.requires_grad or not trainable)
        for name, part in sorted(model.named_children())
    }


def baselines(training: Training, table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The scores of what needs no transformer, by name, fitted and scored on the fold's own rows."""
    predictions = training.task.baselines(*split_rows(table, training.config.fold))
    return {name: training.task.scores(training.targets, array) for name, array in predictions.items()}
