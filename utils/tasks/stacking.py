"""Several models' predictions combined by weights that are fitted to them."""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import RidgeCV


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


def known_rows(column: np.ndarray) -> np.ndarray | slice:
    """The rows in which a target is known, as an index; a slice, which copies nothing, if it is in all."""
    known = ~np.isnan(column)
    return slice(None) if known.all() else known
