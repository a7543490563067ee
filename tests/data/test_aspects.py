"""Aspects as people write them: read, written, placed and refused."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import Config, add_folds, load_table
from utils.config import InputError
from utils.data.aspects import locate, split_marked, write_aspects
from utils.data.reading import read_table
from utils.machine import runtime

SAMPLE = runtime.ROOT / "data" / "aspects"
COLUMNS = ["text", "aspect", "start", "end", "polarity"]


def load(path, **options):
    return load_table(Config.make("aspects", data=str(path), fold_by="kfold", **options))


def three_lines(*rows):
    return "".join(f"{line}\n" for row in rows for line in row)


GOOD = [("The $T$ was good .", "food", "1"), ("The food was good but the $T$ slow .", "service", "-1")]
GOOD += [(f"$T$ number {i} is plain .", "Dish", "0") for i in range(12)]


# --- reading and writing ------------------------------------------------------------------------------------


def test_the_three_line_file_and_the_csv_are_the_same_table():
    of_csv, of_lines = load(SAMPLE / "train.csv"), load(SAMPLE / "train.txt")
    of_lines["polarity"] = of_lines["polarity"].str.lower()
    pd.testing.assert_frame_equal(of_csv[COLUMNS], of_lines[COLUMNS])


@pytest.mark.parametrize("name", ["again.txt", "again.csv"])
def test_what_is_written_is_read_again(name, tmp_path):
    table = load(SAMPLE / "train.csv")
    write_aspects(tmp_path / name, table)
    pd.testing.assert_frame_equal(load(tmp_path / name)[COLUMNS], table[COLUMNS])
    if name == "again.txt":
        lines = (SAMPLE / "train.txt").read_text().splitlines()
        assert (tmp_path / name).read_text().lower().splitlines() == [line.lower() for line in lines]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["train.txt", "train.raw", "train"])
def test_three_lines_are_known_by_the_mark(name, ending, tmp_path):
    (tmp_path / name).write_bytes(three_lines(*GOOD).replace("\n", ending).encode())
    table = load(tmp_path / name)
    second = ["The food was good but the service slow .", "service", 26, 33, "-1"]
    assert table.loc[1, COLUMNS].tolist() == second
    assert table["id"].tolist() == [str(i + 1) for i in range(14)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("The food .", "food", "1"), *GOOD], r"line 1 holds no \$T\$"),
        ([*GOOD, ("The $T$ and $T$ .", "food", "1")], r"line 43 holds 2 \$T\$.*give each aspect three lines"),
        ([GOOD[0], ("The $T$ .", " ", "1"), *GOOD], "line 5 is empty, and must hold the aspect"),
        ([GOOD[0], ("The $T$ .", "food", ""), *GOOD], "line 6 is empty, and must hold the polarity"),
        ([*GOOD, ("The $T$ .", "food")], "ends with line 44, amid an aspect"),
    ],
)
def test_lines_that_cannot_be_read_are_named(rows, words, tmp_path):
    (tmp_path / "train.txt").write_text(three_lines(*rows))
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / "train.txt")
    assert "\n" not in str(caught.value)


def test_an_unknown_polarity_is_refused_with_its_lines(tmp_path):
    (tmp_path / "train.txt").write_text(three_lines(*GOOD, ("The $T$ .", "food", "conflict")))
    with pytest.raises(InputError, match=r"labels -1, 0, 1 in row 15 \(lines 43 to 45\): 'conflict'"):
        load(tmp_path / "train.txt", labels="-1,0,1")


def test_a_sentence_that_holds_the_mark_itself_is_not_written(tmp_path):
    table = pd.DataFrame({"text": ["a $T$ cost"], "aspect": ["cost"], "start": [6], "polarity": ["0"]})
    with pytest.raises(InputError, match=r"'a \$T\$ cost' holds \$T\$ itself; use \.csv"):
        write_aspects(tmp_path / "a.txt", table)
    assert not list(tmp_path.iterdir())


def test_other_tables_are_read_as_before(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\n1,costs $T$ 5\n2,b\n")
    assert read_table(tmp_path / "t.csv")["text"].tolist() == ["costs $T$ 5", "b"]


# --- places -------------------------------------------------------------------------------------------------


PIECES = st.lists(st.sampled_from(["bar", "a", "the  bar", "x\ny", "  "]), min_size=1, max_size=8)


def place(text, aspect, *start):
    columns = {"text": [text], "aspect": [aspect]} | ({"start": [start[0]]} if start else {})
    row = locate(pd.DataFrame(columns), "text", "aspect", "t.csv").iloc[0]
    assert row["text"][row["start"] : row["end"]] == row["aspect"]
    return row["start"]


@pytest.mark.parametrize(
    ("text", "aspect", "start", "expected"),
    [
        ("a bar, a bar", "bar", "9", 9),
        ("a bar, a bar", "bar", 2, 2),
        ("a bar, a bar", "bar", 9.0, 9),
        ("  a\n\n bar , a  bar ", "bar", 15, 10),  # counted before white space was cleaned
        ("the barman at the bar", "bar", "", 18),  # whole words first
        ("the barman", "bar", "", 4),
        ("battery  life is short", "battery\nlife", "", 0),
    ],
)
def test_an_aspect_is_told_by_its_place(text, aspect, start, expected):
    assert place(text, aspect, start) == expected


@settings(max_examples=30)
@given(words=PIECES, data=st.data())
def test_places_move_with_white_space(words, data):
    text = " ".join([*words, "bar"])
    starts = [i for i in range(len(text)) if text.startswith("bar", i)]
    start = data.draw(st.sampled_from(starts))
    cleaned = " ".join(text.split())
    expected = [i for i in range(len(cleaned)) if cleaned.startswith("bar", i)][starts.index(start)]
    assert place(text, "bar", start) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("the food", "service", ""), "is not in its text, letter for letter, in row 2: 'service'"),
        (("the food", "Food", ""), "is not in its text"),
        (("a bar, a bar", "bar", ""), "more than once, and column 'start' does not say where, in row 2"),
        (("a bar, a bar", "bar", 3), "does not stand where its start says, counted from 0, in row 2: 'bar'"),
        (("a bar", "bar", -3), "does not stand where its start says"),
        (("a bar", "bar", 99), "does not stand where its start says"),
        (("a bar", "bar", "two"), "has a start that is no number in row 2"),
        (("a bar", " ", 2), "holds an empty aspect in row 2"),
        ((None, "bar", 2), "is missing, or its text is, in row 2"),
    ],
)
def test_aspects_without_a_place_are_refused_with_the_row(row, words):
    table = pd.DataFrame([("fine food", "food", 5), row], columns=["text", "aspect", "start"])
    with pytest.raises(InputError, match=f"t.csv: column 'aspect' .*{words}") as caught:
        locate(table, "text", "aspect", "t.csv")
    assert "\n" not in str(caught.value)


def test_marked_sentences_become_a_row_per_aspect():
    texts = ["The [B-ASP]food[E-ASP] was good, the [B-ASP]bar staff[E-ASP] slow.", "[B-ASP] Bar [E-ASP] none"]
    table = split_marked(pd.DataFrame({"id": ["x", "y"], "text": texts}), "text", "aspect", "t.csv")
    table = locate(table, "text", "aspect", "t.csv")
    assert table["aspect"].tolist() == ["food", "bar staff", "Bar"]
    assert table["text"].tolist() == ["The food was good, the bar staff slow."] * 2 + ["Bar none"]
    assert [row.text[row.start : row.end] for row in table.itertuples()] == table["aspect"].tolist()
    assert table["id"].tolist() == ["x", "x", "y"]


@pytest.mark.parametrize("text", ["the food", "the [B-ASP]food", "[B-ASP]a[E-ASP] b[E-ASP]", None])
def test_marks_that_do_not_pair_are_refused(text):
    table = pd.DataFrame({"text": ["[B-ASP]a[E-ASP]", text]})
    with pytest.raises(InputError, match=r"marks no aspect as \[B-ASP\]...\[E-ASP\].* in row 2"):
        split_marked(table, "text", "aspect", "t.csv")


# --- folds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold_by", ["kfold", "stratified", "group"])
def test_a_sentences_aspects_are_held_out_together(fold_by):
    config = Config.make("aspects", fold_by=fold_by)
    table = add_folds(load_table(config), config)
    assert (table.groupby("sentence")["fold"].nunique() == 1).all()
    sizes = table["fold"].value_counts()
    assert sizes.max() - sizes.min() < 20


def test_splitting_sentences_is_refused():
    with pytest.raises(InputError, match="exact_copies=split would train on a sentence that is held out"):
        load_table(Config.make("aspects", exact_copies="split"))
