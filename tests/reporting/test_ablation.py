"""Methods judged by leaving words out."""

import numpy as np
import pytest

from utils.reporting.ablation import ablation_in_words, compare_methods

WORDS = ["a", "storm", "blew", "evenings,"]
EFFECTS = np.array([0.1, 0.4, -0.2, -0.31])


def test_the_method_that_ranks_as_the_effects_do_comes_first():
    values = {"reversed": -EFFECTS, "same": 3 * EFFECTS, "constant": np.ones(4)}
    table = compare_methods(values, EFFECTS)
    assert table.index.tolist()[:2] == ["same", "reversed"]
    assert table.loc["same"].tolist() == [1, 1]
    assert table.loc["reversed"].tolist() == [-1, 0]
    assert np.isnan(table.loc["constant", "rank correlation"])
    assert table.loc["constant", "same sign"] == 0.5


@pytest.mark.parametrize(("right", "shares"), [("LIME", (0, 2)), ("Gradient · input", (2, 0))])
def test_the_sentence_says_who_was_right_about_the_disputed_words(right, shares):
    wrong = "LIME" if right == "Gradient · input" else "Gradient · input"
    values = {right: EFFECTS, wrong: np.abs(EFFECTS)}
    said = ablation_in_words(WORDS, values, EFFECTS, ("Gradient · input", "LIME"))
    assert "give 2 words opposite signs" in said
    assert f"as Gradient · input says for {shares[0]} of them, and as LIME says for {shares[1]}." in said
    assert said.endswith("It moves most without “evenings,” (+0.31) and “blew” (+0.20).")


def test_the_sentence_says_where_nothing_is_disputed():
    values = {"LIME": EFFECTS, "Gradient · input": 2 * EFFECTS}
    said = ablation_in_words(WORDS, values, EFFECTS, ("Gradient · input", "LIME"), "log-odds")
    assert said.endswith("Gradient · input and LIME give no word opposite signs.")
    assert "LIME 1.00" in said
