"""The sample of aspects is what data/README.md says it is."""

import re

import pandas as pd
import pytest

from utils.data import copies
from utils.machine import runtime

FOLDER = runtime.ROOT / "data" / "aspects"
README = (runtime.ROOT / "data" / "README.md").read_text()
SECTION = README.split("## `aspects/`")[1].split("\n## ")[0]
POLARITIES = ["positive", "neutral", "negative"]
#: The ten commonest adjectives of praise and blame in reviews, with their comparatives.
COMMON = ["good", "better", "best", "great", "nice", "excellent", "delicious", "amazing", "perfect"]
COMMON += ["bad", "worse", "worst", "terrible", "horrible"]


@pytest.fixture(scope="module", params=["train", "test"])
def table(request):
    return read(request.param)


@pytest.fixture(scope="module")
def train():
    return read("train")


def read(name):
    return pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False)


def sentences(table):
    """A row per sentence: tuples of its text, review, field and its aspects' polarities, each once."""
    columns = ["text", "review", "domain"] + ["polarity"] * ("polarity" in table)
    return table.groupby("sentence")[columns].agg(lambda column: tuple(dict.fromkeys(column)))


def mixed(table):
    return sentences(table)["polarity"].map(len) > 1


def test_the_test_set_has_the_same_columns_without_polarity(train):
    columns = ["id", "text", "aspect", "start", "end", "polarity", "sentence", "review", "domain"]
    assert list(train) == columns
    assert list(read("test")) == [column for column in columns if column != "polarity"]


def test_offsets_are_exact(table):
    for row in table.itertuples():
        assert row.text[row.start : row.end] == row.aspect, row.id
        assert row.aspect.strip() == row.aspect != "", row.id
        edges = row.text[row.start - 1 : row.start] + row.text[row.end : row.end + 1]
        assert not any(map(str.isalnum, edges)), f"{row.id}: part of a word"


def test_no_place_is_named_twice_and_aspects_do_not_overlap(table):
    for _, rows in table.groupby("sentence"):
        assert (rows["start"].to_numpy()[1:] >= rows["end"].to_numpy()[:-1]).all(), rows["id"].tolist()


def test_ids_tell_review_sentence_and_aspect(table):
    assert table["id"].is_unique
    for _, rows in table.groupby("sentence"):
        assert rows["id"].tolist() == [f"{rows['sentence'].iloc[0]}-{i + 1}" for i in range(len(rows))]
    assert table["sentence"].str.rpartition("-")[0].equals(table["review"])


def test_a_sentence_has_one_text_and_a_review_one_field(table):
    assert (sentences(table)["text"].map(len) == 1).all()
    assert (table.groupby("review")["domain"].nunique() == 1).all()
    assert table.groupby("review")["sentence"].nunique().between(2, 4).all()


def test_train_and_test_share_no_review():
    assert not set(read("train")["review"]) & set(read("test")["review"])


def test_the_sample_submission_asks_for_the_test_rows():
    submission = read("sample_submission")
    assert list(submission) == ["id", "polarity"]
    assert submission["id"].tolist() == read("test")["id"].tolist()
    assert set(submission["polarity"]) == {"positive"}


def test_the_three_line_file_has_the_same_rows(train):
    lines = (FOLDER / "train.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 * len(train)
    for row, text, aspect, polarity in zip(
        train.itertuples(), lines[::3], lines[1::3], lines[2::3], strict=True
    ):
        assert text.count("$T$") == 1
        assert text.index("$T$") == row.start, row.id
        assert (text.replace("$T$", aspect), aspect) == (row.text, row.aspect), row.id
        assert polarity == row.polarity.capitalize(), row.id


def test_files_are_plain(table):
    for path in FOLDER.iterdir():
        content = path.read_bytes()
        content.decode("utf-8")
        assert b"\r" not in content, path.name
        assert content.endswith(b"\n"), path.name
        assert not content.endswith(b"\n\n"), path.name
    for text in table["text"]:
        assert text == " ".join(text.split()), text
        assert 5 <= len(text.split()) <= 45, text


def readme_row(name, table):
    counts = table["polarity"].value_counts()
    numbers = [table["review"].nunique(), table["sentence"].nunique(), len(table)]
    numbers += [counts[polarity] for polarity in POLARITIES] + [mixed(table).sum()]
    return "| " + " | ".join([name, *map(str, numbers)]) + " |"


def test_the_readme_gives_the_counts(train):
    for domain, rows in train.groupby("domain"):
        assert readme_row(domain, rows) in SECTION
    assert readme_row("all", train) in SECTION
    test = read("test")
    assert f"{test['sentence'].nunique()} sentences with {len(test)} aspects" in SECTION


def test_counts_and_shares_are_those_asked_for(train):
    assert train["sentence"].nunique() >= 280
    assert len(train) >= 500
    assert train.groupby("domain")["sentence"].nunique().min() >= 80
    shares = train["polarity"].value_counts(normalize=True)
    assert set(shares.index) == set(POLARITIES)
    assert 0.2 <= shares["neutral"] <= 0.25
    assert 0.32 <= shares["negative"] <= shares["positive"] <= 0.45


def test_a_third_of_the_sentences_is_mixed_and_a_quarter_both_praises_and_blames(train):
    assert mixed(train).mean() > 1 / 3
    both = sentences(train)["polarity"].map(lambda found: {"positive", "negative"} <= set(found))
    assert both.mean() > 1 / 4


def test_some_aspects_occur_twice_in_a_sentence_with_two_polarities(train):
    repeated = train[
        train.assign(aspect=train["aspect"].str.lower()).duplicated(["sentence", "aspect"], False)
    ]
    assert (repeated.groupby("sentence")["polarity"].nunique() > 1).sum() >= 10


def test_aspects_stand_anywhere_and_have_one_word_or_several(train):
    where = (train["start"] + train["end"]) / 2 / train["text"].str.len()
    thirds = pd.cut(where, [0, 1 / 3, 2 / 3, 1]).value_counts(normalize=True)
    assert thirds.min() > 0.2
    assert (train["aspect"].str.contains(" ")).mean() > 0.2


def test_common_adjectives_do_not_decide(train):
    polar = train[train["polarity"] != "neutral"]
    common = polar["text"].str.contains(rf"\b(?:{'|'.join(COMMON)})\b", flags=re.IGNORECASE)
    assert common.mean() < 0.2


@pytest.fixture(scope="module")
def texts():
    both = pd.concat([read("train"), read("test")])
    return both.drop_duplicates("sentence")["text"].reset_index(drop=True)


def test_no_sentence_occurs_twice_nor_nearly(texts, monkeypatch):
    monkeypatch.setattr(copies, "SHORTEST", 0)  # a fold's near-copies are longer; these are sentences
    monkeypatch.setattr(copies, "NEAR", 0.5)
    assert len(set(copies.exact_copies(texts))) == len(texts)
    near = copies.near_copies(texts)
    assert not len(near), [texts.iloc[pair].tolist() for pair in near]


def test_no_two_sentences_begin_with_the_same_three_words(texts):
    begins = texts.str.lower().str.findall(r"[\w']+").str[:3].str.join(" ")
    assert not begins.duplicated().any(), begins[begins.duplicated(keep=False)].tolist()


def test_the_licence_is_told():
    assert "CC0 1.0" in SECTION
    assert re.search(r"`aspects/`.*CC0 1\.0", README.split("## Licences")[1])
