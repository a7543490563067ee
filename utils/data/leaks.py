"""What folds let leak: copies of texts, and labels of groups, that lie in several folds."""

import numpy as np
import pandas as pd

from utils.config import Config
from utils.data import copies
from utils.data.folds import plain_labels

MOST = 50_000  # texts among which near-copies are looked for unasked, in under a minute


def find_leaks(table: pd.DataFrame, config: Config, repeats_texts: bool = False) -> str:
    """A line each for exact copies, near-copies and labels of groups, with an example; "" if there are none.

    Args:
        table: with its folds.
        repeats_texts: rows share a text by design, and that alone makes them no copies.
    """
    copy = copies.exact_copies(table[config.text_column])
    lines = [_label_line(table, config), "" if repeats_texts else _exact_line(table, config, copy)]
    if len(table) <= MOST or config.near_copies == "group":
        lines.append(_near_line(table, config, copy))
    else:
        lines.append(f"Near-copies are not looked for among {len(table)} texts, unless near_copies=group.")
    return "\n".join(filter(None, lines))


def _label_line(table: pd.DataFrame, config: Config) -> str:
    """Labels of groups that are written in several ways, or whose rows the user's own folds part."""
    if config.fold_by not in ("group", "column") or config.group_column not in table:
        return ""
    labels = table[config.group_column].astype(str)
    plain = plain_labels(labels)
    ways = labels.groupby(plain).unique()
    several = ways[ways.map(len) > 1]
    line = f"Column {config.group_column!r}: "
    if len(several):
        line += f"labels such as {several.iloc[0][0]!r} and {several.iloc[0][1]!r} count as one. "
    parted = table["fold"].groupby(plain[plain != ""]).nunique() > 1
    if parted.any():
        line += f"{parted.sum()} groups, such as {parted.idxmax()!r}, lie in several folds."
    return line.strip() if len(several) or parted.any() else ""


def _exact_line(table: pd.DataFrame, config: Config, copy: np.ndarray) -> str:
    repeated = pd.Series(copy).duplicated(keep=False).to_numpy()
    if not repeated.any():
        return ""
    n = len(set(copy[repeated]))
    opening = f"{n} text{'s occur' if n > 1 else ' occurs'} more than once, in {repeated.sum()} rows"
    return f"{opening}, {_fate(table, config, copy, repeated, 'exact_copies')}"


def _near_line(table: pd.DataFrame, config: Config, copy: np.ndarray) -> str:
    pairs = copies.near_copies(table[config.text_column])
    if not len(pairs):
        return ""
    clusters = copies.join(len(table), copy[pairs])[copy]
    near = np.isin(clusters, clusters[pairs])
    opening = f"{len(set(copy[near]))} texts are near-copies of others (character 5-grams, cosine over 0.9)"
    return f"{opening}, {_fate(table, config, clusters, near, 'near_copies')}"


def _fate(table: pd.DataFrame, config: Config, clusters: np.ndarray, chosen: np.ndarray, setting: str) -> str:
    """An example of the clusters of the chosen rows, and whether folds part them."""
    rows = table[chosen].assign(cluster=clusters[chosen])
    parted = rows.groupby("cluster")["fold"].nunique() > 1
    example = rows[rows["cluster"] == parted.idxmax()]  # one that is parted, if any is
    ids, text = example[config.id_column], example[config.text_column].iloc[0]
    shown = f"such as {ids.iloc[0]!r} and {ids.iloc[-1]!r} ({text[:50]!r})"
    if not parted.any():
        return f"{shown}; each lies in one fold."
    remedy = "mend the column" if config.fold_by == "column" else f"{setting}=group keeps them together"
    return f"{shown}; {parted.sum()} of {len(parted)} lie in several folds, and scores flatter: {remedy}."
