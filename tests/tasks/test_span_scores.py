"""Exact match and F1 as SQuAD counts them; the cut for no answer; the baseline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.tasks.span_scores import fit_cut, judge, most_similar_sentence


@pytest.mark.parametrize(
    ("answer", "truths", "f1", "exact_match"),
    [
        ("the Cat", ["cat"], 1, 1),  # articles and case
        ("An apple,  a day!", ["apple day"], 1, 1),  # punctuation and white space
        ("cat's", ["cats"], 1, 1),  # punctuation is deleted, not made a space
        ("well-known", ["well known"], 0, 0),
        ("theory", ["ory"], 0, 0),  # "the" is an article as a word alone
        ("cat sat", ["the cat sat down"], 0.8, 0),
        ("new new york", ["new york"], 0.8, 0),  # each word counts as often as both have it
        ("in 1990", ["1990"], 2 / 3, 0),
        ("dog", ["cat", "a dog", "dog house"], 1, 1),  # of several the best
        ("big dog", ["cat", "dog house"], 0.5, 0),
        ("", [], 1, 1),  # no answer, rightly
        ("dog", [], 0, 0),
        ("", ["dog"], 0, 0),
        ("the", ["the", "dog"], 0, 0),  # an answer of which nothing is left is none
        ("", ["the"], 1, 1),
        ("é", ["É"], 1, 1),
    ],
)
def test_answers_are_judged_as_squad_does(answer, truths, f1, exact_match):
    assert judge(answer, truths) == pytest.approx((f1, exact_match))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0, 0.4, 1]), st.integers(0, 1), st.integers(-3, 3)), min_size=1))
def test_no_other_cut_scores_better_than_the_fitted_one(rows):
    answered, unanswered, margins = np.array(rows, dtype=float).T

    def total(cut):
        return np.where(margins > cut, unanswered, answered).sum()

    cut = fit_cut(answered, unanswered, margins)
    assert total(cut) == pytest.approx(max(total(other) for other in np.arange(-4.5, 5, 0.5)))
    assert cut == 0 or total(0) < total(cut), "it was moved for nothing"


def test_the_baseline_is_the_sentence_with_most_words_in_common():
    context = 'Bees dance. "They feel the dance," says Dr. May!  Mice sleep\nall day'
    for question, sentence in {
        "Who feels a dance?": "Bees dance.",  # the first of equals
        "What do they feel, says May?": '"They feel the dance," says Dr.',
        "When do mice sleep?": "Mice sleep\nall day",
        "?": "Bees dance.",
    }.items():
        start, stop = most_similar_sentence(question, context)
        assert context[start:stop] == sentence
    assert most_similar_sentence("Who?", "") == (0, 0)
