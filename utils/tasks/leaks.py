"""What folds let leak: copies of texts, and groups, that lie in several of them."""

import numpy as np
import pandas as pd

from utils.config import GROUPED
from utils.data import copies
from utils.tasks.base import Task

MOST = 50_000  # texts among which near-copies are looked for unasked: a minute's work

EXACT = "Texts that occur more than once: {clusters}, in {rows} rows"
NEAR = "Near-copies (character 5-grams, cosine over 0.9): {rows} texts in {clusters} clusters"


def find_leaks(table: pd.DataFrame, task: Task) -> str:
    """A line each, with an example, for copies, near-copies and groups; "" where there is nothing to say.

    Args:
        table: from ``add_folds``.
    """
    texts = task.compared_texts(table)
    lines = [_groups(table, task)]
    if not task.repeats_texts:
        lines.append(_copies(table, task, copies.exact_copies(texts), EXACT, "exact_copies"))
    if len(table) <= MOST or task.config.near_copies == "group":
        clusters = copies.join(len(table), copies.near_copies(texts))
        lines.append(_copies(table, task, clusters, NEAR, "near_copies"))
    else:
        lines.append(f"Near-copies are looked for among {len(table)} texts only with near_copies=group.")
    return "\n".join(filter(None, lines))


def _copies(table: pd.DataFrame, task: Task, clusters: np.ndarray, what: str, setting: str) -> str:
    """How many rows share a cluster with others, which for example, and whether folds part them."""
    rows = table.assign(cluster=clusters)[pd.Series(clusters).duplicated(keep=False).to_numpy()]
    if rows.empty:
        return ""
    parted = rows.groupby("cluster")["fold"].nunique() > 1
    example = rows[rows["cluster"] == parted.idxmax()]  # one that is parted, if any is
    ids, text = example[task.config.id_column], example[task.config.text_column].iloc[0]
    counts = what.format(clusters=len(parted), rows=len(rows))
    line = f"{counts}, such as {ids.iloc[0]!r} and {ids.iloc[-1]!r} ({text[:50]!r}); "
    if not parted.any():
        if task.repeats_texts:
            return ""  # several rows on one text are near-copies by design
        return line + "none lies in several folds."
    by_column = task.config.fold_by == "column"
    remedy = "mend the column" if by_column else f"{setting}=group keeps them together"
    return line + f"{parted.sum()} of {len(parted)} lie in several folds, and scores flatter: {remedy}."


def _groups(table: pd.DataFrame, task: Task) -> str:
    """Labels that are groups of their own by white space or case alone; groups that lie in several folds."""
    config = task.config
    if config.fold_by not in (*GROUPED, "column") or config.group_column not in table:
        return ""
    labels = table[config.group_column].astype(str)
    plain, line = labels.str.split().str.join(" ").str.casefold(), ""
    ways = labels.groupby(plain).unique()
    ways = ways[ways.map(len) > 1]
    parted = table["fold"].groupby(plain[plain != ""]).nunique() > 1
    if len(ways):
        one, other = ways.iloc[0][:2]
        line = f" labels such as {one!r} and {other!r} are groups of their own; write them alike."
    if parted.any():
        line += f" {parted.sum()} groups, such as {parted.idxmax()!r}, lie in several folds."
    return line and f"Column {config.group_column!r}:{line}"
