"""Last, best and averaged weights compared, with intervals and a paired test."""

import numpy as np
import pandas as pd

from utils.runs.run import Run
from utils.tasks import Task
from utils.tasks.metrics import Metric, bootstrap_interval, paired_test


def compare_weights(run: Run) -> pd.DataFrame:
    """A row per fold and weights, and of all held-out rows together (fold "all").

    Columns: score (the metric) with its 95 % interval (low, high), every other score by its name, error (the
    mean of the rows' errors), p, of the averaged weights' errors against these (``paired_test``), and the
    averaged weights' gain over these (positive where better), with its 95 % interval (gain_low, gain_high).
    ``attrs["error"]`` says what the errors are.
    """
    folds = run.predictions["fold"].to_numpy()
    rows = []
    for fold in [*run.folders, "all"]:
        chosen = np.ones(len(folds), dtype=bool) if fold == "all" else folds == fold
        rows += [
            {"fold": fold, "weights": weights, **_scores(run, weights, chosen)} for weights in run.weights
        ]
    table = pd.DataFrame(rows)
    table.attrs["error"] = run.task.error
    return table


def _scores(run: Run, weights: str, rows: np.ndarray) -> dict[str, float]:
    """The scores of some weights over the rows of a mask."""
    task, groups = run.task, run.predictions["group"].to_numpy()[rows]
    targets, predictions = run.targets[rows], run.values(weights)[rows]
    low, high = task.interval(targets, predictions, groups)
    errors = run.errors(weights)[rows]
    against = dict.fromkeys(("p", "gain", "gain_low", "gain_high"), float("nan"))
    if weights != "averaged" and "averaged" in run.weights:
        against = {"p": paired_test(run.errors("averaged")[rows], errors, groups)}
        against |= _gain(task, targets, run.values("averaged")[rows], predictions, groups)
    scores = task.scores(targets, predictions)
    score = scores.pop(task.metric.name)
    error = float(np.nanmean(np.nanmean(errors, axis=1)))
    return {"score": score, "low": low, "high": high, **scores, "error": error, **against}


def _gain(task: Task, targets: np.ndarray, ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> dict:
    """By how much ``ours`` score better than ``theirs`` on the same rows, with a 95 % interval by group."""

    def gain(rows: np.ndarray) -> float:
        scores = (task.score(targets[rows], values[rows]) for values in (ours, theirs))
        return task.metric.gain(*scores)

    low, high = bootstrap_interval(gain, groups)
    return {"gain": gain(np.arange(len(groups))), "gain_low": low, "gain_high": high}


def verdict(comparison: pd.DataFrame, metric: Metric) -> str:
    """What the averaging did, in a sentence or two, over all held-out texts; if it did not help, that."""
    overall = comparison[comparison["fold"] == "all"].set_index("weights")
    if "averaged" not in overall.index:
        return "Nothing was averaged in this run."
    averaged, others = overall.loc["averaged"], overall.drop(index="averaged")
    better = others["score"].map(lambda score: metric.is_better(averaged["score"], score))
    agree = (others["error"] > averaged["error"]) == better  # the test is of the errors
    names = {"last": "the last weights", "best": "the best epoch's"}
    sentences = [_difference(averaged, row, agree[name], names[name]) for name, row in others.iterrows()]
    return (
        f"**{_opening(better, others['p'] < 0.05, agree)}**: over all held-out texts, the {metric.label} of "
        f"the averaged weights is {', and '.join(sentences)}. Tested is each text's "
        f"{comparison.attrs.get('error', 'error')}."
    )


def _difference(averaged: pd.Series, other: pd.Series, agree: bool, name: str) -> str:
    significant = "no more than chance could explain"
    if other["p"] < 0.05:
        smaller = "smaller" if averaged["error"] < other["error"] else "larger"
        by_error = f"yet its errors are {smaller} than chance would make them"
        significant = "a difference that chance would seldom make" if agree else by_error
    gap = averaged["score"] - other["score"]
    difference = f"{abs(gap):.4f} {'lower' if gap < 0 else 'higher'} than"
    if abs(gap) < 5e-5:
        difference = "to four digits the same as"
    return f"{difference} with {name} (p = {other['p']:.2g}: {significant})"


def _opening(better: pd.Series, significant: pd.Series, agree: pd.Series) -> str:
    """The verdict in a word, from whether the averaged weights beat each rival, and whether beyond chance."""
    if (significant & ~agree).any():
        return "Averaging helped in part"
    helped = (significant & better).any()
    if (significant & ~better).any():
        return "Averaging helped in part" if helped else "Averaging did not help"
    if helped:
        return "Averaging helped" if better.all() else "Averaging helped in part"
    return "Inconclusive" if better.any() else "Averaging did not help"
