"""The metric that a task is judged by, and what resampling says about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, monte_carlo_test

_BATCH = 2_000_000  # numbers that are resampled at once, or the memory would not suffice for many groups


@dataclass(frozen=True)
class Metric:
    """What a task is judged by. Whatever compares two scores asks the metric which is better.

    Args:
        name: its key in the scores, and the column of history.csv.
        label: its name in tables and plots.
        unit: what it is measured in; empty for a share or a correlation.
        needs: what rows must have for it to be defined; it is NaN where they have not.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool = False
    needs: str = ""

    def is_better(self, score: float, other: float) -> bool:
        return self.gain(score, other) > 0

    def gain(self, score: float, other: float) -> float:
        """By how much ``score`` is better than ``other``; negative where it is worse."""
        return score - other if self.higher_is_better else other - score

    def best(self, scores: Sequence[float]) -> int:
        """Where the best of the scores lies, the first of equals; NaN never is."""
        return int((np.nanargmax if self.higher_is_better else np.nanargmin)(scores))

    @property
    def axis(self) -> str:
        """The label of a plot's axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def bootstrap_interval(
    score: Callable[[np.ndarray], float], groups: np.ndarray, seed: int = 0, n_resamples: int = 500
) -> tuple[float, float]:
    """95 % bootstrap interval of any score.

    Whole groups are drawn, since texts of one topic do not err independently.

    Args:
        score: of some rows, given their numbers.
        groups: (rows,), equal where rows belong together.
    """
    names, index = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")  # one group says nothing about others
    sizes, order = np.bincount(index), np.argsort(index, kind="stable")
    starts = np.cumsum(sizes) - sizes  # of each group in ``order``

    def score_of_groups(numbers: np.ndarray) -> float:
        drawn = sizes[numbers]
        offsets = starts[numbers] - (np.cumsum(drawn) - drawn)
        return score(order[np.arange(drawn.sum()) + np.repeat(offsets, drawn)])

    options = {"vectorized": False, "n_resamples": n_resamples, "method": "percentile"}
    options["batch"] = _BATCH // len(names) + 1
    generator = np.random.default_rng(seed)
    result = bootstrap((np.arange(len(names)),), score_of_groups, **options, random_state=generator)
    low, high = np.nanpercentile(result.bootstrap_distribution, [2.5, 97.5])
    return float(low), float(high)


def rmse_interval(squared_errors: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the RMSE (with several targets, of the mean of theirs), by whole groups.

    Sums per group are resampled, which is much faster than to score the rows of each draw.

    Args:
        squared_errors: (rows, targets), NaN where a target is missing.
        groups: (rows,), equal where rows belong together.
    """
    known = ~np.isnan(squared_errors)
    sums, counts = (_by_group(values, groups) for values in (np.where(known, squared_errors, 0.0), known))
    n_targets = sums.shape[1]
    if len(counts) < 2:
        return float("nan"), float("nan")

    def rmse(*columns, axis):
        pairs = zip(columns[:n_targets], columns[n_targets:], strict=True)
        with np.errstate(invalid="ignore"):  # a draw may know nothing of a target
            return np.nanmean([np.sqrt(errors.sum(axis) / rows.sum(axis)) for errors, rows in pairs], axis=0)

    options = {"paired": True, "vectorized": True, "n_resamples": 2000, "method": "percentile"}
    options["batch"] = _BATCH // len(counts) + 1
    result = bootstrap((*sums.T, *counts.T), rmse, **options, random_state=np.random.default_rng(seed))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_test(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, seed: int = 0) -> float:
    """p-value of the hypothesis that two models' errors, each (rows, columns), could as well be swapped.

    A permutation test that swaps whole groups: two-sided, of the difference of the mean errors.
    """
    if len(np.unique(groups)) < 2:
        return float("nan")
    one, two = (_by_group(np.nanmean(errors, axis=1)[:, None], groups)[:, 0] for errors in (ours, theirs))
    difference, generator = one - two, np.random.default_rng(seed)

    def swapped(size: tuple[int, int]) -> np.ndarray:
        return np.where(generator.integers(0, 2, size, dtype=bool), difference, -difference)

    # scipy's permutation_test does the same, and takes a minute for 20,000 groups.
    options = {"n_resamples": 4999, "batch": _BATCH // len(difference) + 1}
    return float(monte_carlo_test(difference, swapped, np.sum, vectorized=True, **options).pvalue)


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of the values of each group, (groups, columns)."""
    _, index = np.unique(groups, return_inverse=True)
    return np.stack([np.bincount(index, column) for column in values.T], axis=1)


def batch_rmse(targets: np.ndarray, predictions: np.ndarray, batch_size: int = 4) -> float:
    """The published notebook's number: RMSE within each batch of four rows, averaged over the batches.

    It reads lower than the true RMSE, since the root of a mean is more than the mean of roots.
    """
    errors = np.nanmean((targets - predictions) ** 2, axis=1)
    starts = range(0, len(errors), batch_size)
    return float(np.mean([np.sqrt(errors[start : start + batch_size].mean()) for start in starts]))
