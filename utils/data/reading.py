"""Reading tables as people have them: a file's first bytes say what it holds, whatever its name."""

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from utils.config import InputError
from utils.data.aspects import in_three_lines, read_three_lines
from utils.data.delimited import check_unique, read_chunks, read_delimited
from utils.data.table import ROWS_BEFORE
from utils.machine.files import short_reason
from utils.machine.runtime import display_path

MOST_UNPACKED = 2**29  # bytes that a compressed file may unpack to
MOST_IN_SPREADSHEET = 2**28  # bytes of XML, of which openpyxl makes many times as much
MOST_CELLS = 2**25  # of a spreadsheet: a stray cell in its far corner makes 17 thousand million
HEAD = 2**24  # bytes of a CSV that are read to see what it is; a larger one can be read in pieces
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"
JSON = rb'\s*\[?\s*\{\s*["}]'  # how it begins
COMPRESSED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
#: How files begin that hold no table, or none that can be read here.
OTHER_KINDS = {
    rb"%PDF-": "a PDF document",
    rb"\x89PNG|\xff\xd8\xff|GIF8": "a picture",
    rb"\xd0\xcf\x11\xe0": "an old Excel file (.xls), or one with a password",
    rb"7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|.{257}ustar|PK\x05\x06": "a 7z, rar, zstd, tar or empty zip archive",
    rb"SQLite format 3|ARROW1\0|Obj\x01|\x89HDF|\x93NUMPY|\x80[\x02-\x05]": "a binary file",
    rb"version https://git-lfs": "a git-lfs pointer (git lfs pull downloads the file itself)",
    rb"(\xef\xbb\xbf)?\s*<(?i:!doctype|!--|html|head|body|table|\?xml)": "a web page or XML, not the table",
}
#: How text in other encodings than UTF-8 begins: with a byte order mark, or with ASCII in two bytes each.
ENCODINGS = {
    re.escape(codecs.BOM_UTF8): "utf-8-sig",
    re.escape(codecs.BOM_UTF32_LE) + b"|" + re.escape(codecs.BOM_UTF32_BE): "utf-32",
    re.escape(codecs.BOM_UTF16_LE) + b"|" + re.escape(codecs.BOM_UTF16_BE): "utf-16",
    rb"([^\0]\0){8}": "utf-16-le",
    rb"(\0[^\0]){8}": "utf-16-be",
}


def read_pieces(path: Path, rows: int, where: str = "") -> Iterator[pd.DataFrame]:
    """``read_table``, ``rows`` rows at a time; each piece's attrs say how many are before it (ROWS_BEFORE).

    A large CSV in UTF-8 is never held as a whole; any other file is. ``where``: its name in messages.
    """
    where, start = where or display_path(path), 0
    with _readable(where, "a file"), path.open("rb") as stream:
        head = stream.read(HEAD)
        if path.stat().st_size > HEAD and _is_delimited(head, path):
            pieces = read_chunks(stream, head[: head.rfind(b"\n") + 1 or HEAD], where, rows)
        else:
            table = read_table(path, where=where)
            pieces = (table.iloc[first : first + rows] for first in range(0, len(table) or 1, rows))
        for piece in pieces:
            piece.attrs[ROWS_BEFORE] = start
            start += len(piece)
            yield piece


def _is_delimited(head: bytes, path: Path) -> bool:
    """Whether a file that begins so is delimited text in UTF-8, by what ``read_table`` looks for."""
    encodings = [start for start, name in ENCODINGS.items() if name != "utf-8-sig"]
    others = [*map(re.escape, (ZIP, PARQUET, *COMPRESSED)), *OTHER_KINDS, *encodings, JSON]
    return not any(re.match(one, head, re.DOTALL) for one in others) and not in_three_lines(head, path)


def read_table(path: Path, sheet: int | str = 0, where: str = "") -> pd.DataFrame:
    """The table in a file. No value is interpreted as missing; those of a CSV are strings.

    The file may be a CSV with commas, semicolons, tabs or bars, JSON records or lines, an .xlsx (of which
    ``sheet`` is the number or name), SemEval's three lines per aspect, or Parquet if pandas can read that;
    and compressed. Text is in UTF-8, 16 or 32. Raises InputError, saying what the file is, if it holds no
    such table or unpacks to gigabytes. ``where``: its name in messages.
    """
    where = where or display_path(path)
    with _readable(where, "a file"):
        data = _unpack(path.read_bytes(), where)
    if data.startswith(ZIP):
        with _readable(where, "an .xlsx table"):
            return _read_excel(data, where, sheet)
    if data.startswith(PARQUET) and data.endswith(PARQUET):
        with _readable(where, "a Parquet table"):
            table = pd.read_parquet(io.BytesIO(data))
            return _as_table((table.reset_index() if any(table.index.names) else table).to_dict("records"))
    for beginning, kind in OTHER_KINDS.items():
        if re.match(beginning, data[:512], re.DOTALL):
            raise InputError(f"{where} is {kind}; save the table as a .csv file, and name that.")
    data = _as_utf8(data, where)
    if re.match(JSON, data):
        with _readable(where, "JSON records"):
            return _as_table(_read_json(data))
    if in_three_lines(data, path):
        return read_three_lines(data, where)
    return read_delimited(data, where)


@contextlib.contextmanager
def _readable(where: str, kind: str) -> Iterator[None]:
    """An InputError for whatever a library raises: each has a dozen types of its own for invalid files."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = short_reason(error).rstrip(".") or type(error).__name__
        raise InputError(f"{where} cannot be read as {kind} ({reason}); save it anew, as .csv.") from None


def _unpack(data: bytes, where: str) -> bytes:
    """``data`` without compression, even twofold (as of a .csv.gz in a .zip); an office document as it is."""
    for _ in range(3):
        if data.startswith(ZIP):
            archive = zipfile.ZipFile(io.BytesIO(data))
            if {"[Content_Types].xml", "mimetype"} & set(archive.namelist()):
                stated = sum(member.file_size for member in archive.infolist())  # zipfile reads no more
                _check_size(stated, MOST_IN_SPREADSHEET, where)
                return data
            stream = archive.open(_only_member(archive, where))
        elif opener := next((COMPRESSED[mark] for mark in COMPRESSED if data.startswith(mark)), None):
            stream = opener(io.BytesIO(data))
        else:
            break
        parts, size = [], 0
        while part := stream.read(2**20):
            parts.append(part)
            size += len(part)
            _check_size(size, MOST_UNPACKED, where)
        data = b"".join(parts)
    return data


def _check_size(size: int, most: int, where: str) -> None:
    if size > most:
        raise InputError(f"{where} unpacks to more than {most >> 20} MiB; save the table as a .csv file.")


def _only_member(archive: zipfile.ZipFile, where: str) -> str:
    """The name of the only file in an archive, those aside that macOS adds."""
    names = [name for name in archive.namelist() if not re.search(r"/$|^__MACOSX/|(^|/)\.[^/]*$", name)]
    if len(names) != 1:
        listed = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        raise InputError(f"{where} holds {len(names)} files ({listed}); unpack it, and name one of them.")
    return names[0]


def _read_excel(data: bytes, where: str, sheet: int | str) -> pd.DataFrame:
    with pd.ExcelFile(io.BytesIO(data), engine="openpyxl") as book:
        extent = book.book.worksheets[sheet] if isinstance(sheet, int) else book.book[sheet]
        if (extent.max_row or 0) * (extent.max_column or 0) > MOST_CELLS:
            far = f"spans {extent.max_row} rows and {extent.max_column} columns"
            raise InputError(f"{where} {far}; delete what is far from the table, or save that as .csv.")
        table = pd.read_excel(book, sheet, header=None, keep_default_na=False)
    header = [str(name) for name in table.iloc[0]] if len(table) else []
    check_unique(header, where)
    return table.iloc[1:].set_axis(header, axis=1).reset_index(drop=True)


def _as_utf8(data: bytes, where: str) -> bytes:
    encoding = next((name for start, name in ENCODINGS.items() if re.match(start, data)), "utf-8")
    try:
        text = data.decode(encoding)
        return data if encoding == "utf-8" else text.encode()
    except UnicodeDecodeError as error:
        piece = data[max(error.start - 9, 0) : error.start + 9].decode("cp1252", errors="replace")
        raise InputError(
            f"{where} is not {encoding.upper()} text (byte {error.start}; {piece!r} if it is Windows-1252); "
            "save it as a UTF-8 CSV."
        ) from None


def _read_json(data: bytes) -> list[dict]:
    """The records of a JSON list, or of JSON lines."""
    try:
        records = json.loads(data)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        records = json.loads(b"[" + b",\n".join(line for line in data.split(b"\n") if line.strip()) + b"]")
    return [records] if isinstance(records, dict) else records


def _as_table(records: list[dict]) -> pd.DataFrame:
    """A table of values as they are. What a record lacks is empty, as in a spreadsheet."""
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [["" if pd.isna(x := record.get(name)) is True else x for name in names] for record in records]
    return pd.DataFrame(rows, columns=names, dtype=object)
