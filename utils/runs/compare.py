"""Last, best and averaged weights compared, with intervals and a paired test."""

import numpy as np
import pandas as pd

from utils.runs.run import Run
from utils.tasks.metrics import Metric, paired_test


def compare_weights(run: Run) -> pd.DataFrame:
    """A row per fold and weights, and of all held-out rows together (fold "all").

    Columns: score (the metric) with its 95 % interval (low, high), every other score by its name, and p, of
    the averaged weights against these (``paired_test``).
    """
    folds = run.predictions["fold"].to_numpy()
    rows = []
    for fold in [*run.folders, "all"]:
        chosen = np.ones(len(folds), dtype=bool) if fold == "all" else folds == fold
        rows += [
            {"fold": fold, "weights": weights, **_scores(run, weights, chosen)} for weights in run.weights
        ]
    return pd.DataFrame(rows)


def _scores(run: Run, weights: str, rows: np.ndarray) -> dict[str, float]:
    """The scores of some weights over the rows of a mask."""
    task, groups = run.task, run.predictions["group"].to_numpy()[rows]
    targets, predictions = run.targets[rows], run.values(weights)[rows]
    low, high = task.interval(targets, predictions, groups)
    p = float("nan")
    if weights != "averaged" and "averaged" in run.weights:
        p = paired_test(run.errors("averaged")[rows], run.errors(weights)[rows], groups)
    scores = task.scores(targets, predictions)
    score = scores.pop(task.metric.name)
    return {"score": score, "low": low, "high": high, **scores, "p": p}


def verdict(comparison: pd.DataFrame, metric: Metric) -> str:
    """What the averaging did, in a sentence or two, over all held-out texts; if it did not help, that."""
    overall = comparison[comparison["fold"] == "all"].set_index("weights")
    if "averaged" not in overall.index:
        return "Nothing was averaged in this run."
    averaged = overall.loc["averaged", "score"]
    names = {"last": "the last weights", "best": "the best epoch's"}
    sentences = [
        _difference(averaged, overall.loc[weights, "score"], overall.loc[weights, "p"], name)
        for weights, name in names.items()
        if weights in overall.index
    ]
    others = overall.drop(index="averaged")
    better = others["score"].map(lambda score: metric.is_better(averaged, score))
    opening = _opening(better, others["p"] < 0.05)
    return (
        f"**{opening}**: over all held-out texts, the {metric.label} of the averaged weights is "
        f"{', and '.join(sentences)}."
    )


def _difference(averaged: float, other: float, p: float, name: str) -> str:
    significant = (
        "a difference that chance would seldom make" if p < 0.05 else "no more than chance would make"
    )
    word = "lower" if averaged < other else "higher"
    difference = f"{abs(averaged - other):.4f} {word} than"
    if abs(averaged - other) < 5e-5:
        difference = "to four digits the same as"
    return f"{difference} with {name} (p = {p:.2g}: {significant})"


def _opening(better: pd.Series, significant: pd.Series) -> str:
    """The verdict in a word, from whether the averaged weights beat each rival, and whether beyond chance."""
    helped = (significant & better).any()
    if (significant & ~better).any():
        return "Averaging helped in part" if helped else "Averaging did not help"
    if helped:
        return "Averaging helped" if better.all() else "Averaging helped in part"
    return "Averaging may have helped, or luck has" if better.any() else "Averaging did not help"
