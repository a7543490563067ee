"""Grades learnt in several ways, as numbers, as classes or by cuts, compared by one score."""

import functools

import numpy as np
import pandas as pd

from utils.runs.run import Run
from utils.tasks.class_scores import quadratic_weighted_kappa
from utils.tasks.metrics import bootstrap_interval, paired_test
from utils.tasks.ordinal import Ordinal
from utils.tasks.thresholds import divide, fit_cuts


def compare_grades(runs: dict[str, Run], weights: str = "averaged") -> pd.DataFrame:
    """The quadratic weighted kappa of each run's grades, rounded, and by cuts fitted to the other folds.

    Args:
        runs: of the ordinal task or of regression, by name, with the same rows; of several targets the first
            counts.
        weights: whose predictions: last, best or averaged.

    Returns:
        Columns run, rounded, low and high (95 % bootstrap intervals, by group), fitted, fitted_low and
        fitted_high (empty with one fold), and p: whether the rounded grades' squared distances from the truth
        could as well be the first run's.
    """
    rows, first = [], None
    for name, run in runs.items():
        codes, scores, n_grades = grade_scores(run, weights)
        groups = run.predictions["group"].to_numpy()
        rounded = divide(scores, np.arange(n_grades - 1) + 0.5)
        row = {"run": name} | _with_interval(codes, rounded, n_grades, groups, ("rounded", "low", "high"))
        if len(run.folders) > 1:
            fitted = _nested(codes, scores, n_grades, run.predictions["fold"].to_numpy())
            names = ("fitted", "fitted_low", "fitted_high")
            row |= _with_interval(codes, fitted, n_grades, groups, names)
        distance = (rounded - codes)[:, np.newaxis].astype(float) ** 2
        if first is not None:
            row["p"] = paired_test(distance, first, groups)
        first = distance if first is None else first
        rows.append(row)
    return pd.DataFrame(rows)


def grade_scores(run: Run, weights: str) -> tuple[np.ndarray, np.ndarray, int]:
    """True grade numbers, (rows,), the scores that are cut into grades, (rows,), and the number of grades.

    A number that regression predicts lies between the grades next to it.
    """
    targets, values = run.targets[:, 0], run.values(weights)
    if isinstance(run.task, Ordinal):
        part = run.task.by_target(values)[0]
        return targets.astype(int), run.task.place_on_line(part), part.shape[1]
    grades = np.unique(run.task.targets(run.table)[:, 0])
    scores = np.interp(values[:, 0], grades, np.arange(len(grades)))
    return np.searchsorted(grades, targets), scores, len(grades)


def _nested(codes: np.ndarray, scores: np.ndarray, n_grades: int, folds: np.ndarray) -> np.ndarray:
    """Each row's grade by cuts fitted to the other folds."""
    labels, start = np.empty(len(codes), dtype=int), np.arange(n_grades - 1) + 0.5
    objective = functools.partial(_kappa, n_grades)
    for fold in np.unique(folds):
        inside = folds != fold
        cuts = fit_cuts(codes[inside], scores[inside], start, objective)
        labels[~inside] = divide(scores[~inside], cuts)
    return labels


def _kappa(n_grades: int, codes: np.ndarray, predicted: np.ndarray) -> float:
    return quadratic_weighted_kappa(codes, predicted, np.empty((0, n_grades)))


def _with_interval(codes, predicted, n_grades, groups, names) -> dict[str, float]:
    low, high = bootstrap_interval(lambda rows: _kappa(n_grades, codes[rows], predicted[rows]), groups)
    return dict(zip(names, (_kappa(n_grades, codes, predicted), low, high), strict=True))
