"""Scores of predictions, over a whole fold."""

import numpy as np
from scipy.stats import pearsonr, spearmanr
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
