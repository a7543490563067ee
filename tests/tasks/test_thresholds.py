"""Cuts between classes, fitted and judged."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from utils.tasks.thresholds import divide, fit_cuts


def accuracy(codes, predicted):
    return (codes == predicted).mean()


def test_a_score_belongs_to_the_class_above_the_cuts_that_it_reaches():
    assert divide(np.array([0.4, 0.5, 1.4, 9.0]), np.array([0.5, 1.5])).tolist() == [0, 1, 1, 2]


def test_a_single_cut_is_the_best_of_all():
    generator = np.random.default_rng(0)
    codes = (generator.uniform(size=80) < 0.2).astype(int)
    scores = 0.3 * codes + generator.uniform(size=80) * 0.5
    cut = fit_cuts(codes, scores, np.array([0.5]), f1_score)
    every = [f1_score(codes, scores >= threshold, zero_division=0) for threshold in scores]
    assert f1_score(codes, scores >= cut[0]) == max(every)


def test_shifted_grades_are_found_again():
    codes = np.repeat(np.arange(4), 30)
    scores = codes * 0.5 + 1.0 + np.random.default_rng(0).uniform(-0.2, 0.2, 120)
    cuts = fit_cuts(codes, scores, np.array([0.5, 1.5, 2.5]), accuracy)
    assert accuracy(codes, divide(scores, cuts)) == 1.0


@given(st.integers(0, 200), st.integers(2, 6))
def test_fitted_cuts_ascend_and_are_never_worse_on_their_own_rows(seed, n_classes):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, n_classes, 40)
    scores = (codes + generator.normal(0, 2, 40)).round(1)  # with ties
    start = np.arange(n_classes - 1) + 0.5
    cuts = fit_cuts(codes, scores, start, accuracy)
    assert (np.diff(cuts) >= 0).all()
    assert accuracy(codes, divide(scores, cuts)) >= accuracy(codes, divide(scores, start))
