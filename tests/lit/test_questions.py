"""What notebook 04 asks of a server, against the folds' own records."""

import numpy as np
import pytest

from tests.lit.conftest import HELD_OUT, MODEL, text_of
from utils.lit.questions import HeldOut


@pytest.fixture(scope="module")
def held_out(lit, trained):
    return HeldOut(lit, trained)


def test_scores_are_those_that_the_fold_recorded(held_out, trained):
    compared = held_out.compare_scores()
    recorded = trained.predictions.set_index("id").loc[compared.index]
    np.testing.assert_array_equal(compared["predictions.csv"], recorded["averaged"])
    np.testing.assert_allclose(compared["LIT"], recorded["averaged"], atol=1e-5)
    np.testing.assert_array_equal(held_out.targets, recorded["target"])
    assert held_out.pooled.shape == (24, 32)


def test_rmse_of_every_model_on_every_dataset(held_out):
    table = held_out.metric_table()
    assert table.shape == (6, 6)
    errors = held_out.scores - held_out.targets
    assert table.loc[MODEL, HELD_OUT] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
    assert table.iloc[1:, 1:].notna().all(axis=None)
    assert table.loc["out of fold · averaged"].dropna().index.tolist() == ["out of fold"]


def test_words_have_their_tokens_salience(lit, held_out, rows):
    method, settings = "Integrated Gradients", {"Normalize": False}
    pairs = held_out.words(method, rows[:2], **settings)
    for row, (words, values) in zip(rows, pairs, strict=False):
        assert words == text_of(row).split()[: len(words)]
        ((_, by_token),) = lit.salience(method, MODEL, HELD_OUT, [row], **settings)
        assert values.sum() == pytest.approx(by_token.sum(), rel=1e-3, abs=1e-4)
    ((words, values),) = held_out.words("LIME", rows[:1])
    assert words == text_of(rows[0]).split()
    assert np.abs(values).max() == pytest.approx(1)


def test_integrated_gradients_add_up(held_out, rows):
    table = held_out.completeness(rows[:2])
    np.testing.assert_allclose(table["difference"], table["sum of the words' values"], rtol=0.02, atol=0.005)
    np.testing.assert_allclose(table["score"] - table["score of the baseline"], table["difference"])


def test_edits_come_with_the_scores_before_and_after(held_out, rows, explainer):
    word = text_of(rows[0]).split()[1]
    edits = held_out.edits("Word Replacer", rows[0], most=1, Substitutions=f"{word} -> zebra")
    (edit,) = edits
    assert (edit["by"], "zebra" in edit["text"]) == ("Word Replacer", True)
    before, after = explainer.scores([text_of(rows[0]), edit["text"]])[:, 0]
    assert edit["score before"] == pytest.approx(before, abs=1e-5)
    assert edit["score after"] == pytest.approx(after, abs=1e-5)


def test_words_are_left_out_one_at_a_time(held_out, rows, explainer):
    row = rows[0]
    words, effects = held_out.left_out(row)
    assert len(words) == len(effects) > 5
    shortened = [" ".join(words), " ".join(words[:3] + words[4:])]
    whole, without = explainer.scores(shortened)[:, 0]
    assert effects[3] == pytest.approx(whole - without, abs=1e-5)
