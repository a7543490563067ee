"""Numbers as people write them in tables, read to the last bit as Python's float() reads them."""

import datetime
import decimal
import math
import numbers
import re

import numpy as np
import pandas as pd

from utils.data.table import check_rows
from utils.machine.runtime import say

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([,.' ]\d{3})+([.,]\d+)?", re.ASCII)

#: How tables write that a target is missing.
MISSING = ("", "nan", "na", "n/a", "null", "none", "<na>")


def read_numbers(table: pd.DataFrame, column: str, where: str) -> pd.Series:
    """A column's cells as float64, NaN where a cell is empty.

    pandas' own conversion rounds the last bit as its version does, which would make other data of the same
    file. Decimal commas are read, and said to be, where there are no points and they cannot mark thousands.

    Raises InputError naming the first cell that holds no number, and what it holds.
    """
    cells = table[column].map(_tidy)
    if _has_decimal_commas(cells.tolist()):
        say(f"{where}: column {column!r} is read with decimal commas.")
        cells = cells.map(lambda cell: cell.replace(",", "."))
    values = cells.map(_to_float).astype(float)
    bad = values.isna() & cells.map(lambda cell: not isinstance(cell, str) or cell != "")
    if bad.any():
        check_rows(table, bad, column, _problem(cells[bad].iloc[0]), where)
    return values


def _tidy(cell):
    """A string without space around it and with a plain minus sign; a missing cell as an empty one."""
    if isinstance(cell, str):
        return cell.strip().replace("\N{MINUS SIGN}", "-")
    return "" if pd.isna(cell) is True else cell


def _has_decimal_commas(cells: list) -> bool:
    """Whether commas must mark decimals: there are no points, and one comma cannot mark thousands."""
    texts = [cell for cell in cells if isinstance(cell, str) and cell]
    commas = [text for text in texts if DECIMAL_COMMA.fullmatch(text)]
    whole = [text for text in texts if NUMBER.fullmatch(text) and "." not in text]
    return len(commas) + len(whole) == len(texts) and not all(map(THOUSANDS.fullmatch, commas))


def _to_float(cell) -> float:
    if isinstance(cell, str):
        return float(cell) + 0.0 if NUMBER.fullmatch(cell) else math.nan  # -0.0 is 0.0
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, numbers.Real | decimal.Decimal):
        return math.nan
    try:
        return float(cell) + 0.0
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def _problem(cell) -> str:
    """What a cell holds that is no number."""
    if isinstance(cell, bool | np.bool_) or str(cell).lower() in ("true", "false", "yes", "no"):
        return "holds yes or no where a number belongs (write 1 or 0)"
    if isinstance(cell, datetime.date | datetime.time):
        return "holds a date where a number belongs (a spreadsheet may have made it of 1.2 or 3-4)"
    if isinstance(cell, str) and (THOUSANDS.fullmatch(cell) or DECIMAL_COMMA.fullmatch(cell)):
        return "holds a number with thousands separators or a decimal comma (write 1234.5)"
    return "holds no finite number"
