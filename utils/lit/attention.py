"""Attention by hand, on a page beside LIT's: any text, layer and head, rollout, and the heads that matter."""

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from lit_nlp.api import types
from werkzeug.wrappers import Request, Response

from utils.config import InputError
from utils.explain.encoding import Read, read_by
from utils.explain.explainer import Explainer
from utils.explain.heads import head_effects, strongest_heads
from utils.lit.wrappers import FoldModel

#: What a question may hold.
_TYPES: dict[str, Any] = {"model": str, "text": str, "second": str, "layer": int, "head": int | None}


class AttentionPage:
    """A WSGI app that answers the page of attention, and leaves every other request to ``app``.

    Args:
        models: that the page offers, by name.
    """

    def __init__(self, app, models: dict[str, FoldModel]):
        self.app, self.models = app, models

    def __call__(self, environ, start_response):
        request = Request(environ)
        question = _QUESTIONS.get(request.path.removeprefix("/attention/"))
        if question is None or request.method != "POST":
            return self.app(environ, start_response)
        try:
            ask, needed = question
            answer = json.dumps(ask(self.models, **_asked(request, self.models, needed)))
            response = Response(answer, mimetype="application/json")
        except InputError as error:
            response = Response(str(error), status=400, mimetype="text/plain")
        return response(environ, start_response)


def _asked(request: Request, models: dict[str, FoldModel], needed: set[str]) -> dict[str, Any]:
    """What a request holds. Raises InputError unless it is all that is needed, and its model is open."""
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, dict) or not all(isinstance(body[name], _TYPES.get(name, ())) for name in body):
        raise InputError(f"a question is a JSON object of some of: {', '.join(_TYPES)}.")
    if missing := sorted(needed - {*body}):
        raise InputError(f"the question lacks {' and '.join(missing)}.")
    if needed and body["model"] not in models:
        raise InputError(f"model={body['model']!r} is not open; choose one of: {', '.join(models)}.")
    return body


def _names(models: dict[str, FoldModel]) -> dict:
    first = next(iter(models.values()))
    return {"models": list(models), "pairs": bool(first.view.task.config.pair_column)}


def _read(models: dict[str, FoldModel], model: str, text: str, second: str = "") -> dict:
    """The score of a text, its tokens with the special ones, and its rollout over the others."""
    fold_model = models[model]
    example, quantity = _example(fold_model, text, second), fold_model.view.chosen(None)
    read = read_by(fold_model.view.task.config, example)
    tokens, weights = _attentions(fold_model.explainer, read)
    (reading,) = fold_model.explainer.read([read])
    return {
        "tokens": tokens,
        "layers": weights.shape[0],
        "heads": weights.shape[1],
        "explained": fold_model.view.explains,
        "score": fold_model.explained([example], quantity)[0][quantity[0]],
        "rollout": {"tokens": reading.tokens, "values": np.asarray(reading.attention).tolist()},
    }


def _head(
    models: dict[str, FoldModel], model: str, text: str, layer: int, head: int | None, second: str = ""
):
    """The attention of a head, or the mean of a layer's, counted from 0: a row per attending token."""
    fold_model = models[model]
    read = read_by(fold_model.view.task.config, _example(fold_model, text, second))
    _, weights = _attentions(fold_model.explainer, read)
    if not (0 <= layer < weights.shape[0] and (head is None or 0 <= head < weights.shape[1])):
        counts = f"{weights.shape[0]} layers of {weights.shape[1]} heads"
        raise InputError(f"layer={layer}, head={head} does not exist; the model has {counts}.")
    chosen = weights[layer].mean(axis=0) if head is None else weights[layer, head]
    return {"weights": chosen.round(4).astype(float).tolist()}


def _effects(models: dict[str, FoldModel], model: str, text: str, second: str = "") -> dict:
    """The effect of each head on the score, (layers, heads), and the heads with the largest."""
    fold_model = models[model]
    read = read_by(fold_model.view.task.config, _example(fold_model, text, second))
    effects = head_effects(fold_model.explainer, read)
    return {"effects": effects.tolist(), "strongest": strongest_heads(effects)}


def _example(fold_model: FoldModel, text: str, second: str) -> types.JsonDict:
    return dict(zip(fold_model.view.task.config.text_columns, (text, second), strict=False))


def forget() -> None:
    """Let go of the models whose attention was looked at."""
    _attentions.cache_clear()


@functools.lru_cache(maxsize=2)  # 40 MB each, for 12 layers and 256 tokens
def _attentions(explainer: Explainer, read: Read) -> tuple[list[str], np.ndarray]:
    tokens, weights = explainer.attentions(read)
    if weights is None:
        raise InputError("this encoder gives no attention between all pairs of tokens.")
    return tokens, weights


#: What answers each question, and what the question must hold.
_QUESTIONS: dict[str, tuple[Callable, set[str]]] = {
    "models": (_names, set()),
    "read": (_read, {"model", "text"}),
    "head": (_head, {"model", "text", "layer", "head"}),
    "effects": (_effects, {"model", "text"}),
}
