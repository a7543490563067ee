"""Several models' predictions, or what their heads read, combined by weights that are fitted to them."""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils.tasks.baselines import probabilities


def stack_by_ridge(predictions: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge weights for the models' predictions of each target, their strength cross-validated.

    Args:
        predictions: (models, rows, targets); targets: (rows, targets), NaN where missing.

    Returns:
        A function from predictions, (models, rows, targets), to their combination, (rows, targets).
    """
    alphas = np.logspace(-3, 3, 13)
    known = [known_rows(column) for column in targets.T]
    ridges = [
        RidgeCV(alphas=alphas).fit(predictions[:, rows, i].T, targets[rows, i])
        for i, rows in enumerate(known)
    ]
    return lambda new: np.stack([ridge.predict(new[:, :, i].T) for i, ridge in enumerate(ridges)], axis=1)


def fit_numbers(states: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """What ridge on pooled states, (rows, width), predicts for new ones, (rows, targets), NaN being missing.

    Its strength is cross-validated.
    """
    columns, alphas = [], np.logspace(0, 6, 13)
    for column in targets.T:
        rows = known_rows(column)
        ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=alphas)).fit(states[rows], column[rows])
        columns.append(ridge.predict(new))
    return np.stack(columns, axis=1)


def fit_classes(
    states: np.ndarray, targets: np.ndarray, sizes: list[int], new: np.ndarray
) -> list[np.ndarray]:
    """What logistic regression on pooled states, (rows, width), gives each target's classes, (rows, classes).

    Of a strength that suits a few thousand rows and a few hundred numbers each.
    """
    parts = []
    for codes, size in zip(targets.T, sizes, strict=True):
        rows, model = known_rows(codes), LogisticRegression(C=0.01, max_iter=1000)
        scaled = make_pipeline(StandardScaler(), model)
        parts.append(probabilities(codes[rows].astype(int), size, states[rows], new, scaled))
    return parts


def known_rows(column: np.ndarray) -> np.ndarray | slice:
    """The rows in which a target is known, as an index; a slice, which copies nothing, if it is in all."""
    known = ~np.isnan(column)
    return slice(None) if known.all() else known
