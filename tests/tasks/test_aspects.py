"""Aspects through the whole suite."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from tests import hostile
from utils import Config, add_folds, fit_fold, load_table, open_run, predict
from utils.config import InputError
from utils.data.aspects import locate
from utils.data.tokens import make_loader
from utils.machine import runtime
from utils.machine.encoders import encoder_source
from utils.reporting import aspects as report
from utils.reporting.fold import worst_predictions
from utils.runs import artifacts, submission
from utils.tasks import make_task
from utils.tasks.aspects import alone, token_distances
from utils.training.loop import add_gradients
from utils.training.masks import known_padding
from utils.training.setup import prepare

SMALL = {"encoder": "tiny", "precision": "fp32", "lr": 1e-3, "head_lr_factor": 1.0, "max_rows": 120}
SMALL |= {"epochs": 1, "swa_start": 0.4, "swa_every": 1, "n_dropouts": 1}


def config_of(pooling="lcf_fusion", **options):
    return Config.make("aspects", **{**SMALL, "pooling": pooling, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A fold of fusion; its folder, Config and table."""
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "workspace", lambda: workspace)
        config = config_of(local_window=2)
        table = add_folds(load_table(config), config)
        yield fit_fold(config, table), config, table


# --- distances ----------------------------------------------------------------------------------------------


def words(text, aspect, start, max_length=64, truncation="longest_first"):
    """The distance of each token of a text with an aspect, by token."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    table = pd.DataFrame({"id": ["1"], "text": [text], "aspect": [aspect], "start": [start]})
    config = config_of(pair_truncation=truncation)
    examples = make_task(config, pd.DataFrame({"polarity": ["a", "b"]})).encode(table, tokenizer, max_length)
    tokens = tokenizer.convert_ids_to_tokens(examples.tokens["input_ids"])
    return tokens, examples.extras["distance"].tolist()


def test_distances_are_counted_in_tokens_from_the_aspects_ends(workspace):
    tokens, distances = words("the sea and the old hill and the moon", "old hill", 16)
    assert tokens[:4] == ["[CLS]", "the", "sea", "and"]
    pieces = tokens.index("[SEP]") - 1
    assert distances[0] == 0
    assert distances[1:5] == [5, 4, 3, 2]
    assert distances[pieces + 1 :] == [0] * (len(tokens) - pieces - 1), "the aspect's own copy is not local"
    assert distances[pieces - 2 : pieces + 1] == [2, 3, 4]
    assert 1 in distances


def test_the_place_tells_two_of_a_name_apart(workspace):
    _, first = words("the sea and the sea", "sea", 4)
    _, second = words("the sea and the sea", "sea", 16)
    assert (first[1:6], second[1:6]) == ([2, 1, 2, 3, 4], [5, 4, 3, 2, 1])


def test_an_aspect_that_is_cut_off_lies_behind_the_last_token(workspace):
    tokens, distances = words("the sea and the old moon and a hill", "hill", 31, max_length=8)
    kept = tokens.index("[SEP]") - 1
    assert distances[: kept + 2] == [0, *range(kept + 1, 1, -1), 0]


def test_spans_with_the_space_before_a_word_are_the_words():
    """As of byte-level tokenizers, whose tokens take the space before them."""
    spans = np.array([(0, 0), (0, 3), (3, 8), (8, 12), (0, 0)])
    in_sentence = np.array([False, True, True, True, False])
    assert token_distances(spans, in_sentence, 4, 8).tolist() == [0, 2, 1, 2, 0]
    assert not token_distances(spans, np.zeros(5, bool), 4, 8).any()


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ([None, 0, 0, None, 1, None], 4),  # BERT
        ([None, 0, 0, None, None, 1, None], 4),  # RoBERTa
        ([0, 0, None, 1, None, None], 3),  # XLNet
        ([0, 0, 1], 2),  # GPT-2
        ([None, 0, None], 3),
    ],
)
def test_a_text_is_read_alone_with_the_special_tokens_that_are_its_own(parts, kept):
    assert alone(parts).tolist() == [True] * kept + [False] * (len(parts) - kept)


def test_masks_of_a_second_reading_are_known_before_it(workspace):
    """A batch without padding is read without a mask; the second reading is never."""
    config = config_of("lcf_cdm_two_passes")
    training = prepare(config, add_folds(load_table(config), config), 0)
    (batch,) = make_loader(training.train, [[0]], training.tokenizer)
    for weight in training.model.parameters():  # so large that all that is read shows
        torch.nn.init.normal_(weight, std=0.3)
    length = training.train.lengths[0]
    batch = batch._replace(
        inputs={name: value[:, :length] for name, value in batch.inputs.items()},
        extras={name: value[:, :length] for name, value in batch.extras.items()},
    )
    with torch.no_grad():
        expected = training.model.eval()(**batch.inputs, extras=batch.extras).logits
        with known_padding(batch):
            torch.testing.assert_close(training.model(**batch.inputs, extras=batch.extras).logits, expected)


def test_neighbours_are_the_sentences_other_aspects_whoever_else_is_read(workspace):
    """Of the table that was seen and of the one that is read; at an end of the sentence the aspect itself."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    text = "the sea and the old moon and a sea"
    rows = [("1", text, "moon", 20), ("2", text, "sea", 4), ("3", text, "sea", 31), ("4", "a sea", "sea", 2)]
    table = pd.DataFrame(rows, columns=["id", "text", "aspect", "start"]).assign(polarity=list("abab"))
    task = make_task(config_of("lsa"), table)
    whole, one = (task.encode(part, tokenizer, 64) for part in (table, table.iloc[[2]]))
    own, left, right = (whole.extras[name] for name in ("distance", "left_distance", "right_distance"))
    moon, first, last, alone = (whole.slice(number) for number in range(4))
    assert own[alone].tolist() == left[alone].tolist() == right[alone].tolist()
    assert left[moon].tolist()[:-2] == own[first].tolist()[:-2] == left[first].tolist()[:-2]
    assert right[moon].tolist()[:-2] == own[last].tolist()[:-2] == right[last].tolist()[:-2]
    assert left[last].tolist()[:-2] == own[moon].tolist()[:-2]
    for name, values in one.extras.items():
        np.testing.assert_array_equal(values, whole.extras[name][last])
    unseen = make_task(config_of("lsa"))
    np.testing.assert_array_equal(unseen.encode(table, tokenizer, 64).extras["right_distance"], right)
    np.testing.assert_array_equal(
        unseen.encode(table.iloc[[2]], tokenizer, 64).extras["left_distance"], own[last]
    )
    pairs = [(text, "moon")]
    encoded = tokenizer(*map(list, zip(*pairs, strict=True)), return_offsets_mapping=True)
    told = task.token_extras(encoded, pairs)
    assert set(told) == {"distance", "left_distance", "right_distance"}
    for name, values in told.items():
        np.testing.assert_array_equal(values[0], whole.extras[name][moon])


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pair_column": ""}, "task=aspects reads two columns; set pair_column"),
        ({"task": "multiclass"}, r"pooling=lcf_fusion needs each token's distance.*set task=aspects"),
        ({"pooling": "cls", "local_window": 5}, "local_window=5 does nothing with pooling=cls; set pooling="),
        ({"local_loss_share": 0.5}, "local_loss_share=0.5 does nothing with pooling=lcf_fusion.*pooling=lca"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        make_task(config_of(**settings))
    assert "\n" not in str(caught.value)


# --- learning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "soft_f1"])
def test_parts_of_a_batch_give_the_whole_batchs_gradient_with_lcas_own_loss(loss, workspace):
    config = config_of("lca", loss=loss, local_loss_share=0.6, head_dropout=0, batch_size=12)
    training = prepare(config, add_folds(load_table(config), config), 0)
    batch = next(iter(make_loader(training.train, training.batches(0), training.tokenizer)))
    outputs = training.model.train()(**batch.inputs, extras=batch.extras)
    mean = outputs.auxiliary.sum() / (batch.extras["distance"] > 0).sum()
    of_task = training.task.loss.loss(outputs.logits, batch.targets)
    expected = torch.autograd.grad(0.4 * of_task + 0.6 * mean, list(training.model.parameters()))
    for parts in (1, 2, 5):
        training.optimizer.zero_grad()
        add_gradients(training, batch.split(parts))
        gradients = [parameter.grad for parameter in training.model.parameters()]
        torch.testing.assert_close(gradients, list(expected), atol=1e-6, rtol=1e-4)


# --- from training to prediction ----------------------------------------------------------------------------


def test_a_saved_model_finds_the_aspects_again(trained):
    folder, _, table = trained
    expected = artifacts.read_predictions(folder)
    held_out = table[table["fold"] == 0]
    of_table = predict(folder / "averaged", held_out)
    assert list(of_table)[:6] == ["id", "text", "aspect", "start", "end", "polarity"]
    for label in ("negative", "neutral", "positive"):
        np.testing.assert_allclose(of_table[label], expected[f"averaged {label}"], atol=1e-5, rtol=0)
    assert artifacts.load_model(folder / "averaged")[0].pooling.local_window == 2


@pytest.mark.parametrize(
    "pooling", [pytest.param("lca", marks=pytest.mark.full), "lsa", "lcf_cdw_two_passes"]
)
def test_other_models_are_trained_saved_and_found_again(pooling, workspace):
    config = config_of(pooling, local_window=2)
    table = add_folds(load_table(config), config)
    folder = fit_fold(config, table)
    expected = artifacts.read_predictions(folder)
    answers = predict(folder / "last", table[table["fold"] == 0])
    np.testing.assert_allclose(answers["negative"], expected["last negative"], atol=1e-5, rtol=0)


def test_marks_and_pairs_of_several_aspects_get_the_same_answers(trained):
    folder = trained[0] / "averaged"
    sentence = "The [B-ASP]food[E-ASP] was good but the [B-ASP]bar[E-ASP] slow."
    marked = predict(folder, [sentence, "[B-ASP]Fine[E-ASP]."])
    text = "The food was good but the bar slow."
    pairs = predict(folder, [(text, "food"), (text, "bar"), ("Fine.", "Fine")])
    assert marked["id"].tolist() == ["0-1", "0-2", "1"]
    pd.testing.assert_frame_equal(marked.drop(columns="id"), pairs.drop(columns="id"))
    assert abs(marked["negative"][0] - marked["negative"][1]) > 1e-6


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["The food was good."], r"'The food was good.' marks no aspect; write \[B-ASP\] before it"),
        ([("The food was good.", "service")], "is not in its text"),
        ([("The food.", "food"), "[B-ASP]a[E-ASP]"], "this model reads pairs"),
    ],
)
def test_what_names_no_aspect_is_refused(rows, words, trained):
    with pytest.raises(InputError, match=words) as caught:
        predict(trained[0] / "last", rows)
    assert "\n" not in str(caught.value)


def test_the_test_set_is_predicted_and_submitted(trained):
    folder, config, table = trained
    test, task = submission.load_test(config), make_task(config, table)
    predictions = submission._predict(task, folder / "last", test)
    path = submission.write_submission(test, predictions, task, folder.parent)
    assert pd.read_csv(path).shape == (78, 2)


def test_baselines_count_the_neighbours_of_an_aspect(workspace):
    config = config_of()
    pairs = [("fine", "slow"), ("slow", "fine")] * 30
    texts = [f"they had {one} food though both of us found {other} service" for one, other in pairs]
    aspects, ids = ["food"] * 30 + ["service"] * 30, [str(i) for i in range(60)]
    table = pd.DataFrame({"id": ids, "text": texts, "aspect": aspects})
    good = [("fine " + aspect) in text for text, aspect in zip(texts, table["aspect"], strict=True)]
    table["polarity"] = np.where(good, "positive", "negative")
    table = locate(table, "text", "aspect", "t")
    predicted = make_task(config, table, table).baselines(table, table)["TF-IDF, logistic regression"]
    assert ((predicted[:, 1] > 0.5) == good).all(), "sentences alone would be right half of the time"


# --- reports ------------------------------------------------------------------------------------------------


def test_reports_of_a_run_show_the_aspects(trained):
    _, config, table = trained
    run = open_run(config)
    rows = report.predicted_aspects(run)
    assert len(rows) == (table["fold"] == 0).sum()
    page = report.show_aspects(rows).data
    assert page.count("<sub>") == len(rows)
    slices = report.slices_table({"fusion": run})
    assert slices["rows"].tolist() == [len(rows), report.is_mixed(run).sum()]
    assert "[" in worst_predictions(run.table, run.predictions, run.task, n=1).data
    tokenizer = artifacts.load_model(run.folders[0] / "last")[1]
    assert len(report.plot_window(run.task, table[:1], tokenizer, 3).axes) == 2


def test_what_random_folds_share_is_counted_by_aspects(trained):
    run = open_run(trained[1])
    assert "the sentences of 0% of the held-out aspects" in report.leak_in_words(run, run)
    first = run.table.duplicated("text", keep=False) & ~run.table.duplicated("text")
    leaking = replace(run, table=run.table.assign(fold=np.where(first, 0, 1)))
    assert "the sentences of 100% of the held-out aspects" in report.leak_in_words(run, leaking)


def test_a_table_may_have_its_own_names():
    config = Config.make("aspects", text_column="satz", pair_column="ding", target_columns="ton")
    table = pd.DataFrame({"satz": ["fine food"], "ding": ["food"], "start": [5], "ton": ["positive"]})
    assert ">food</mark><sub>positive</sub>" in report.show_aspects(table, config).data


def test_overlapping_aspects_are_all_shown_and_what_is_wrong_is_framed():
    rows = pd.DataFrame(
        [("bar staff", 4, "positive", "positive"), ("bar", 4, "negative", "neutral"), ("end", 18, "x", "x")],
        columns=["aspect", "start", "polarity", "true"],
    ).assign(text="The bar staff, the end", probability=0.5)
    rows.loc[2, "start"] = 19
    page = report.show_aspects(rows).data
    assert page.count("<p>") == 3, "a legend and two lines"
    assert page.count("dashed") == 1
    assert "negative 0.50 (true: neutral)" in page


def test_nothing_of_a_table_is_markup():
    rows = [(f"{string} is fine", string, 0, string, hostile.STRINGS[0]) for string in hostile.STRINGS]
    table = pd.DataFrame(rows, columns=["text", "aspect", "start", "polarity", "true"])
    page = hostile.check_page(hostile.exported(report.show_aspects(table)))
    assert all(page.count(string) >= 3 for string in hostile.STRINGS)
