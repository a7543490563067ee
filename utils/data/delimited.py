"""Reading delimited text: what separates its columns, and rows that a stray quote has swallowed."""

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator

import pandas as pd

from utils.config import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_delimited(data: bytes, where: str) -> pd.DataFrame:
    """A table of strings from UTF-8 text. Raises InputError for rows that do not fit the header."""
    stated = re.match(rb'"?sep=(.)"?\r?\n', data, re.IGNORECASE)  # Excel's own first line
    data = data[stated.end() :] if stated else data
    separator = stated[1].decode("latin-1") if stated else _separator(data)
    commas = SEPARATORS.get(separator, repr(separator))
    try:
        header = next(_records(data, separator), [])
        padded = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
        options = {"sep": separator, "skipinitialspace": padded, "dtype": str, "keep_default_na": False}
        table = pd.read_csv(io.BytesIO(data), encoding="utf-8", **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        reason = reason.replace("EOF inside string starting at", "a quote is never closed from")
        raise InputError(
            f"{where} cannot be read as a CSV table ({reason}); quote the texts that hold {commas}, and "
            "double the quotes in them."
        ) from None
    check_unique(header, where)
    if not isinstance(table.index, pd.RangeIndex):  # how pandas reads rows longer than the header
        raise InputError(
            f"{where} has rows with more fields than its header; quote the texts that hold {commas}."
        )
    table = table.fillna("")  # of rows shorter than the header
    check_swallowed(table, separator, where)
    return table


def check_unique(header: list[str], where: str) -> None:
    """Raise InputError for a column that a file has twice."""
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        times = header.count(repeated[0])
        raise InputError(f"{where} has the column {repeated[0]!r} {times} times; keep one.")


def _separator(data: bytes) -> str:
    """The first separator that gives each of a sample of rows several fields, as many as the header has.

    Where none does, rows are at fault, and it is the one that gives the header the most.
    """
    widths: dict[str, list[int]] = {separator: [] for separator in SEPARATORS}
    for separator, counts in widths.items():
        with contextlib.suppress(csv.Error):  # a field of more than 128 KiB
            counts += map(len, itertools.islice(_records(data, separator), 200))
        if counts and counts[0] > 1 and len(set(counts)) == 1:
            return separator
    return max(widths, key=lambda separator: widths[separator][:1])


def _records(data: bytes, separator: str) -> Iterator[list[str]]:
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    return filter(None, csv.reader(text, delimiter=separator))


def check_swallowed(table: pd.DataFrame, separator: str, where: str) -> None:
    """Raise InputError for a field that holds what looks like rows, since a stray quote opened it.

    Texts may well hold line breaks and separators. Rows betray themselves by numbers and codes where their
    columns have them: in every line, and two at least.
    """
    shapes = [{_shape(cell) for cell in table[name] if cell and "\n" not in cell} for name in table.columns]
    for position, name in enumerate(table.columns):
        for row, cell in enumerate(table[name]):
            if "\n" in cell and _signs(cell, position, shapes, separator) > 1:
                raise InputError(
                    f"{where}: column {name!r} holds what looks like further rows in row {row + 1}; double "
                    "or remove the quote that opens it, or if the text is meant so, save the table as .jsonl."
                )


def _shape(cell: str) -> str:
    """What a number, or a code such as an id, looks like; empty for other texts."""
    if re.fullmatch(r"[+-]?\d*[.,]?\d+(e[+-]?\d+)?", cell, re.IGNORECASE):
        return "number"
    code = re.fullmatch(r"\S*\d\S*", cell)
    return re.sub(r"\w+", lambda word: str(len(word[0])), cell) if code else ""


def _signs(cell: str, position: int, shapes: list[set[str]], separator: str) -> int:
    """How many numbers and codes stand where rows have them; 0 where a line cannot belong to rows.

    The first line is the end of a row, from column ``position``; the last one a row's start, up to there.
    """
    first, *whole, last = cell.replace("\r", "").split("\n")
    after, before = shapes[position + 1 :], shapes[:position]
    pieces = [(after, first.rsplit(separator, len(after))[1:])]
    pieces += [(shapes, line.split(separator)) for line in whole]
    pieces += [(before, last.split(separator, len(before))[:-1])]
    if any(len(columns) != len(cells) for columns, cells in pieces):
        return 0
    pairs = [pair for piece in pieces for pair in zip(*piece, strict=True)]
    signs = [_shape(cell) in known for known, cell in pairs if known and "" not in known]
    return len(signs) if all(signs) else 0
