"""Runs made of random predictions, as if folds had been trained."""

import numpy as np
import pandas as pd

from utils import Config
from utils.runs.run import Run
from utils.tasks import make_task


def make_run(task_name, n_classes, folds=4, seed=0, shrink=0.5, noise=0.3, n_rows=400):
    """A Run with grades or classes 0 to ``n_classes`` - 1, whose predictions are shrunk to the first one.

    So the usual cuts are wrong. Rows and groups of eight are the same for every seed.
    """
    generator = np.random.default_rng(5)
    codes = np.concatenate([np.arange(n_classes), generator.integers(0, n_classes, n_rows - n_classes)])
    ids = [str(i) for i in range(n_rows)]
    target = codes.astype(float) if task_name == "regression" else codes.astype(str)
    table = pd.DataFrame({"id": ids, "excerpt": "x", "target": target})
    config = Config.make("tiny", task=task_name)
    task = make_task(config, table)
    error = np.random.default_rng(seed).normal(0, noise, n_rows)
    centre = np.clip(codes * shrink + error, 0, n_classes - 1)
    predictions = centre[:, np.newaxis]
    if task_name != "regression":
        shares = np.exp(-2 * (predictions - np.arange(n_classes)) ** 2)
        predictions = shares / shares.sum(axis=1, keepdims=True)
    values = {"target": codes[:, np.newaxis].astype(float), "averaged": predictions}
    fold = np.arange(n_rows) // 8 % folds
    predicted = task.predictions_table(ids, values)
    predicted = predicted.assign(fold=fold, group=[f"g{i // 8}" for i in range(n_rows)])
    return Run(config, task, dict.fromkeys(range(folds)), table.assign(fold=fold), predicted)
