"""pooling=native: the architecture's own classifier, in a folder that is transformers' own class."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    Qwen2Config,
    SplinterConfig,
)

from tests.conftest import FAMILIES, SHAPE, save_encoder
from tests.runs.helpers import OPTIONS, Stop, assert_same, stop_after
from utils import add_folds, fit_fold, load_table, predict
from utils.config import Config, InputError
from utils.explain.explainer import Explainer
from utils.release.card import card
from utils.release.onnx import export
from utils.release.publish import stage
from utils.runs.artifacts import read_predictions, read_result
from utils.tasks import make_task

ARCHITECTURES = {
    **FAMILIES,
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=99, bos_token_id=2, eos_token_id=3),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2),
}


def train(tiny, **options):
    config = tiny(pooling="native", **options)
    table = add_folds(load_table(config), config)
    folder = fit_fold(config, table)
    return folder, table[table["fold"] == 0]


def own_class(folder, texts, **options):
    """What transformers' own class makes of texts, with nothing of ours."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        inputs = tokenizer(list(texts), truncation=True, padding=True, return_tensors="pt")
        return model, model(**inputs).logits


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name in ("bert", "qwen2") else pytest.mark.full)
        for name in ARCHITECTURES
    ],
)
def test_transformers_own_class_gives_our_scores(family, tiny, tmp_path):
    shape = copy.deepcopy(ARCHITECTURES[family])
    shape.vocab_size = 2001  # the tiny tokenizer has 2000, and Qwen2 adds one
    encoder = save_encoder(tmp_path / family, shape)
    folder, held_out = train(tiny, encoder=str(encoder), max_length=24, max_rows=40)
    for weights in ("last", "averaged"):
        model, logits = own_class(folder / weights, held_out["excerpt"])
        assert type(model).__name__.endswith("ForSequenceClassification")
        ours = read_predictions(folder)[weights].to_numpy()
        np.testing.assert_allclose(logits.squeeze(1).double().numpy(), ours, atol=1e-5)
        np.testing.assert_allclose(predict(folder / weights, held_out)["target"], ours, atol=1e-5)
    assert not list((folder / "last").glob("*.py")), "no code is needed"
    assert np.std(ours) > 0


@pytest.mark.parametrize(
    ("task", "columns"), [("multiclass", "level"), ("binary", "suitable"), ("regression", "target,level")]
)
def test_names_and_numbers_are_those_of_the_task(task, columns, tiny):
    folder, held_out = train(tiny, task=task, target_columns=columns)
    model, logits = own_class(folder / "last", held_out["excerpt"])
    ours = predict(folder / "last", held_out)
    if task == "regression":
        np.testing.assert_allclose(logits.double().numpy(), ours[columns.split(",")], atol=1e-5)
        return
    shares = logits.sigmoid() if task == "binary" else logits.softmax(dim=1)
    names = [str(name) for name in model.config.id2label.values()]
    found = ours[names].to_numpy() if task == "multiclass" else ours.iloc[:, [-1]].to_numpy()
    np.testing.assert_allclose(shares.double().numpy(), found, atol=1e-5)


def test_it_resumes_is_explained_exported_and_published(tiny, tiny_table, monkeypatch, tmp_path):
    options = {**OPTIONS, "pooling": "native", "save_every": 1}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    config = tiny(run="interrupted", **options)
    restore = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    restore()
    folder = fit_fold(config, tiny_table)
    assert_same(whole, folder)

    rows = tiny_table.head(3)
    scores = predict(folder / "averaged", rows)["target"].to_numpy()
    np.testing.assert_allclose(predict(export(folder / "averaged"), rows)["target"], scores, atol=1e-4)

    explainer = Explainer(folder / "averaged", make_task(config))
    readings = explainer.read(list(rows["excerpt"]))
    np.testing.assert_allclose([reading.scores[0] for reading in readings], scores, atol=1e-5)
    for reading in readings:
        assert 0 < reading.attention.sum() <= 1.00001

    assert 'pipeline("text-classification", "owner/name", top_k=None)' in card(folder / "last", "owner/name")
    assert "model.safetensors" in stage(folder / "averaged", tmp_path / "staged", "owner/name")
    assert type(AutoModel.from_pretrained(tmp_path / "staged")).__name__ == "BertModel"
    again = fit_fold(tiny(run="second", encoder=str(folder / "averaged"), pooling="native"), tiny_table)
    assert read_result(again)["scores"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "questions"}, "pooling=native does not fit task=spans, which asks about each token"),
        ({"local_window": 5}, "local_window=5 does nothing with pooling=native"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, message):
    config = Config.make(**{"preset": "tiny", "pooling": "native", **options})
    with pytest.raises(InputError, match=message):
        make_task(config)


def test_an_architecture_without_a_classifier_is_refused(tiny, tiny_table, tmp_path):
    encoder = save_encoder(tmp_path / "splinter", SplinterConfig(**{**SHAPE, "vocab_size": 2001}))
    with pytest.raises(InputError, match="transformers has no splinter classifier; leave it out"):
        fit_fold(tiny(pooling="native", encoder=str(encoder)), tiny_table)
