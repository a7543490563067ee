"""What cuts fitted out of fold are worth, judged on folds that they were not fitted to."""

import numpy as np
import pandas as pd

from utils.config import InputError
from utils.runs.run import Run
from utils.tasks.metrics import bootstrap_interval
from utils.tasks.thresholds import Divided

#: The rows of ``compare_cuts``.
USUAL, NESTED, FLATTERING = "as usual", "fitted to the other folds", "fitted to the same rows (flatters)"


def compare_cuts(run: Run, weights: str) -> pd.DataFrame:
    """The score of labels decided by the usual cuts, and by fitted ones: honestly, and as it is often done.

    Args:
        weights: whose predictions: last, best or averaged.

    Returns:
        Columns cuts, score, and low and high, the 95 % bootstrap interval (by group) of what the score gains
        over the usual cuts. Raises InputError for a task without cuts, and for a single fold, in which case
        nothing is honest.
    """
    task, predictions, targets = _task(run), run.values(weights), run.targets
    groups = run.predictions["group"].to_numpy()
    chosen = {
        USUAL: task.predicted(predictions),
        NESTED: nested_labels(run, weights),
        FLATTERING: task.predicted(predictions, task.fit_cuts(targets, predictions)),
    }
    rows = []
    for name, labels in chosen.items():

        def gain(numbers: np.ndarray, labels: np.ndarray = labels) -> float:
            now, usual = (task.label_score(targets[numbers], x[numbers]) for x in (labels, chosen[USUAL]))
            return task.label_metric.gain(now, usual)

        low, high = (np.nan, np.nan) if name == USUAL else bootstrap_interval(gain, groups)
        rows.append({"cuts": name, "score": task.label_score(targets, labels), "low": low, "high": high})
    return pd.DataFrame(rows)


def nested_labels(run: Run, weights: str) -> np.ndarray:
    """Each held-out row's class numbers (or whatever ``predicted`` gives), by cuts fitted to other folds."""
    task, predictions = _task(run), run.values(weights)
    folds = run.predictions["fold"].to_numpy()
    labels = np.empty_like(task.predicted(predictions))
    for fold in run.folders:
        inside, outside = folds != fold, folds == fold
        cuts = task.fit_cuts(run.targets[inside], predictions[inside])
        labels[outside] = task.predicted(predictions[outside], cuts)
    return labels


def _task(run: Run) -> Divided:
    task = run.task
    if not isinstance(task, Divided) or not task.has_cuts:
        raise InputError(
            f"task={task.name} has no cuts to fit: they divide two classes, grades, or answers from none."
        )
    if len(run.folders) < 2:
        raise InputError(
            f"run {run.config.run_name} has one finished fold, and cuts fitted to it cannot be judged; train "
            "another."
        )
    return task
