"""Cuts: where, on a line of scores, one class ends and the next begins.

A probability of 0.5 is the wrong cut once ``pos_weight`` has shifted the logits, and halfway between two
grades is the wrong one for the quadratic weighted kappa. Better ones are fitted to predictions for rows that
the model did not see; on the rows they were fitted to they flatter.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from utils.tasks.metrics import Metric

#: How well classes were predicted, of true and predicted class numbers, each (rows,); higher is better.
Objective = Callable[[np.ndarray, np.ndarray], float]


@runtime_checkable
class Divided(Protocol):
    """A task whose predictions are decided by cuts, which may be fitted."""

    @property
    def has_cuts(self) -> bool: ...

    @property
    def label_metric(self) -> Metric:
        """What decisions are judged by."""

    def fit_cuts(self, targets: np.ndarray, predictions: np.ndarray) -> Any:
        """The cuts that suit these rows best."""

    def predicted(self, predictions: np.ndarray, cuts: Any = None) -> np.ndarray:
        """What is decided for each row, (rows, columns), by ``fit_cuts``'s cuts or the usual ones."""

    def label_score(self, targets: np.ndarray, labels: np.ndarray) -> float:
        """The metric of what ``predicted`` gives."""


def divide(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The class of each score, (rows,): how many cuts, in ascending order, it reaches."""
    return np.searchsorted(cuts, scores, side="right")


def fit_cuts(
    codes: np.ndarray, scores: np.ndarray, start: np.ndarray, objective: Objective, n_candidates: int = 100
) -> np.ndarray:
    """The cuts, (classes - 1,), with the best objective that moving one at a time finds from ``start``.

    Each cut may move to ``n_candidates`` quantiles of the scores between its neighbours, and moves only for a
    better objective, so that the result is never worse than ``start`` on these rows.

    Args:
        codes: true class numbers, (rows,).
        scores: (rows,), ascending with the class.
    """
    cuts, best = start.astype(float), objective(codes, divide(scores, start))
    while True:
        before = best
        for i in range(len(cuts)):
            for candidate in _candidates(scores, cuts, i, n_candidates):
                moved = np.concatenate([cuts[:i], [candidate], cuts[i + 1 :]])
                reached = objective(codes, divide(scores, moved))
                if reached > best + 1e-12:
                    cuts, best = moved, reached
        if best <= before:
            return cuts


def _candidates(scores: np.ndarray, cuts: np.ndarray, i: int, n_candidates: int) -> np.ndarray:
    """Quantiles of the scores between a cut's neighbours; halfway between two scores, where nothing lies."""
    low = cuts[i - 1] if i else -np.inf
    high = cuts[i + 1] if i + 1 < len(cuts) else np.inf
    inside = np.unique(scores[(scores > low) & (scores < high)])
    if len(inside) < 2:
        return inside
    middles = (inside[1:] + inside[:-1]) / 2
    return middles[np.unique(np.linspace(0, len(middles) - 1, n_candidates).round().astype(int))]
