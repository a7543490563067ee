import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from utils import data, runtime
from utils.config import Config, InputError
from utils.model import encoder_source


@pytest.fixture
def plain():
    return Config.make("demo", fold_by="kfold", group_column="")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# --- the sample --------------------------------------------------------------------------------------------------


def test_the_sample_is_what_its_readme_says():
    train, test = (pd.read_csv(runtime.ROOT / "data" / "sample" / f"{name}.csv") for name in ("train", "test"))
    columns = ["id", "url_legal", "license", "excerpt", "target", "standard_error", "topic"]
    assert list(train.columns) == columns
    assert list(test.columns) == [name for name in columns if name not in ("target", "standard_error")]
    assert train["topic"].nunique() >= 24
    levels = sorted(train["target"].unique())
    assert np.allclose(np.diff(levels), 0.8)
    assert len(levels) == 6
    assert (train.groupby("topic")["target"].nunique() == 6).all()
    assert not set(train["topic"]) & set(test["topic"])
    every = pd.concat([train, test])
    assert every["id"].is_unique
    assert every["excerpt"].is_unique
    assert every["excerpt"].str.split().str.len().between(60, 120).all()
    # The length must not give the level away.
    assert abs(np.corrcoef(train["excerpt"].str.split().str.len(), train["target"])[0, 1]) < 0.2
    submission = pd.read_csv(runtime.ROOT / "data" / "sample" / "sample_submission.csv")
    assert list(submission.columns) == ["id", "target"]
    assert set(submission["id"]) == set(test["id"])


def test_no_two_texts_of_the_sample_share_a_sentence():
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv")
    sentences = [s.strip() for text in table["excerpt"] for s in text.replace("\n", " ").split(". ") if len(s) > 30]
    assert len(sentences) == len(set(sentences))


# --- bad tables --------------------------------------------------------------------------------------------------

GOOD = "id,excerpt,target\n" + "".join(f"r{i},some words here,{i}.5\n" for i in range(10))


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
        (GOOD.encode("utf-16"), "not UTF-8"),
        (GOOD.replace("some", "s\xf6me").encode("latin-1"), "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, plain, content, words):
    path = write(tmp_path / "train.csv", content)
    with pytest.raises(InputError, match=words) as caught:
        data.load_table(Config.make("demo", data=path, fold_by="kfold", group_column=""))
    assert "\n" not in str(caught.value)
    assert "train.csv" in str(caught.value)


def test_ones_own_table_needs_no_group_column(tmp_path):
    """The README's command, word for word, on the default preset."""
    path = write(tmp_path / "essays.csv", "essay,text,clarity,style\n" + "".join(f"{i},t,{i},2\n" for i in range(9)))
    config = Config.make("demo", data=path, id_column="essay", text_column="text", target_columns="clarity,style",
                         fold_by="kfold")  # fmt: skip
    assert config.run_name == "demo-essays"
    assert len(data.add_folds(data.load_table(config), config)) == 9


def test_texts_that_are_no_text(rows, plain):
    rows["excerpt"] = rows["excerpt"].astype(object)
    rows.loc[4, "excerpt"] = 12.5
    with pytest.raises(InputError, match=r"something that is not text in row 5.*12\.5"):
        data.check_table(rows, plain)


def test_nothing_is_taken_for_missing(tmp_path):
    """pandas would read the texts NA and null as missing values."""
    path = write(tmp_path / "t.csv", GOOD.replace("r3,some words here", "r3,NA").replace("r4,some words", "r4,null"))
    table = data.load_table(Config.make("demo", data=path, fold_by="kfold", group_column=""))
    assert table.loc[3, "excerpt"] == "NA"


def test_a_byte_order_mark_and_other_columns_are_no_matter(tmp_path):
    path = write(tmp_path / "t.csv", b"\xef\xbb\xbf" + GOOD.replace("excerpt,target", "words,ease").encode())
    config = Config.make(
        "demo", data=path, text_column="words", target_columns="ease", fold_by="kfold", group_column=""
    )
    assert data.load_table(config)["ease"].tolist() == [i + 0.5 for i in range(10)]


def test_max_rows_keeps_a_random_part(plain):
    table = data.load_table(Config.make("tiny", max_rows=30))
    assert len(table) == 30
    assert list(table.index) == list(range(30))


@given(st.text())
def test_cleaning_glues_no_words_together(text):
    assert data.clean_text(text).split() == text.split()
    assert "\n" not in data.clean_text(text)


# --- folds -------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    n=st.integers(10, 60),
    n_folds=st.integers(2, 5),
    fold_by=st.sampled_from(["kfold", "stratified", "group"]),
    seed=st.integers(0, 9),
)
def test_folds_part_the_rows(n, n_folds, fold_by, seed):
    generator = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"id": [f"r{i}" for i in range(n)], "target": generator.normal(size=n).round(1), "topic": np.arange(n) % 7}
    )
    config = Config.make("demo", n_folds=n_folds, fold_by=fold_by, group_column="topic", seed=seed)
    folds = data.add_folds(table, config)["fold"]
    assert sorted(set(folds)) == list(range(n_folds))
    if fold_by == "group":
        assert (folds.groupby(table["topic"]).nunique() == 1).all()
    else:
        assert folds.value_counts().max() - folds.value_counts().min() <= (1 if fold_by == "kfold" else n // n_folds)
    pd.testing.assert_series_equal(folds, data.add_folds(table, config)["fold"])


def test_kfold_is_the_published_split(rows):
    from sklearn.model_selection import KFold

    folds = data.add_folds(rows, Config.make("commonlit_original"))["fold"]
    for number, (_, held_out) in enumerate(KFold(5, shuffle=True, random_state=2021).split(rows)):
        assert set(folds.index[folds == number]) == set(held_out)


def test_stratified_folds_have_like_targets():
    table = pd.DataFrame({"id": map(str, range(500)), "target": np.random.default_rng(0).gumbel(size=500)})
    means = data.add_folds(table, Config.make("demo", fold_by="stratified")).groupby("fold")["target"].mean()
    random = data.add_folds(table, Config.make("demo", fold_by="kfold")).groupby("fold")["target"].mean()
    assert means.std() < random.std() / 2


def test_rows_without_a_group_stand_alone():
    table = pd.DataFrame({"id": map(str, range(40)), "target": 0.0, "topic": ["a"] * 10 + [""] * 30})
    folds = data.add_folds(table, Config.make("demo"))["fold"]
    assert folds[:10].nunique() == 1
    assert folds[10:].nunique() == 5


def test_too_few_rows_or_groups(rows):
    with pytest.raises(InputError, match="12 rows cannot fill n_folds=13"):
        data.add_folds(rows, Config.make("demo", n_folds=13, fold_by="kfold"))
    with pytest.raises(InputError, match="has 2 groups, too few for n_folds=5"):
        data.add_folds(rows.assign(topic=["a", "b"] * 6), Config.make("demo"))


# --- batches -----------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=120),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 9),
)
def test_batches_hold_every_row_once_and_are_a_function_of_seed_and_epoch(lengths, batch_size, seed, epoch):
    batches = data.training_batches(lengths, batch_size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert len(batches) == -(-len(lengths) // batch_size)
    assert batches == data.training_batches(lengths, batch_size, seed, epoch)
    assert sorted(r for b in data.evaluation_batches(lengths, batch_size) for r in b) == list(range(len(lengths)))


def test_epochs_differ_and_lengths_are_alike_within_a_batch():
    lengths = np.random.default_rng(0).integers(20, 256, 600).tolist()
    batches = data.training_batches(lengths, 16, 2021, 0)
    assert batches != data.training_batches(lengths, 16, 2021, 1)

    def padded(batches):
        return sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)

    rows = np.random.default_rng(1).permutation(600)
    assert padded(batches) < 0.8 * padded([rows[i : i + 16] for i in range(0, 600, 16)])


@pytest.mark.parametrize(("max_length", "multiple"), [(64, 8), (12, 4), (13, 1)])
def test_a_loader_pads_to_its_longest_text_and_leaves_the_random_state_alone(
    rows, plain, workspace, max_length, multiple
):
    """... and on to a multiple of 8, or of what divides ``max_length``, so that nothing is longer than that."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    tokenizer.model_max_length = max_length
    rows["excerpt"] = [" ".join("a" * (i + 1)) for i in range(12)]
    config = dataclasses.replace(plain, max_length=max_length)
    texts = data.Texts.of(data.check_table(rows, config), tokenizer, config)
    assert texts.lengths == sorted(texts.lengths)
    before = torch.get_rng_state()
    batches = list(data.make_loader(texts, [[0, 3], [11, 2]], tokenizer))
    assert torch.equal(before, torch.get_rng_state())
    longest = [texts.lengths[3], texts.lengths[11]]
    assert longest == [6, min(14, max_length)]
    padded = [inputs["input_ids"].shape[1] for inputs, _ in batches]
    assert padded == [math.ceil(length / multiple) * multiple for length in longest]
    assert max(padded) <= max_length
    assert batches[0][0]["attention_mask"].sum(dim=1).tolist() == [texts.lengths[0], texts.lengths[3]]
    assert batches[1][1].flatten().tolist() == pytest.approx([1.1, 0.2])


def test_tokens_are_cut_to_max_length_with_their_special_ones(workspace):
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    tokens, lengths = data.tokenize(["many words " * 50], tokenizer, 16)
    assert lengths == [16]
    assert tokens["input_ids"][0] == tokenizer.cls_token_id
    assert tokens["input_ids"][-1] == tokenizer.sep_token_id


def test_tokens_take_few_bytes_and_are_those_of_each_text_alone(rows, plain, workspace):
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    table = data.check_table(pd.concat([rows] * 100, ignore_index=True).assign(id=range(1200)), plain)
    table[plain.text_column] += [" word" * (i % 7) for i in range(1200)]
    texts = data.Texts.of(table, tokenizer, plain)
    for row in (0, 1, 999, 1000, 1199):
        alone = tokenizer(table[plain.text_column][row])
        assert texts.inputs(row) == {name: alone[name] for name in texts.tokens}
        assert texts.lengths[row] == len(alone["input_ids"])
    assert sum(values.nbytes for values in texts.tokens.values()) == 4 * len(texts.tokens) * sum(texts.lengths)
