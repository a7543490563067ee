import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.helpers import GOOD, write
from utils.config import Config, InputError
from utils.data.table import check_table, clean_text, fingerprint
from utils.machine import runtime
from utils.tasks import add_folds, load_table


def test_the_sample_is_what_its_readme_says():
    train, test = (
        pd.read_csv(runtime.ROOT / "data" / "sample" / f"{name}.csv") for name in ("train", "test")
    )
    columns = ["id", "url_legal", "license", "excerpt", "target", "standard_error", "topic"]
    assert list(train.columns) == [*columns, "level", "suitable"]
    assert list(test.columns) == [name for name in columns if name not in ("target", "standard_error")]
    assert np.allclose(train["target"], 1.0 - 0.8 * (train["level"] - 1))
    assert (train["suitable"] == np.where(train["level"] <= 3, "yes", "no")).all()
    assert train["topic"].nunique() >= 24
    levels = sorted(train["target"].unique())
    assert np.allclose(np.diff(levels), 0.8)
    assert len(levels) == 6
    assert (train.groupby("topic")["target"].nunique() == 6).all()
    assert not set(train["topic"]) & set(test["topic"])
    both = pd.concat([train, test])
    assert both["id"].is_unique
    assert both["excerpt"].is_unique
    assert both["excerpt"].str.split().str.len().between(60, 120).all()
    # The number of words must not give the level away.
    assert abs(np.corrcoef(train["excerpt"].str.split().str.len(), train["target"])[0, 1]) < 0.2
    submission = pd.read_csv(runtime.ROOT / "data" / "sample" / "sample_submission.csv")
    assert list(submission.columns) == ["id", "target"]
    assert set(submission["id"]) == set(test["id"])


def test_no_two_texts_of_the_sample_share_a_sentence():
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv")
    sentences = table["excerpt"].str.replace("\n", " ").str.split(". ", regex=False).explode()
    sentences = sentences[sentences.str.len() > 30].str.strip()
    assert sentences.is_unique


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.replace("excerpt", "exerpt"), "no column 'excerpt'; did you mean 'exerpt'"),
        (GOOD.replace("target", "score"), "no column 'target'"),
        (GOOD.replace("id,excerpt,target", "id,excerpt,excerpt"), "has the column 'excerpt' 2 times"),
        (GOOD.replace("r3,some words here", "r3,"), "empty text in row 4"),
        (GOOD.replace("r3,some words here", "r3, \t "), "empty text in row 4"),
        (GOOD.replace("3.5", "easy"), "no finite number in row 4.*'easy'"),
        (GOOD.replace("3.5", "nan"), "no finite number in row 4"),
        (GOOD.replace("3.5", "-inf"), "no finite number in row 4"),
        (GOOD.replace("3.5", ""), "no finite number in row 4"),
        (GOOD.replace("r3", "r2"), "repeats an id in row 4.*'r2'"),
        (GOOD.replace("r3", ""), "empty id in row 4"),
        ("id,excerpt,target\n", "no rows"),
        ("", "cannot be read as a CSV table"),
        ('id,excerpt,target\na,"b,1\n', "cannot be read as a CSV table|no finite number"),
        (GOOD.replace("r3,", "r3,x,y,"), "cannot be read as a CSV table"),
        (GOOD.replace("some words", "some, words"), "quote the texts that hold commas"),
        (GOOD.replace("3.5", "1e300"), "no finite number in row 4"),
        (GOOD.replace("some", "s\xf6me").encode("latin-1"), "not UTF-8"),
        (GOOD.encode("utf-16")[:-1], "not UTF-16"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, content, words):
    path = write(tmp_path / "train.csv", content)
    with pytest.raises(InputError, match=words) as caught:
        load_table(Config.make("demo", data=path, fold_by="kfold", group_column=""))
    assert "\n" not in str(caught.value)
    assert "train.csv" in str(caught.value)


def test_your_own_table_needs_no_group_column(tmp_path):
    """The README's command, word for word, on the default preset."""
    rows = "".join(f"{i},text {i},{i},2\n" for i in range(9))
    columns = {"id_column": "essay", "text_column": "text", "target_columns": "clarity,style"}
    path = write(tmp_path / "essays.csv", "essay,text,clarity,style\n" + rows)
    config = Config.make("demo", data=path, fold_by="kfold", **columns)
    assert config.run_name == "demo-essays"
    assert len(add_folds(load_table(config), config)) == 9


def test_a_text_that_is_not_a_string_is_refused(rows, plain):
    rows["excerpt"] = rows["excerpt"].astype(object)
    rows.loc[4, "excerpt"] = 12.5
    with pytest.raises(InputError, match=r"something that is not text in row 5.*12\.5"):
        check_table(rows, plain)


def test_no_text_is_taken_for_a_missing_value(tmp_path):
    """By default pandas would read NA and null as missing values."""
    content = GOOD.replace("r3,some words here", "r3,NA").replace("r4,some words here", "r4,null")
    path = write(tmp_path / "t.csv", content)
    table = load_table(Config.make("demo", data=path, fold_by="kfold", group_column=""))
    assert table.loc[[3, 4], "excerpt"].tolist() == ["NA", "null"]


def test_a_byte_order_mark_and_other_column_names_are_accepted(tmp_path):
    path = write(tmp_path / "t.csv", b"\xef\xbb\xbf" + GOOD.replace("excerpt,target", "words,ease").encode())
    columns = {"text_column": "words", "target_columns": "ease", "group_column": ""}
    config = Config.make("demo", data=path, fold_by="kfold", **columns)
    assert load_table(config)["ease"].tolist() == [i + 0.5 for i in range(10)]


def test_max_rows_keeps_that_many_rows():
    table = load_table(Config.make("tiny", max_rows=30))
    assert len(table) == 30
    assert list(table.index) == list(range(30))


@given(st.text())
def test_cleaning_keeps_words_apart(text):
    assert clean_text(text).split() == text.split()
    assert "\n" not in clean_text(text)


def test_the_fingerprint_changes_with_the_data(tiny, tiny_table):
    config = tiny()
    same = fingerprint(tiny_table.assign(extra=1), config)
    assert fingerprint(tiny_table, config) == same
    changed = tiny_table.copy()
    changed.loc[3, "excerpt"] += "."
    assert fingerprint(changed, config) != same
    assert fingerprint(tiny_table.iloc[::-1], config) != same


@pytest.mark.parametrize(
    "names",
    [
        ["id", " excerpt", "target "],
        ["ID", "Excerpt", "TARGET"],
        ["\u200bid", "excerpt\u00a0", "\ufefftarget"],
        ['"id\n"', "excerpt", "target"],
    ],
)
def test_names_that_differ_by_what_nobody_sees_are_matched_and_said_to_be(names, tmp_path, capsys):
    path = write(tmp_path / "t.csv", GOOD.replace("id,excerpt,target", ",".join(names)))
    table = load_table(Config.make("demo", data=path, fold_by="kfold"))
    assert list(table.columns) == ["id", "excerpt", "target"]
    pairs = zip([name.strip('"') for name in names], table.columns, strict=True)
    said = [f"{path}: column {name!r} is read as {wanted!r}." for name, wanted in pairs if name != wanted]
    assert capsys.readouterr().out.splitlines() == said


def test_a_name_that_is_there_or_could_be_either_of_two_is_matched_with_no_other(tmp_path, capsys):
    path = write(tmp_path / "t.csv", GOOD.replace("excerpt", "Excerpt").replace("target", "excerpt"))
    options = {"data": path, "fold_by": "kfold", "target_columns": "excerpt"}
    table = load_table(Config.make("demo", text_column="Excerpt", **options))
    assert table["excerpt"].tolist() == [i + 0.5 for i in range(10)]
    with pytest.raises(InputError, match="no column 'EXCERPT'"):
        load_table(Config.make("demo", text_column="EXCERPT", **options | {"target_columns": "score"}))
    assert capsys.readouterr().out == ""


def test_the_fingerprint_is_that_of_pandas_hashes_and_does_not_tell_zeros_apart(rows, plain):
    """Hashes of objects, float64 and int64, as finished folds have them, whatever pandas' strings are."""
    table = add_folds(rows.assign(target=[0.0, -0.0, 2.5714285714285716] * 4), plain)
    columns = {name: table[name].astype(object) for name in ("id", "excerpt")}
    hashes = pd.util.hash_pandas_object(
        table.assign(target=table["target"] + 0.0, **columns)[["id", "excerpt", "target", "fold"]],
        index=False,
    )
    assert fingerprint(table, plain) == hashlib.sha256(hashes.to_numpy()).hexdigest()[:16]
    assert fingerprint(table.assign(target=table["target"].abs()), plain) == fingerprint(table, plain)


def test_the_samples_fingerprint_is_what_it_always_was(tiny, tiny_table):
    assert fingerprint(tiny_table, tiny()) == "a05572c04998e852"
