"""Reading delimited text: what separates its columns, and rows that a stray quote has swallowed."""

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator
from typing import IO

import pandas as pd

from utils.config import InputError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def read_delimited(data: bytes, where: str) -> pd.DataFrame:
    """A table of strings from UTF-8 text. Raises InputError for rows that do not fit the header."""
    return next(read_chunks(io.BytesIO(data), data, where))


def read_chunks(
    stream: IO[bytes], head: bytes, where: str, rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """``read_delimited`` of a stream, some ``rows`` at a time; None: all at once.

    Args:
        head: how the stream begins, with 200 rows or more if it has as many; they tell the separator.
    """
    start = re.match(rb'(\xef\xbb\xbf)?("?sep=(.)"?\r?\n)?', head, re.IGNORECASE)  # sep=: as Excel writes it
    assert start is not None
    stream.seek(start.end())
    head = head[start.end() :]
    separator = start[3].decode("latin-1") if start[3] else _separator(head)
    header = _first_records(head, separator)[0]
    if not header:
        raise InputError(f"{where} cannot be read as a CSV table, since it is empty; name another file.")
    padded = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    options = {"sep": separator, "skipinitialspace": padded, "dtype": str, "keep_default_na": False}
    with _readable_rows(separator, header, where):
        reader = pd.read_csv(stream, encoding="utf-8", iterator=True, **options)
    check_unique(header, where)
    while True:
        try:
            with _readable_rows(separator, header, where):
                table = reader.get_chunk(rows) if rows else reader.read()
        except StopIteration:
            return
        if not isinstance(table.index, pd.RangeIndex):  # how pandas reads rows longer than the header
            raise InputError(
                f"{where} has rows with more fields than {_columns(header)}; quote the texts that hold "
                f"{SEPARATORS.get(separator, repr(separator))}."
            )
        table = table.fillna("")  # of rows shorter than the header
        check_swallowed(table, separator, where)
        yield table


def _columns(header: list[str]) -> str:
    return f"its single column {header[0]!r}" if len(header) == 1 else f"its {len(header)} columns"


@contextlib.contextmanager
def _readable_rows(separator: str, header: list[str], where: str) -> Iterator[None]:
    """Say in one sentence which rows pandas cannot read, and what to do."""
    try:
        yield
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        reason = reason.replace("EOF inside string starting at", "a quote is never closed from")
        commas = SEPARATORS.get(separator, repr(separator))
        advice = f"quote the texts that hold {commas}, and double the quotes in them"
        raise InputError(
            f"{where} cannot be read as a CSV table ({reason}) with {_columns(header)}; {advice}."
        ) from None
    except UnicodeDecodeError as error:  # of a file that is read in parts; another is decoded as a whole
        raise InputError(f"{where} is not UTF-8 text ({error.reason}); save it as a UTF-8 CSV.") from None


def check_unique(header: list[str], where: str) -> None:
    """Raise InputError for a column that a file has twice."""
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        times = header.count(repeated[0])
        raise InputError(f"{where} has the column {repeated[0]!r} {times} times; keep one.")


def _separator(data: bytes) -> str:
    """The first separator that gives each of a sample of rows several fields, as many as the header has.

    Where none does, rows are at fault, and it is the one that gives the header the most.
    """
    widths = {separator: [*map(len, _first_records(data, separator))] for separator in SEPARATORS}
    fitting = [separator for separator, (first, *rest) in widths.items() if first > 1 and {*rest} <= {first}]
    return fitting[0] if fitting else max(widths, key=lambda separator: widths[separator][0])


def _first_records(data: bytes, separator: str) -> list[list[str]]:
    """The header and up to 199 rows."""
    text, records = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""), []
    with contextlib.suppress(csv.Error):  # a field of more than 128 KiB
        records += itertools.islice(filter(None, csv.reader(text, delimiter=separator)), 200)
    return records or [[]]


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
    if len(cell) > 100 or re.search(r"\s", cell) or not re.search(r"\d", cell):
        return ""
    number = re.fullmatch(r"[+-]?\d*([.,]\d*)?(e[+-]?\d+)?", cell, re.IGNORECASE)
    return "number" if number else re.sub(r"\w+", lambda word: str(len(word[0])), cell)


def _signs(cell: str, position: int, shapes: list[set[str]], separator: str) -> int:
    """How many numbers and codes stand where rows have them; 0 where a line cannot belong to rows.

    The first line is the end of a row, from column ``position``; the last one a row's start, up to there.
    """
    first, *whole, last = cell.replace("\r", "").split("\n")
    after, before = shapes[position + 1 :], shapes[:position]
    ends = [
        (before, last.split(separator, len(before))[:-1]),
        (after, first.rsplit(separator, len(after))[1:]),
    ]
    signs = 0
    for columns, cells in itertools.chain(ends, ((shapes, line.split(separator)) for line in whole)):
        if len(columns) != len(cells):
            return 0
        pairs = zip(columns, cells, strict=True)
        checks = [_shape(cell) in known for known, cell in pairs if known and "" not in known]
        if not all(checks):
            return 0
        signs += len(checks)
    return signs
