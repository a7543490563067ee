"""Attention in a notebook: with sliders where they can be moved, a picture elsewhere."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest

from utils.config import InputError
from utils.machine import runtime
from utils.reporting import attention
from utils.reporting.attention import effects_table, explore_attention


class Reader:
    """Stands in for an Explainer: 2 layers of 3 heads, over the characters of a text."""

    def attentions(self, text):
        return list(text), np.full((2, 3, len(text), len(text)), 1 / len(text))


def test_sliders_draw_the_head_that_they_name(monkeypatch):
    monkeypatch.setattr(runtime, "progress_wanted", lambda: True)
    monkeypatch.setattr(plt, "show", lambda: None)
    asked = {}
    monkeypatch.setattr(widgets, "interact", lambda draw, **controls: asked.update(draw=draw, **controls))
    explore_attention(Reader(), "a cat")
    assert (asked["layer"].min, asked["layer"].max, asked["head"].max) == (0, 1, 2)
    asked["draw"](text="a dog", layer=1, head=2)
    assert plt.gcf().axes[0].get_title(loc="left") + plt.gcf().axes[0].get_title() == "layer 1, head 2"
    plt.close("all")


def test_the_table_has_the_largest_effects_first(monkeypatch):
    effects = np.array([[0.1, -0.5], [0.3, 0.0]])
    monkeypatch.setattr(attention, "head_effects", lambda explainer, text: effects)
    table = effects_table(Reader(), "a cat", 3)
    assert table[["layer", "head"]].to_numpy().tolist() == [[0, 1], [1, 0], [0, 0]]
    assert table["effect on the score"].tolist() == pytest.approx([-0.5, 0.3, 0.1])


def test_an_encoder_whose_heads_cannot_be_masked_still_has_a_picture(monkeypatch, capsys):
    def refuse(explainer, text):
        raise InputError("cannot be masked")

    monkeypatch.setattr(attention, "head_effects", refuse)
    assert effects_table(Reader(), "a cat") is None
    assert "cannot be masked one by one" in capsys.readouterr().out
    assert explore_attention(Reader(), "a cat") is not None
    plt.close("all")
