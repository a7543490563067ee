"""Several runs as one: by the mean of their predictions, or by a linear layer on their pooled states."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from utils.config import InputError
from utils.data.tokens import evaluation_batches
from utils.machine import runtime
from utils.runs import artifacts
from utils.runs.run import Run
from utils.training.predict import predict_batches


class PooledStates(nn.Module):
    """A TextModel that answers with what its head would read."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**inputs)["pooled"]}


def pooled_states(run: Run, weights: str = "averaged") -> np.ndarray:
    """What the head reads of each held-out row, by the model that held it out, (rows, width), float64.

    Raises InputError for a task that answers per token.
    """
    task, parts = run.task, []
    if task.per_token:
        raise InputError(
            f"task={task.name} pools no texts, so that no layer can be put on them; use the mean."
        )
    for fold, folder in run.folders.items():
        model, tokenizer = artifacts.load_model(artifacts.weights_folder(folder, weights))
        examples = task.encode(run.table[run.table["fold"] == fold], tokenizer)
        batches = evaluation_batches(examples.lengths, run.config.eval_batch_size)
        reader = PooledStates(model).to(runtime.device())
        states = dict(predict_batches(reader, examples, batches, tokenizer, runtime.device()))
        parts.append(np.stack([states[number] for number in range(len(examples))]))
    return np.concatenate(parts)


def mean_of(runs: list[Run], weights: str = "averaged") -> Run:
    """A run whose predictions are the mean of several runs', each row's by the models that held it out.

    Folds may differ: whatever the runs' seeds are, none has trained on a row that it predicts here.
    """
    rows = [_rows_of_first(runs[0], run) for run in runs]
    combined = runs[0].task.combine([run.values(weights)[of] for run, of in zip(runs, rows, strict=True)])
    return _with_values(runs[0], combined, weights)


def linear_of(runs: list[Run], weights: str = "averaged") -> Run:
    """A run whose predictions come from a linear layer on the pooled states of several runs, side by side.

    For each fold it is fitted to the states of the others' held-out rows, which no model was trained on.
    Raises InputError for runs with different folds or with a single one, or for a task without such a layer.
    """
    first, folds = runs[0], runs[0].predictions["fold"].to_numpy()
    rows = [_rows_of_first(first, run) for run in runs]
    if any(
        (run.predictions["fold"].to_numpy()[of] != folds).any() for run, of in zip(runs, rows, strict=True)
    ):
        raise InputError(
            "the runs have different folds, and a linear layer would be scored on rows that it has seen; "
            "train them with the same seed, or use the mean."
        )
    if len(first.folders) < 2:
        raise InputError("a linear layer is fitted to other folds, and there is one; train a second fold.")
    states = np.hstack([pooled_states(run, weights)[of] for run, of in zip(runs, rows, strict=True)])
    combined = np.empty_like(first.values(weights))
    for fold in first.folders:
        inside, outside = folds != fold, folds == fold
        predicted = first.task.fit_states(states[inside], first.targets[inside], states[outside])
        if predicted is None:
            raise InputError(f"task={first.task.name} has no linear layer on pooled states; use the mean.")
        combined[outside] = predicted
    return _with_values(first, combined, weights)


def _rows_of_first(first: Run, run: Run) -> np.ndarray:
    """Where a run's predictions have the rows of the first, in the first's order."""
    place = pd.Series(np.arange(len(run.predictions)), index=run.predictions["id"])
    if set(place.index) != set(first.predictions["id"]):
        raise InputError(
            f"the runs {first.config.run_name} and {run.config.run_name} have held out different rows; train "
            "the same folds of the same data."
        )
    return place[first.predictions["id"]].to_numpy()


def _with_values(run: Run, values: np.ndarray, weights: str) -> Run:
    columns = dict(zip(run.task.columns(weights), values.T, strict=True))
    return replace(run, predictions=run.predictions.assign(**columns))
