"""Labels as people write them in tables: words, whole numbers, yes and no, columns of 0 and 1."""

import numpy as np
import pandas as pd

from utils.config import InputError
from utils.data.table import check_rows
from utils.tasks.numbers import MISSING, NUMBER

MOST = 200  # classes of one target


def read_labels(table: pd.DataFrame, column: str, where: str, known: tuple[str, ...] = ()) -> pd.Series:
    """A column's cells as labels, str, NaN where a cell is empty.

    Numbers are written alike: 1, 1.0 and "1.0" are the label "1".

    Args:
        known: the labels that may occur; empty: any.

    Raises InputError for a label that is not known, or that differs from another by case alone.
    """
    cells = table[column].map(_tidy)
    labels = cells.where(~cells.str.lower().isin(MISSING))
    if known:
        strange = labels.notna() & ~labels.isin(known)
        check_rows(table, strange, column, f"holds none of the labels {', '.join(known)}", where)
    different = pd.Series(labels.dropna().unique(), dtype=object)
    alike = different[different.str.casefold().duplicated(keep=False)]
    if len(alike):
        one, other = sorted(alike, key=lambda label: (label.casefold(), label))[:2]
        raise InputError(f"{where}: column {column!r} holds both {one!r} and {other!r}; write them alike.")
    return labels


def _tidy(cell) -> str:
    text = "" if pd.isna(cell) is True else " ".join(str(cell).split())
    return f"{float(text):g}" if NUMBER.fullmatch(text) else text


def natural_order(labels: set[str]) -> tuple[str, ...]:
    """Numbers by their value; words by the alphabet, so that "no" comes before "yes"."""
    if all(NUMBER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=float))
    return tuple(sorted(labels))


def check_classes(table: pd.DataFrame, column: str, where: str, n_classes: int | None = None) -> None:
    """Raise InputError unless a column of labels has classes to learn: two or more, and not one per text.

    Args:
        n_classes: how many there must be; None: any number up to ``MOST``.
    """
    counts = table[column].value_counts()
    if len(counts) == 1:
        raise InputError(
            f"{where}: column {column!r} holds the label {counts.index[0]!r} alone; two are needed to learn."
        )
    if n_classes and len(counts) > n_classes:
        raise InputError(
            f"{where}: column {column!r} holds {len(counts)} labels, such as {', '.join(counts.index[:3])}, "
            f"and task=binary is for two; set task=multiclass."
        )
    if len(counts) > MOST or (len(counts) > 2 and len(counts) > len(table) / 2):
        raise InputError(
            f"{where}: column {column!r} holds {len(counts)} different labels in {len(table)} rows, such as "
            f"{counts.index[0]!r}; choose another column, or task=regression where these are numbers."
        )


def codes_of(labels: pd.Series, order: tuple[str, ...]) -> np.ndarray:
    """Each label's number in ``order``, float, NaN where it is missing."""
    return labels.map({label: float(code) for code, label in enumerate(order)}).to_numpy(dtype=float)
