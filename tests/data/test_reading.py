"""Files of every kind: each is read as the same table, or told to be what it is."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.data.helpers import GOOD, write
from utils.config import Config, InputError
from utils.data import reading
from utils.data.reading import read_table
from utils.data.table import fingerprint
from utils.tasks import add_folds, load_table

ROWS = pd.read_csv(io.StringIO(GOOD), dtype=str).assign(
    excerpt=[f"Wörds, {i}; said | in\n\ttwo lines, and “more”." for i in range(10)]
)


def load(path):
    return load_table(Config.make("demo", data=str(path), fold_by="kfold"))


def delimited(separator=",", table=ROWS, **options):
    return table.to_csv(index=False, sep=separator, **options)


def zipped(members=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members or {"train.csv": delimited()}).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def spreadsheet(table=ROWS):
    buffer = io.BytesIO()
    table.astype({"target": float}).to_excel(buffer, index=False)
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("train.csv")
        member.size = len(GOOD)
        archive.addfile(member, io.BytesIO(GOOD.encode()))
    return buffer.getvalue()


RECORDS = ROWS.astype({"target": float}).to_dict("records")
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
#: The same table in many files.
SAME = {
    "a.csv": delimited(),
    "A.CSV": delimited(),
    "crlf.csv": delimited(lineterminator="\r\n"),
    "no-suffix": delimited(),
    "semicolons.csv": delimited(";"),
    "a.tsv": delimited("\t"),
    "bars.txt": delimited("|"),
    "all-quoted.csv": delimited(quoting=csv.QUOTE_ALL),
    "spaces.csv": delimited(quoting=csv.QUOTE_NONNUMERIC).replace('","', '", "'),
    "excel-comma.csv": "sep=,\n" + delimited(),
    "excel-semicolon.csv": "sep=;\r\n" + delimited(";"),
    "excel-caret.csv": '"sep=^"\n' + delimited("^"),
    "decimal-commas.csv": delimited(";", ROWS.assign(target=ROWS["target"].str.replace(".", ","))),
    "bom.csv": delimited().encode("utf-8-sig"),
    "utf-16.csv": delimited().encode("utf-16"),
    "excel-unicode.txt": b"\xfe\xff" + delimited("\t").encode("utf-16-be"),
    "no-mark.csv": delimited().encode("utf-16-le"),
    "utf-32.csv": delimited().encode("utf-32"),
    "a.csv.gz": gzip.compress(delimited().encode()),
    "a.csv.bz2": bz2.compress(delimited().encode()),
    "a.csv.xz": lzma.compress(delimited().encode()),
    "train.csv.zip": zipped(),
    "renamed.csv": zipped(),
    "from-a-mac.zip": zipped({"a/": "", "__MACOSX/._a": "x", "a/.DS_Store": "x", "a/b.csv": delimited()}),
    "gz-in-a.zip": zipped({"train.csv.gz": gzip.compress(delimited().encode())}),
    "xlsx-in-a.zip": zipped({"train.xlsx": spreadsheet()}),
    "TRAIN.XLSX": spreadsheet(),
    "renamed-xlsx.csv": spreadsheet(),
    "a.json": json.dumps(RECORDS),
    "pretty.json": json.dumps(RECORDS, indent=2),
    "a.jsonl": LINES,
    "blank-line.jsonl": LINES.replace("\n", "\n\n") + "\n",
    "a.jsonl.gz": gzip.compress(LINES.encode()),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_table_in_any_file_is_the_same_data(name, tmp_path):
    config = Config.make("demo", fold_by="kfold")
    expected = add_folds(load(write(tmp_path / "expected.csv", delimited())), config)
    table = add_folds(load(write(tmp_path / name, SAME[name])), config)
    assert table["excerpt"].tolist() == expected["excerpt"].tolist()
    assert fingerprint(table, config) == fingerprint(expected, config)


HTML = "<!DOCTYPE html>\n<html><body>Sign in</body></html>"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
NUMPY = io.BytesIO()
np.save(NUMPY, np.arange(3))
#: What no table can be read from, and what is said of it.
OTHERS = {
    "paper.csv": (b"%PDF-1.7\n%\xe2\xe3", "is a PDF document"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\x00\x00", "is a picture"),
    "photo.csv": (b"\xff\xd8\xff\xe0", "is a picture"),
    "old.xls": (OLE, r"is an old Excel file \(.xls\), or one with a password"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c", "is a 7z, rar, zstd, tar or empty zip"),
    "a.csv.zst": (b"\x28\xb5\x2f\xfd\x00", "is a 7z, rar, zstd, tar or empty zip"),
    "a.tar": (tarred(), "is a 7z, rar, zstd, tar or empty zip"),
    "a.tar.gz": (gzip.compress(tarred()), "is a 7z, rar, zstd, tar or empty zip"),
    "a.db": (b"SQLite format 3\x00", "is a binary file"),
    "a.pkl": (pickle.dumps([1]), "is a binary file"),
    "a.npy": (NUMPY.getvalue(), "is a binary file"),
    "page.csv": (HTML, "is a web page"),
    "bom.csv": (HTML.encode("utf-8-sig"), "is a web page"),
    "table.xls": ("\n  <table><tr><td>id", "is a web page"),
    "a.xml": ("<?xml version='1.0'?>", "is a web page or XML"),
    "pointer.csv": (LFS, r"is a git-lfs pointer \(git lfs pull"),
    "a.parquet": (b"PAR1" + bytes(20) + b"PAR1", r"cannot be read as a Parquet table"),
    "text.docx": (zipped({"[Content_Types].xml": "<Types/>"}), "cannot be read as an .xlsx table"),
    "cut.xlsx": (spreadsheet()[:-500], r"cannot be read as a file \(File is not a zip file\)"),
    "cut.csv.gz": (SAME["a.csv.gz"][:-9], r"cannot be read as a file \(Compressed file ended"),
    "cut.csv.bz2": (SAME["a.csv.bz2"][:-9], r"cannot be read as a file \(Compressed file ended"),
    "cut.csv.xz": (SAME["a.csv.xz"][:-9], r"cannot be read as a file \(Compressed file ended"),
    "damaged.gz": (SAME["a.csv.gz"][:40] + b"\0\0" + SAME["a.csv.gz"][42:], "cannot be read as a file"),
    "several.zip": (
        zipped({"train.csv": GOOD, "test.csv": GOOD, "sample/a.csv": GOOD}),
        r"holds 3 files \(train.csv, test.csv, sample/a.csv\); unpack it, and name one",
    ),
    "empty.csv": ("\n", "cannot be read as a CSV table, since it is empty"),
    "nothing.zip": (b"PK\x05\x06" + bytes(18), "is a 7z, rar, zstd, tar or empty zip archive"),
    "empty.zip": (zipped({"folder/": ""}), r"holds 0 files \(\); unpack it"),
    "cut.jsonl": (LINES[:-9], r"cannot be read as JSON records \(Unterminated string.* line 10 "),
    "deep.json": ('[{"a":' * 100_000, "cannot be read as JSON records"),
    "mixed.json": ('[{"id": 1}, 2]', "cannot be read as JSON records"),
    "error.json": ('{"code": 403, "message": "no"}', "has no column 'id'; choose one of: code, message"),
    "latin.csv": (GOOD.replace("some", "söme").encode("cp1252"), r"is not UTF-8 text \(byte 22; '.*söme"),
    "odd.csv": (GOOD.replace(",", "~"), "has a single column, 'id~excerpt~target'; separate its columns by"),
    "commas.csv": (delimited("~"), "has rows with more fields than its single column 'id~excerpt~target'"),
    "fixed.csv": ("id   excerpt   target\nr0   words   0.5", "has a single column"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_told_in_one_sentence(name, tmp_path):
    content, words = OTHERS[name]
    with pytest.raises(InputError, match=rf"{name} {words}") as caught:
        load(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_an_encrypted_archive_is_told(tmp_path):
    data = bytearray(zipped())
    data[6] |= 1  # the flags of the file's own header, and of the directory's
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InputError, match=r"cannot be read as a file \(File 'train.csv' is encrypted"):
        load(write(tmp_path / "secret.zip", bytes(data)))


def test_parquet_is_read_where_pandas_can(tmp_path, monkeypatch):
    stored = ROWS.astype({"target": float}).set_index("id").assign(topic=[None] * 10)
    monkeypatch.setattr(pd, "read_parquet", lambda file: stored)
    table = read_table(tmp_path / write(tmp_path / "a.parquet", b"PAR1....PAR1"))
    assert table["id"].tolist() == ROWS["id"].tolist()
    assert table["topic"].tolist() == [""] * 10, "a missing value is empty, as in a CSV"
    assert table["target"].tolist() == [i + 0.5 for i in range(10)]


# --- what unpacks to too much -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, lambda data: zipped({"a": data})]
)
def test_what_unpacks_to_too_much_is_refused_while_it_is_read(compress, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_UNPACKED", 3 * 2**20)
    path = tmp_path / write(tmp_path / "bomb.csv.gz", compress(bytes(40 * 2**20)))
    with pytest.raises(InputError, match=r"unpacks to more than 3 MiB; save the table as a .csv file"):
        read_table(path)


def test_a_spreadsheet_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(pd, "ExcelFile", None)
    monkeypatch.setattr(reading, "MOST_IN_SPREADSHEET", 2**20)
    data = zipped({"[Content_Types].xml": "<Types/>", "xl/worksheets/sheet1.xml": bytes(2**20)})
    with pytest.raises(InputError, match="unpacks to more than 1 MiB"):
        read_table(tmp_path / write(tmp_path / "bomb.xlsx", data))


def test_a_spreadsheet_with_a_stray_cell_far_away_is_refused_unread(tmp_path):
    import openpyxl

    book, buffer = openpyxl.Workbook(), io.BytesIO()
    book.active["A1"], book.active["XFD1048576"] = "id", "stray"
    book.save(buffer)
    with pytest.raises(InputError, match="spans 1048576 rows and 16384 columns; delete what is far"):
        read_table(tmp_path / write(tmp_path / "wide.xlsx", buffer.getvalue()))


# --- rows that do not fit -----------------------------------------------------------------------------------


def test_the_separator_is_named_where_rows_do_not_fit(tmp_path):
    rows = GOOD.replace("some words", "some; words").replace(",", ";")
    with pytest.raises(InputError, match="more fields than its 3 columns; quote the texts that hold semi"):
        load(write(tmp_path / "a.csv", rows))
    rows = GOOD.replace("r3,", "r3,x,y,")
    with pytest.raises(InputError, match=r"\(Expected 3 fields in line 5, saw 5\) with its 3 columns; quote"):
        load(write(tmp_path / "a.csv", rows))
    with pytest.raises(InputError, match=r"\(a quote is never closed from row 4\)"):
        load(write(tmp_path / "a.csv", GOOD.replace("r3,", 'r3,"')))


def test_commas_in_the_header_do_not_hide_another_separator(tmp_path):
    rows = delimited("\t", ROWS.assign(**{"notes, if any": "a, b"}))
    assert list(load(write(tmp_path / "a.tsv", rows)).columns) == [*ROWS.columns, "notes, if any"]


def test_separators_in_a_quoted_header_do_not_hide_commas(tmp_path):
    rows = delimited(table=ROWS.assign(**{"a;b;c;d": "x|y"}))
    assert list(load(write(tmp_path / "a.csv", rows)).columns) == [*ROWS.columns, "a;b;c;d"]


def test_a_row_that_ends_early_ends_with_empty_fields(tmp_path):
    path = tmp_path / write(tmp_path / "a.csv", "id,excerpt,topic\na,words,x\nb,words\n")
    assert read_table(path)["topic"].tolist() == ["x", ""]


IDS = {
    "letters": [f"r{i:03}" for i in range(12)],
    "numbers": [str(i * 37) for i in range(12)],
    "hexadecimal": [f"{(i + 3) * 0x1234567 % 16**9:09x}" for i in range(12)],
}
OPENED_AND_CLOSED = [
    ('"{}', '{}"'),  # the second text ends with the quote of an inch
    ('"{}', '"{}'),
    ('"{}', 'said "{}" and'),
]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("distance", [1, 2, 5])
@pytest.mark.parametrize("quotes", OPENED_AND_CLOSED)
def test_rows_that_a_stray_quote_swallows_are_noticed(quotes, distance, ids, newline, separator, tmp_path):
    texts = [f"Words of text {i} go here" for i in range(12)]
    for quote, row in zip(quotes, (4, 4 + distance), strict=True):
        texts[row] = quote.format(texts[row])
    rows = zip(IDS[ids], texts, [f"{i / 7:.3f}" for i in range(12)], strict=True)
    content = newline.join(separator.join(row) for row in [("id", "excerpt", "target"), *rows])
    with pytest.raises(InputError, match="column 'excerpt' holds what looks like further rows in row 5"):
        load(write(tmp_path / "a.csv", content))


LINE = st.one_of(
    st.sampled_from(
        ["", "On March 3, 1865", "12, Main Street", "Yes, I think, so", "1, 2, 3", "r1", '"', "2019, the"]
    ),
    st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(LINE, max_size=5).map("\n".join), min_size=10, max_size=10),
    separator=st.sampled_from(",;\t|"),
    columns=st.permutations(["id", "excerpt", "target"]),
    ids=st.sampled_from(sorted(IDS)),
)
@example(
    texts=["On March 3, 1865\n12, Main Street, 5"] * 10,
    separator=",",
    columns=["id", "excerpt", "target"],
    ids="numbers",
)
def test_a_well_formed_file_of_texts_with_lines_and_separators_is_read_as_it_was_written(
    texts, separator, columns, ids, tmp_path
):
    table = pd.DataFrame({"id": IDS[ids][:10], "excerpt": texts, "target": ROWS["target"]})[columns]
    path = tmp_path / write(tmp_path / "a.csv", delimited(separator, table))
    assert read_table(path).to_numpy().tolist() == table.to_numpy().tolist()
