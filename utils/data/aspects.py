"""Aspects of sentences as people write them: in three lines, marked, or in a column beside the text."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from utils.config import InputError
from utils.data.table import LINES_PER_ROW, check_rows, clean_text
from utils.machine.files import atomic_file, write_table
from utils.machine.runtime import display_path

MARK = "$T$"  # where the aspect stands, in the three-line format of SemEval 2014, PyABSA and ABSA-PyTorch
MARKED = re.compile(r"\[B-ASP\](.*?)\[E-ASP\]", re.DOTALL)


def in_three_lines(data: bytes, path: Path) -> bool:
    """Whether a file has the three-line format: the mark in its first line, or in any of a text file."""
    mark = MARK.encode()
    is_text = path.suffix.lower() in (".txt", ".raw", ".seg")
    return mark in data.split(b"\n", 1)[0] or (is_text and mark in data)


def read_three_lines(data: bytes, where: str) -> pd.DataFrame:
    """Columns id (a number from 1), text, aspect, start, end and polarity, from UTF-8 text.

    Raises InputError, with the line, for a sentence without the mark or with two, for an empty aspect or
    polarity, and for lines that are left over.
    """
    lines = re.split(r"\r?\n", data.decode("utf-8").rstrip())
    for number, line in enumerate(lines, start=1):
        part, marks = number % 3, line.count(MARK)
        if part == 1 and marks != 1:
            raise InputError(
                f"{where}: line {number} holds {marks or 'no'} {MARK}, and the first of three lines must "
                f"hold one, where the aspect stands: {line[:40]!r}; give each aspect three lines of its own."
            )
        if part != 1 and not line.strip():
            what = "aspect" if part == 2 else "polarity"
            raise InputError(f"{where}: line {number} is empty, and must hold the {what}; write it there.")
    if len(lines) % 3:
        raise InputError(
            f"{where} ends with line {len(lines)}, amid an aspect; each takes three lines: the sentence with "
            f"{MARK}, the aspect, the polarity."
        )
    aspects = [line.strip() for line in lines[1::3]]
    starts = [sentence.index(MARK) for sentence in lines[::3]]
    table = pd.DataFrame(
        {
            "id": [str(i + 1) for i in range(len(aspects))],
            "text": [s.replace(MARK, aspect) for s, aspect in zip(lines[::3], aspects, strict=True)],
            "aspect": aspects,
            "start": starts,
            "end": [start + len(aspect) for start, aspect in zip(starts, aspects, strict=True)],
            "polarity": [line.strip() for line in lines[2::3]],
        }
    )
    table.attrs[LINES_PER_ROW] = 3
    return table


def write_aspects(path: Path | str, table: pd.DataFrame) -> None:
    """Write columns text, aspect, start and polarity in the three-line format, or all columns as a CSV.

    Args:
        path: of a CSV if it ends in .csv.
        table: of aspects with their places, such as ``load_table`` gives under the preset's names.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return write_table(path, table)
    lines = []
    for row in table.itertuples():
        start, end = int(row.start), int(row.start) + len(row.aspect)
        if MARK in row.text or row.text[start:end] != row.aspect:
            why = f"holds {MARK} itself" if MARK in row.text else f"has no {row.aspect!r} at {start}"
            raise InputError(f"{display_path(path)} cannot be written: {row.text[:40]!r} {why}; use .csv.")
        lines += [row.text[:start] + MARK + row.text[end:], row.aspect, row.polarity]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return None


def split_marked(table: pd.DataFrame, text: str, aspect: str, where: str) -> pd.DataFrame:
    """A row per aspect of ``[B-ASP]food[E-ASP]``-marked sentences, with columns ``aspect``, start and end.

    Raises InputError for a sentence that marks none, or whose marks do not pair.
    """
    texts = table[text].map(lambda cell: cell if isinstance(cell, str) else "")
    plain = texts.map(lambda marked: MARKED.sub(r"\1", marked))
    places = [list(MARKED.finditer(marked)) for marked in texts]
    bad = (texts == plain) | plain.str.contains(r"\[[BE]-ASP\]")
    problem = f"marks no aspect as [B-ASP]...[E-ASP], and there is no column {aspect!r},"
    check_rows(table, bad, text, problem, where)
    rows = np.repeat(np.arange(len(table)), [len(found) for found in places])
    starts = [m.start(1) - 14 * i - 7 for found in places for i, m in enumerate(found)]
    aspects = [m[1] for found in places for m in found]
    ends = [start + len(name) for start, name in zip(starts, aspects, strict=True)]
    table = table.assign(**{text: plain}).iloc[rows].reset_index(drop=True)
    return table.assign(**{aspect: aspects, "start": starts, "end": ends})


def locate(table: pd.DataFrame, text: str, aspect: str, where: str) -> pd.DataFrame:
    """``table`` with texts and aspects cleaned, and whole numbers in start and end: where each aspect stands.

    Args:
        table: its column start, if there is one, counts characters of the text as it is; an empty cell means
            the only place.
        text, aspect: the columns.

    Raises InputError, with the row, for an aspect that is empty, not in its text, or there more than once
    without a start.
    """
    starts = table["start"] if "start" in table.columns else pd.Series("", index=table.index)
    cells = zip(table[text], table[aspect], starts, strict=True)
    found = [_place(*row) for row in cells]
    problems = pd.Series([place if isinstance(place, str) else "" for place in found])
    for problem in filter(None, problems.unique()):
        check_rows(table, problems == problem, aspect, problem, where)
    cleaned = {column: table[column].map(clean_text) for column in (text, aspect)}
    table = table.assign(**cleaned, start=found)
    return table.assign(end=table["start"] + table[aspect].str.len())


def _place(text, aspect, start) -> int | str:
    """Where the aspect starts in the cleaned text, or what is wrong."""
    if not isinstance(text, str) or not isinstance(aspect, str):
        return "is missing, or its text is,"
    cleaned, name = clean_text(text), clean_text(aspect)
    if not name:
        return "holds an empty aspect"
    if str(start).strip() in ("", "nan", "None", "<NA>"):
        whole_words = [m.start() for m in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", cleaned)]
        places = whole_words or [m.start() for m in re.finditer(re.escape(name), cleaned)]
        if len(places) > 1:
            return "stands in its text more than once, and column 'start' does not say where,"
        return places[0] if places else "is not in its text, letter for letter,"
    try:
        first = float(start)
    except ValueError:
        return "has a start that is no number"
    shifted = len(clean_text(text[: int(first)] + "x")) - 1 if first >= 0 and first == int(first) else -1
    at_start = shifted >= 0 and cleaned[shifted : shifted + len(name)] == name
    return shifted if at_start else "does not stand where its start says, counted from 0,"
