"""Choosing the task from the targets."""

import functools
import os
from pathlib import Path

from utils.config import Config
from utils.data.reading import read_table
from utils.data.sources import find_table
from utils.data.table import check_columns, match_columns
from utils.machine.runtime import display_path, say
from utils.tasks.numbers import MISSING, NUMBER

MOST_GRADES = 20  # different whole numbers that are taken for grades


def name_from_targets(config: Config) -> str:
    """The task for which the target columns of ``config.data`` look made; says which, and why, once.

    Numbers with fractions are never taken for classes.
    """
    path = find_table(config.data)
    changed = os.stat(path).st_mtime_ns
    return _name(path, changed, config.target_columns)


@functools.lru_cache
def _name(path: Path, changed: int, columns: tuple[str, ...]) -> str:
    where = display_path(path)
    table = match_columns(read_table(path), list(columns), where)
    check_columns(table, list(columns), where)
    cells = [{str(cell).strip() for cell in table[column]} for column in columns]
    name, reason = choose([{cell for cell in each if cell.lower() not in MISSING} for each in cells])
    say(f"task=auto: {name}, since {reason}; set task to choose another.")
    return name


def choose(values: list[set[str]]) -> tuple[str, str]:
    """The task's name and the reason, from the different values of each target column, as strings."""
    everything = set().union(*values)
    columns = "the targets hold" if len(values) > 1 else "the target holds"
    if len(values) > 1 and everything <= {"0", "1"}:
        return "multilabel", "every target column holds 0 and 1"
    if not all(NUMBER.fullmatch(value) for value in everything):
        most = max(map(len, values))
        return (
            ("binary", f"{columns} two labels") if most <= 2 else ("multiclass", f"{columns} {most} labels")
        )
    if any(float(value) % 1 for value in everything):
        return "regression", f"{columns} numbers with fractions"
    if len(everything) <= 2:
        return "binary", f"{columns} two whole numbers"
    if len(everything) <= MOST_GRADES:
        return "ordinal", f"{columns} {len(everything)} different whole numbers, as grades do"
    return "regression", f"{columns} {len(everything)} different numbers"
