"""How much each class counts in the loss: as the user says, or by how rare it is."""

import numpy as np

from utils.config import InputError


def class_weights(given: tuple[str, ...], codes: np.ndarray, sizes: list[int]) -> list[float] | None:
    """Of each target's classes, one target after the other; None: all are 1.

    "balanced" are in inverse proportion to the classes' shares of the training rows, and 1 on average over
    the rows.

    Args:
        codes: class numbers of the training rows, (rows, targets), NaN where missing.
    """
    if given != ("balanced",):
        return _numbers("class_weights", given, sum(sizes), "balanced", "label")
    weights: list[float] = []
    for column, size in zip(codes.T, sizes, strict=True):
        counts = np.bincount(column[~np.isnan(column)].astype(int), minlength=size)
        weights += (counts.sum() / (np.maximum(counts, 1) * (counts > 0).sum())).tolist()
    return weights


def pos_weight(given: tuple[str, ...], codes: np.ndarray) -> list[float] | None:
    """Of each target its second class's weight; None: 1. "auto" is negatives over positives in training."""
    if given != ("auto",):
        return _numbers("pos_weight", given, codes.shape[1], "auto", "target")
    return [float((column == 0).sum() / max((column == 1).sum(), 1)) for column in codes.T]


def _numbers(setting: str, given: tuple[str, ...], n: int, word: str, what: str) -> list[float] | None:
    """The numbers that a setting gives, one per label or target; None where it gives none."""
    if not given:
        return None
    try:
        numbers = [float(value) for value in given]
    except ValueError:
        numbers = []
    if len(numbers) != n or not all(0 < number < np.inf for number in numbers):
        raise InputError(
            f"{setting}={','.join(given)!r} cannot be used; write {word}, or a positive number for each of "
            f"the {n} {what}s."
        )
    return numbers
