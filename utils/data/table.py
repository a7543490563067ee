"""The table of texts: checking and cleaning it, and telling two tables apart."""

import hashlib
import re
import unicodedata
import warnings

import pandas as pd

from utils.config import GROUPED, Config, InputError, nearest
from utils.machine.runtime import say

#: Where a table's attrs say how many lines of its file make a row, if these are several.
LINES_PER_ROW = "lines_per_row"
#: Where the attrs of a part of a table say how many rows are before it.
ROWS_BEFORE = "rows_before"


def clean_text(text: str) -> str:
    """``text`` with each run of white space as one space. Deleting newlines would glue words together."""
    return re.sub(r"\s+", " ", text).strip()


def check_table(
    table: pd.DataFrame, config: Config, where: str = "the table", targets: bool = True
) -> pd.DataFrame:
    """``table`` with a fresh index, checked ids and cleaned texts; the targets are left to the task.

    Args:
        where: the table's name in messages.
        targets: False for a test set, which has none. Its empty and missing texts are warned of and become
            "", since whoever submits to a hidden test set cannot mend it.

    Raises InputError, naming the first row at fault, for a missing or duplicated column, an empty or
    non-string text, a missing or duplicated id, or a table without rows.
    """
    columns = [config.id_column, *config.text_columns, *(config.target_columns if targets else ())]
    if config.fold_by in GROUPED and targets:
        columns.append(config.group_column)
    table = match_columns(table, columns, where)
    check_columns(table, columns, where)
    if table.empty:
        raise InputError(f"{where} has a header but no rows.")
    table = table.reset_index(drop=True)
    for column in config.text_columns:
        table[column] = _check_texts(table, column, where, may_be_empty=not targets)
    ids = table[config.id_column]
    check_rows(
        table, ids.isna() | (ids.astype(str).str.strip() == ""), config.id_column, "holds an empty id", where
    )
    check_rows(table, ids.astype(str).duplicated(), config.id_column, "repeats an id", where)
    table[config.id_column] = ids.astype(str)
    if len(empty := table.index[(table[config.text_columns] == "").any(axis=1)]):  # only of a test set
        before = table.attrs.get(ROWS_BEFORE, 0)
        names = ", ".join(f"{before + row + 1} ({table[config.id_column][row]})" for row in empty[:5])
        warnings.warn(
            f"{where}: {len(empty)} of {len(table)} texts are empty, in row {names}"
            f"{', …' if len(empty) > 5 else ''}; they get the model's score of an empty text.",
            stacklevel=2,
        )
    return table


def _check_texts(table: pd.DataFrame, column: str, where: str, may_be_empty: bool) -> pd.Series:
    """A column's texts, cleaned; a missing one becomes "" where it may be empty."""
    texts = table[column]
    if may_be_empty:
        texts = texts.astype(object).where(texts.notna(), "")
    strings = texts.map(lambda text: isinstance(text, str))
    check_rows(table, ~strings, column, "holds something that is not text", where)
    cleaned = texts.map(clean_text)
    if not may_be_empty:
        check_rows(table, cleaned == "", column, "holds an empty text", where)
    return cleaned


def join_texts(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Each row's texts as one, with a line break between them, for counting and comparing."""
    first, *others = columns
    return table[first].str.cat([table[column] for column in others], sep="\n") if others else table[first]


def match_columns(table: pd.DataFrame, columns: list[str], where: str) -> pd.DataFrame:
    """``table`` with names that differ from ``columns`` by space, case or invisible characters made alike."""
    names = {}
    for column in [column for column in columns if column not in table.columns]:
        alike = [name for name in table.columns if name not in columns and _bare(name) == _bare(column)]
        if len(alike) == 1:
            say(f"{where}: column {alike[0]!r} is read as {column!r}.")
            names[alike[0]] = column
    return table.rename(columns=names)


def _bare(name: str) -> str:
    """A column's name in lower case, with single spaces and without characters that nobody sees."""
    shown = [c for c in unicodedata.normalize("NFKC", str(name)) if unicodedata.category(c) != "Cf"]
    return " ".join("".join(shown).split()).casefold()


def check_columns(table: pd.DataFrame, columns: list[str], where: str) -> None:
    """Raise InputError for a column that ``table`` lacks or has twice."""
    for column in columns:
        if column not in table.columns:
            if len(table.columns) == 1 and column in re.split(r"[^\w.-]+", only := str(table.columns[0])):
                raise InputError(f"{where} has a single column, {only!r}; separate its columns by commas.")
            raise InputError(f"{where} has no column {column!r}; {nearest(column, table.columns)}")
        if list(table.columns).count(column) > 1:
            raise InputError(f"{where} has the column {column!r} more than once; keep one.")


def check_rows(table: pd.DataFrame, bad: pd.Series, column: str, problem: str, where: str) -> None:
    """Raise InputError if any row is ``bad``, naming the first of them and its value."""
    if bad.any():
        position = int(bad.to_numpy().argmax())
        value, row = str(table[column].iloc[position])[:40], position + table.attrs.get(ROWS_BEFORE, 0)
        more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
        size = table.attrs.get(LINES_PER_ROW, 0)
        lines = f" (lines {size * row + 1} to {size * row + size})" if size else ""
        raise InputError(f"{where}: column {column!r} {problem} in row {row + 1}{lines}{more}: {value!r}.")


def fingerprint(table: pd.DataFrame, config: Config) -> str:
    """A hash of ids, texts, targets and folds, which tells whether two runs saw the same data."""
    columns = [config.id_column, *config.text_columns, *config.target_columns, "fold"]
    if config.pair_column and "start" in table and "start" not in columns:  # where an aspect stands
        columns.append("start")
    numbers = table[columns].select_dtypes("floating") + 0.0  # older versions of pandas tell -0.0 from 0.0
    hashes = pd.util.hash_pandas_object(table[columns].assign(**numbers), index=False)
    return hashlib.sha256(hashes.to_numpy()).hexdigest()[:16]
