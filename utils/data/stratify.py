"""Folds over which several labels of a row are spread evenly. No kept library does it with groups."""

import numpy as np
import pandas as pd


def spread_labels(labels: np.ndarray, groups: pd.Series, n_folds: int, seed: int) -> np.ndarray:
    """The fold of each row, (rows,): each label, and the rows, spread over the folds, and no group split.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011), of groups: the label of which the fewest
    rows are left goes first, its largest groups first, each to the fold that lacks most of that label.

    Args:
        labels: (rows, labels), of 0 and 1.
        groups: (rows,), equal where rows belong together.
    """
    numbers = groups.factorize()[0]
    counts = np.zeros((numbers.max() + 1, labels.shape[1] + 1))  # of each label, and of rows, by group
    np.add.at(counts, numbers, np.column_stack([labels, np.ones(len(labels))]))
    wanted = np.tile(counts.sum(axis=0) / n_folds, (n_folds, 1))
    random, folds = np.random.default_rng(seed), np.full(len(counts), -1)
    while (waiting := folds < 0).any():
        left = counts[waiting].sum(axis=0)
        rarest = np.where(left > 0, left, np.inf)[:-1].argmin() if left[:-1].any() else -1
        candidates = random.permutation(np.flatnonzero(waiting & (counts[:, rarest] > 0)))
        for group in candidates[np.argsort(-counts[candidates, rarest], kind="stable")]:
            lack = np.column_stack([wanted[:, rarest], wanted[:, -1], random.random(n_folds)])
            folds[group] = np.lexsort(lack.T[::-1])[-1]
            wanted[folds[group]] -= counts[group]
    return folds[numbers]
