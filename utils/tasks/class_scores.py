"""Scores of predicted classes: of labels, and of probabilities.

Each takes ``codes``, (rows,), the true classes' numbers; ``predicted``, (rows,), those of the predicted ones;
and ``probabilities``, (rows, classes). What rows cannot define is NaN.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from utils.tasks.metrics import Metric

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float]

_TWO = "rows of two classes"

ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True)
MACRO_F1 = Metric("macro_f1", "macro F1", higher_is_better=True)
F1 = Metric("f1", "F1", higher_is_better=True, needs="texts of that class")
QWK = Metric("qwk", "QWK", higher_is_better=True, needs="two different grades")
COMMON = (
    Metric("weighted_f1", "weighted F1", higher_is_better=True),
    Metric("macro_precision", "macro precision", higher_is_better=True),
    Metric("macro_recall", "macro recall", higher_is_better=True),
    Metric("auroc", "AUROC", higher_is_better=True, needs=_TWO),
    Metric("average_precision", "average precision", higher_is_better=True, needs=_TWO),
    Metric("log_loss", "log loss", "nats"),
    Metric("brier", "Brier score"),
    Metric("mcc", "Matthews correlation", higher_is_better=True, needs=_TWO),
)


def confusion(codes: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(classes, classes): how many rows of each true class, down, are predicted as each one, across.

    scikit-learn's takes some milliseconds, and an interval asks for thousands of them.
    """
    pairs = codes.astype(int) * n_classes + predicted.astype(int)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def by_class(codes: np.ndarray, predicted: np.ndarray, n_classes: int) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, (classes,): 0 where nothing was right, NaN for absent ones."""
    table = confusion(codes, predicted, n_classes)
    right, true, guessed = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    absent = np.where(true == 0, np.nan, 0.0)
    return {
        "precision": right / np.maximum(guessed, 1) + absent,
        "recall": right / np.maximum(true, 1) + absent,
        "f1": 2 * right / np.maximum(true + guessed, 1) + absent,
        "share": true / max(true.sum(), 1),
    }


def _macro(name: str) -> Score:
    """The mean over the classes that occur among the true ones."""
    return lambda codes, predicted, probabilities: _mean(
        by_class(codes, predicted, probabilities.shape[1])[name]
    )


def _mean(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def _weighted_f1(codes, predicted, probabilities) -> float:
    scores = by_class(codes, predicted, probabilities.shape[1])
    return float(np.nansum(scores["f1"] * scores["share"])) if len(codes) else float("nan")


def _one_against_rest(function) -> Score:
    """The mean over classes that some rows have and some lack; of two classes, of the second alone."""

    def score(codes, predicted, probabilities) -> float:
        classes = range(int(probabilities.shape[1] == 2), probabilities.shape[1])
        varied = [k for k in classes if 0 < (codes == k).sum() < len(codes)]
        return _mean(np.array([function(codes == k, probabilities[:, k]) for k in varied] or [np.nan]))

    return score


# scikit-learn's roc_auc_score and average_precision_score are these, in three to five times the time: 20
# seconds for an interval of 20,000 rows.


def area_under_roc(positive: np.ndarray, shares: np.ndarray) -> float:
    """The chance that a positive row's share is above a negative one's, from the sum of the ranks."""
    n = positive.sum()
    return float((rankdata(shares)[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def average_precision(positive: np.ndarray, shares: np.ndarray) -> float:
    """The mean precision at the thresholds, weighted by what each adds to the recall."""
    order = np.argsort(-shares, kind="stable")
    last = np.append(np.flatnonzero(np.diff(shares[order])), len(order) - 1)  # of equal shares
    found = np.cumsum(positive[order])[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / positive.sum())


def _accuracy(codes, predicted, probabilities) -> float:
    return float((codes == predicted).mean()) if len(codes) else float("nan")


def log_losses(codes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-log of the true class's probability, (rows,), which counts as 1e-7 where it is less."""
    true = probabilities[np.arange(len(codes)), codes.astype(int)]
    return -np.log(np.clip(true, 1e-7, 1.0))


def brier_scores(codes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The squared distance of the probabilities from the truth, (rows,).

    It is summed over the classes, and of two classes it is that of one, as usual: 0 to 1 there, else 0 to 2.
    """
    truth = np.eye(probabilities.shape[1])[codes.astype(int)]
    return ((probabilities - truth) ** 2)[:, int(probabilities.shape[1] == 2) :].sum(axis=1)


def _mcc(codes, predicted, probabilities) -> float:
    """Matthews correlation for any number of classes (Gorodkin 2004); 0 where only one is predicted."""
    table = confusion(codes, predicted, probabilities.shape[1]).astype(float)
    true, guessed, n = table.sum(axis=1), table.sum(axis=0), table.sum()
    if (true > 0).sum() < 2:
        return float("nan")
    spread = np.sqrt((n**2 - (true**2).sum()) * (n**2 - (guessed**2).sum()))
    return float((table.trace() * n - true @ guessed) / spread) if spread else 0.0


def quadratic_weighted_kappa(codes, predicted, probabilities) -> float:
    """1 - the mean squared distance over that of independent grades with the same shares (Cohen 1968)."""
    table = confusion(codes, predicted, probabilities.shape[1]).astype(float)
    true, guessed = table.sum(axis=1), table.sum(axis=0)
    distance = np.subtract.outer(np.arange(len(table)), np.arange(len(table))) ** 2.0
    expected = (np.outer(true, guessed) * distance).sum() / max(table.sum(), 1)
    return float(1 - (table * distance).sum() / expected) if (true > 0).sum() > 1 else float("nan")


#: Scores of labels, in which probabilities count for nothing.
OF_LABELS = ("accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "mcc", "qwk")
SCORES: dict[str, Score] = {
    "accuracy": _accuracy,
    "macro_f1": _macro("f1"),
    "weighted_f1": _weighted_f1,
    "macro_precision": _macro("precision"),
    "macro_recall": _macro("recall"),
    "auroc": _one_against_rest(area_under_roc),
    "average_precision": _one_against_rest(average_precision),
    "log_loss": lambda codes, predicted, probabilities: _mean(log_losses(codes, probabilities)),
    "brier": lambda codes, predicted, probabilities: _mean(brier_scores(codes, probabilities)),
    "mcc": _mcc,
    "qwk": quadratic_weighted_kappa,
}
