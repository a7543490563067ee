"""The page of attention beside LIT's."""

import numpy as np
import pytest
import requests

from tests.lit.conftest import MODEL
from utils.explain.heads import head_effects

TEXT = {"model": MODEL, "text": "A cat sat on a mat."}


def ask(lit, question, body, status=200):
    answer = requests.post(f"{lit.url}attention/{question}", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.text


def test_the_page_gives_what_the_explainer_does(lit, explainer):
    assert "attention.js" in requests.get(f"{lit.url}attention.html", timeout=30).text
    models = ask(lit, "models", {})
    assert models["models"] == [f"fold {fold} · averaged" for fold in range(5)]
    assert not models["pairs"]
    tokens, attention = explainer.attentions(TEXT["text"])
    read = ask(lit, "read", TEXT)
    assert (read["tokens"], read["layers"], read["heads"]) == (tokens, *attention.shape[:2])
    assert read["score"] == pytest.approx(explainer.scores([TEXT["text"]])[0, 0], abs=1e-5)
    assert len(read["rollout"]["tokens"]) == len(read["rollout"]["values"]) == len(tokens) - 2
    one = ask(lit, "head", TEXT | {"layer": 1, "head": 0})["weights"]
    np.testing.assert_allclose(one, attention[1, 0], atol=1e-4)
    mean = ask(lit, "head", TEXT | {"layer": 0, "head": None})["weights"]
    np.testing.assert_allclose(mean, attention[0].mean(axis=0), atol=1e-4)
    effects = ask(lit, "effects", TEXT)
    np.testing.assert_allclose(effects["effects"], head_effects(explainer, TEXT["text"]), atol=1e-5)


@pytest.mark.parametrize(
    ("question", "body", "sentence"),
    [
        ("read", TEXT | {"model": "fold 9"}, "model='fold 9' is not open; choose one of: fold 0"),
        ("read", {"text": "A cat."}, "the question lacks model."),
        ("read", {}, "the question lacks model and text."),
        ("head", TEXT, "the question lacks head and layer."),
        ("models", {"speed": 1}, "a question is a JSON object"),
        ("read", TEXT | {"text": 5}, "a question is a JSON object of some of: model, text"),
        ("read", ["model"], "a question is a JSON object"),
        ("read", TEXT | {"folder": "/"}, "a question is a JSON object"),
        (
            "head",
            TEXT | {"layer": 9, "head": 0},
            "layer=9, head=0 does not exist; the model has 2 layers",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_gets_a_sentence(lit, question, body, sentence):
    assert ask(lit, question, body, status=400).startswith(sentence)


def test_other_sites_pages_get_no_attention(lit):
    answer = requests.post(
        f"{lit.url}attention/read", json=TEXT, headers={"Origin": "https://evil.example"}, timeout=30
    )
    assert answer.status_code == 403
