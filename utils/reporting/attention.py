"""Attention by hand in a notebook: a text, a layer and a head, chosen with ipywidgets."""

import functools

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils.config import InputError
from utils.explain.encoding import Read
from utils.explain.explainer import Explainer
from utils.explain.heads import head_effects, strongest_heads
from utils.machine import runtime
from utils.reporting.words import plot_heads, telling_heads


def explore_attention(explainer: Explainer, text: Read):
    """A text field, and sliders for the layer and the head, above the head's picture, in a live notebook.

    Elsewhere, where nobody can move them, and for a pair, the picture of the head with the largest effect on
    the score.
    """
    tokens, attention = explainer.attentions(text)
    if attention is None or not isinstance(text, str) or not runtime.progress_wanted():
        effects = _effects(explainer, text)
        chosen = telling_heads(tokens, attention, 1) if effects is None else strongest_heads(effects, 1)
        return plot_heads(tokens, attention, chosen)
    look = functools.lru_cache(maxsize=4)(explainer.attentions)

    def draw(text: str, layer: int, head: int) -> None:
        tokens, attention = look(text)
        plot_heads(tokens, attention, [(layer, head)])
        plt.show()

    layers, heads = attention.shape[:2]
    wide = {"layout": {"width": "100%"}, "continuous_update": False}
    widgets.interact(
        draw,
        text=widgets.Textarea(text, description="text", **wide),
        layer=widgets.IntSlider(layers - 1, min=0, max=layers - 1, description="layer", **wide),
        head=widgets.IntSlider(0, min=0, max=heads - 1, description="head", **wide),
    )
    return None


def effects_table(explainer: Explainer, text: Read, count: int = 5) -> pd.DataFrame | None:
    """The heads, counted from 0, with the largest effect on the score of a text when they are masked."""
    effects = _effects(explainer, text)
    if effects is None:
        print("This encoder's heads cannot be masked one by one, so there is no table of their effects.")
        return None
    rows = [(layer, head, effects[layer, head].round(4)) for layer, head in strongest_heads(effects, count)]
    return pd.DataFrame(rows, columns=["layer", "head", "effect on the score"])


def _effects(explainer: Explainer, text: Read) -> np.ndarray | None:
    try:
        return head_effects(explainer, text)
    except InputError:
        return None
