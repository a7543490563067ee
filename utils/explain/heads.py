"""What single attention heads contribute to a score."""

import re

import numpy as np
import torch
from torch import nn

from utils.config import InputError
from utils.explain.encoding import Read
from utils.explain.explainer import Explainer

#: How the modules' names end that mix a layer's heads: in BERT and its family, DistilBERT, ModernBERT.
_MIXERS = re.compile(r"\b(attention\.output\.dense|attention\.out_lin|attn\.Wo)$")


@torch.no_grad()
def head_effects(explainer: Explainer, text: Read) -> np.ndarray:
    """The score of a text minus its score without a head's output, (layers, heads), in the score's unit.

    Heads stand in for one another, so that a small effect does not make a head useless.

    Raises InputError for an encoder whose heads cannot be told apart.
    """
    encoder = explainer.model.encoder
    mixers = [module for name, module in encoder.named_modules() if _MIXERS.search(name)]
    heads = getattr(encoder.config, "num_attention_heads", 0)
    if not heads or len(mixers) != encoder.config.num_hidden_layers:
        raise InputError(f"the heads of {type(encoder).__name__} cannot be masked one by one; use rollout.")
    whole = _scores(explainer, explainer.logits([text]))
    return np.stack([whole - _without_each(explainer, text, mixer, heads) for mixer in mixers])


def _without_each(explainer: Explainer, text: Read, mixer: nn.Module, heads: int) -> np.ndarray:
    """The scores of a text without the output of one layer's first, second, ... head, (heads,)."""

    def mask(_, arguments):
        parts = arguments[0].clone().unflatten(-1, (heads, -1))  # (batch, tokens, heads, width of a head)
        for head in range(heads):
            parts[head, :, head] = 0
        return parts.flatten(-2)

    encoded = explainer.encode([text] * heads)
    with explainer.hooked(mixer, mask):
        output = explainer.model(**encoded.inputs, extras=encoded.extras)
    return _scores(explainer, [one.numpy() for one in encoded.of_texts(output["logits"])])


def _scores(explainer: Explainer, logits: list[np.ndarray]) -> np.ndarray:
    """The explained score of each text, (texts,)."""
    return np.array([explainer.explained(torch.from_numpy(one)[None]).item() for one in logits])


def strongest_heads(effects: np.ndarray, count: int = 5) -> list[tuple[int, int]]:
    """The heads, (layer, head) from 0, with the largest effect in either direction, the largest first."""
    order = np.argsort(-np.abs(effects), axis=None)[:count]
    layers, heads = np.unravel_index(order, effects.shape)
    return list(zip(layers.tolist(), heads.tolist(), strict=True))
