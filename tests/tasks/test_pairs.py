"""A second text, for any task: read, cut, checked, saved with the model and predicted."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from tests.conftest import FAMILIES
from utils import Config, add_folds, fit_fold, load_table, predict
from utils.config import InputError
from utils.data import tokens
from utils.data.table import check_table, fingerprint
from utils.machine import runtime
from utils.machine.encoders import encoder_source
from utils.modeling.heads import HeadConfig
from utils.modeling.model import TextModel, TextModelConfig
from utils.runs import artifacts, submission
from utils.tasks import find_leaks, make_task

QUESTIONS = ["Who walks on the hill?", "Where is the old bridge?", "What does the moon do?"]


@pytest.fixture
def tokenizer(workspace):
    return AutoTokenizer.from_pretrained(encoder_source("tiny"))


@pytest.fixture
def config():
    return Config.make("tiny", precision="fp32", pair_column="question", fold_by="kfold", group_column="")


@pytest.fixture
def pairs(rows):
    return rows.assign(question=[QUESTIONS[i % 3] for i in range(12)])


def encode(tokenizer, pairs, config, max_length=64):
    return make_task(config).encode(check_table(pairs, config, targets=False), tokenizer, max_length)


# --- tokens -------------------------------------------------------------------------------------------------


def test_a_pair_is_read_as_the_tokenizer_has_it(tokenizer, pairs, config):
    examples = encode(tokenizer, pairs, config)
    for row in (0, 5):
        expected = tokenizer(pairs["excerpt"][row], pairs["question"][row])
        for name, values in examples.tokens.items():
            assert values[examples.slice(row)].tolist() == expected[name]
    assert set(examples.tokens["token_type_ids"]) == {0, 1}, "segment ids tell the two apart"


@pytest.mark.parametrize("truncation", ["longest_first", "only_second"])
@pytest.mark.parametrize("longer", ["first", "second"])
def test_of_a_pair_the_longer_text_is_cut_first_or_only_the_second(truncation, longer, tokenizer):
    lengths = {"first": 12, "second": 12, longer: 15}
    texts = [" ".join("a" * lengths[name]) for name in ("first", "second")]
    inputs, (length,) = tokens.tokenize([texts[0]], tokenizer, 20, [texts[1]], truncation)
    kept = [int((inputs["token_type_ids"] == segment).sum()) for segment in (0, 1)]
    kept = [kept[0] - 2, kept[1] - 1]  # special tokens
    assert length == 20
    expected = {8, 9} if truncation == "longest_first" else {lengths["first"], 17 - lengths["first"]}
    assert set(kept) == expected


def test_a_first_text_without_room_for_a_second_is_refused(tokenizer):
    texts, pairs = [" ".join("b" * 5), " ".join("a" * 16)], ["c d e f"] * 2
    assert tokens.tokenize(texts, tokenizer, 20, pairs, "only_second")[1] == [12, 20]
    texts[1] += " a"
    with pytest.raises(InputError, match=r"the text 'a a a .* leaves no room .* max_length=20") as caught:
        tokens.tokenize(texts, tokenizer, 20, pairs, "only_second")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_segment_ids_reach_the_encoders_that_have_them_and_no_others(family):
    torch.manual_seed(0)
    config = TextModelConfig(encoder=FAMILIES[family], pooling="mean_layers", head=HeadConfig(("target",)))
    model = TextModel(config).eval()
    ids = torch.arange(5, 17).view(1, 12)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    segments = torch.tensor([[0] * 7 + [1] * 5])
    alone, of_pair = model(**inputs).logits, model(**inputs, token_type_ids=segments).logits
    has_segments = getattr(FAMILIES[family], "type_vocab_size", 0) > 1
    assert torch.equal(alone, of_pair) != (has_segments and family != "deberta-v2")


# --- checks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": None}, "no column 'question'"),
        ({"question": [*QUESTIONS, " "] * 3}, r"'question' holds an empty text in row 4 \(3 such rows\)"),
        ({"question": [1.5] * 12}, "'question' holds something that is not text in row 1"),
    ],
)
def test_second_texts_that_cannot_be_used_are_refused_in_a_sentence(change, words, pairs, config):
    table = pairs.drop(columns="question") if change["question"] is None else pairs.assign(**change)
    with pytest.raises(InputError, match=words) as caught:
        check_table(table, config)
    assert "\n" not in str(caught.value)


def test_a_test_sets_empty_second_texts_are_warned_of(pairs, config):
    with pytest.warns(UserWarning, match=r"1 of 12 texts are empty, in row 2 \(r1\)"):
        table = check_table(pairs.assign(question=["a", None, *"b" * 10]), config, targets=False)
    assert table["question"][1] == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pair_column": "excerpt"}, "column 'excerpt' cannot be used: name each column once"),
        ({"pair_truncation": "only_second"}, "does nothing without a second text; set pair_column"),
        ({"pair_column": "q", "pair_truncation": "first"}, "pair_truncation='first' is not known"),
    ],
)
def test_settings_that_contradict_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        Config.make("tiny", **settings)


def test_a_copy_of_a_pair_has_both_texts(config):
    texts = [f"text {i // 2}" for i in range(40)]
    questions = ["same"] * 4 + [f"question {i}" for i in range(36)]
    table = pd.DataFrame({"id": map(str, range(40)), "excerpt": texts, "question": questions, "target": 0.0})
    table = add_folds(table, config)
    assert table["fold"][:2].nunique() == table["fold"][2:4].nunique() == 1
    assert (table.groupby("excerpt")["fold"].nunique() > 1).any(), "a shared first text alone makes no copy"
    assert "occur more than once: 2, in 4 rows" in find_leaks(table, make_task(config))


def test_other_second_texts_are_other_data(pairs, config):
    table = check_table(pairs, config).assign(fold=0, target=0.0)
    changed = table.assign(question=table["question"].str.upper())
    moved = table.assign(start=1)
    hashes = {fingerprint(rows, config) for rows in (table, changed, moved, moved.assign(start=2))}
    assert len(hashes) == 4, "the place of an aspect counts too"


# --- from training to prediction ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A fold whose target is in the second text alone; its Config and table."""
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "workspace", lambda: workspace)
        sample = runtime.ROOT / "data" / "sample"
        for name in ("train", "test"):
            rows = pd.read_csv(sample / f"{name}.csv", dtype=str)
            rows["excerpt"], rows["question"] = rows["excerpt"].str[:60], rows["excerpt"].str[-90:]
            rows.to_csv(workspace / f"{name}.csv", index=False)
        options = {"pair_truncation": "only_second", "max_length": 96, "data": str(workspace / "train.csv")}
        config = Config.make("tiny", precision="fp32", pair_column="question", **options)
        table = add_folds(load_table(config), config)
        yield fit_fold(config, table), config, table


def test_a_saved_model_reads_pairs_again(trained):
    folder, _, table = trained
    expected = artifacts.read_predictions(folder)
    held_out = table[table["fold"] == 0]
    of_table = predict(folder / "averaged", held_out)["target"]
    of_pairs = predict(folder / "averaged", held_out[["excerpt", "question"]].to_numpy().tolist())["target"]
    np.testing.assert_allclose(of_table, expected["averaged"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(of_pairs, expected["averaged"], atol=1e-5, rtol=0)
    swapped = predict(folder / "averaged", held_out[["question", "excerpt"]].to_numpy().tolist())["target"]
    assert np.abs(swapped - of_pairs).max() > 1e-5


def test_a_test_set_of_pairs_is_predicted(trained):
    folder, config, _ = trained
    test = submission.load_test(config)
    predictions = submission._predict(make_task(config), folder / "last", test)
    assert predictions.shape == (len(test), 1)


@pytest.mark.parametrize("rows", [["a text"], [("a", "b", "c")], [("a", "b"), "c"]])
def test_what_is_no_pair_is_refused(rows, trained):
    with pytest.raises(InputError, match=r"this model reads pairs \(excerpt, question\), and .* is none"):
        predict(trained[0] / "last", rows)


def test_baselines_count_the_words_of_both_texts(config):
    texts = ["one", "two"] * 20
    numbers = [float(i // 10 % 2) for i in range(40)]
    questions = ["good words here" if number else "bad words here" for number in numbers]
    ids = [str(i) for i in range(40)]
    table = pd.DataFrame({"id": ids, "excerpt": texts, "question": questions, "target": numbers})
    predicted = make_task(config, table, table).baselines(table, table)["TF-IDF, ridge"]
    assert np.corrcoef(predicted[:, 0], numbers)[0, 1] > 0.9
