"""Scores of predictions, over a whole fold."""

import numpy as np
from scipy.stats import bootstrap, pearsonr, permutation_test, spearmanr
from sklearn.metrics import r2_score, root_mean_squared_error


def score(targets: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict[str, float]:
    """Scores of one model on one fold.

    Args:
        targets, predictions: (rows, targets), in the targets' own units.
        names: the targets' names.

    Returns:
        "rmse": the root mean squared error over all rows; with several targets the mean of theirs (MCRMSE), and
        "rmse <name>" of each. "pearson", "spearman", "r2": means over the targets; NaN where a target is constant.
    """
    columns = range(len(names))
    errors = [root_mean_squared_error(targets[:, i], predictions[:, i]) for i in columns]
    scores = {"rmse": float(np.mean(errors))}
    if len(names) > 1:
        scores |= {f"rmse {name}": float(error) for name, error in zip(names, errors, strict=True)}
    pairs = [(targets[:, i], predictions[:, i]) for i in columns]
    varied = len(targets) > 1 and all(np.ptp(column) > 0 for pair in pairs for column in pair)
    for name, function in (("pearson", lambda x, y: pearsonr(x, y)[0]), ("spearman", lambda x, y: spearmanr(x, y)[0]),
                           ("r2", r2_score)):  # fmt: skip
        scores[name] = float(np.mean([function(*pair) for pair in pairs])) if varied else float("nan")
    return scores


def batch_rmse(targets: np.ndarray, predictions: np.ndarray, batch_size: int = 4) -> float:
    """The published notebook's number: RMSE within each batch of four rows, averaged over the batches.

    It reads lower than the true RMSE, since the root of a mean is more than the mean of roots.
    """
    errors = ((targets - predictions) ** 2).mean(axis=1)
    starts = range(0, len(errors), batch_size)
    return float(np.mean([np.sqrt(errors[start : start + batch_size].mean()) for start in starts]))


def rmse_interval(squared_errors: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the RMSE (with several targets, of the mean of theirs).

    Whole groups are drawn, since texts of one page or topic do not err independently.

    Args:
        squared_errors: (rows, targets).
        groups: (rows,), equal where rows belong together.
    """
    sums, counts = _by_group(squared_errors, groups)
    if len(counts) < 2:
        return float("nan"), float("nan")  # one group says nothing of others

    def rmse(*columns, axis):
        *errors, rows = columns
        return np.mean([np.sqrt(e.sum(axis) / rows.sum(axis)) for e in errors], axis=0)

    found = bootstrap((*sums.T, counts), rmse, paired=True, vectorized=True, n_resamples=2000, method="percentile",
                      random_state=np.random.default_rng(seed))  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_test(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, seed: int = 0) -> float:
    """p-value of the hypothesis that two models' squared errors, each (rows, targets), could as well be swapped.

    A permutation test that swaps whole groups: two-sided, of the difference of the mean squared errors.
    """
    if len(np.unique(groups)) < 2:
        return float("nan")
    one, two = (_by_group(errors.mean(axis=1, keepdims=True), groups)[0][:, 0] for errors in (ours, theirs))
    found = permutation_test((one, two), lambda a, b, axis: a.sum(axis) - b.sum(axis), permutation_type="samples",
                             vectorized=True, n_resamples=4999, random_state=np.random.default_rng(seed))  # fmt: skip
    return float(found.pvalue)


def _by_group(squared_errors: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the squared errors, (groups, targets), and the number of rows of each group."""
    _, index = np.unique(groups, return_inverse=True)
    counts = np.bincount(index)
    return np.stack([np.bincount(index, column) for column in squared_errors.T], axis=1), counts
