"""What labels and grades can be predicted by without a transformer."""

import numpy as np
import pytest

from utils.tasks.baselines import predict_grades, predict_prior, predict_probabilities

TEXTS = ["good fine words", "bad poor words", "plain words here"] * 8
CODES = np.array([0, 1, 3] * 8)  # the class 2 never occurs


def test_logistic_regression_gives_an_unseen_class_nothing():
    probabilities = predict_probabilities(TEXTS, CODES, 4, TEXTS)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == CODES).all()
    assert not probabilities[:, 2].any()


def test_grades_are_whole_and_within_the_scale():
    grades = predict_grades(TEXTS, CODES, 4, [*TEXTS, "bad " * 50])
    assert grades.dtype == int
    assert (grades[:-1] == CODES).mean() > 0.9
    assert set(grades) <= set(range(4))


def test_the_prior_is_the_share_of_each_class():
    assert predict_prior(CODES, 4, 2).tolist() == [[1 / 3, 1 / 3, 0, 1 / 3]] * 2


@pytest.mark.parametrize("function", [predict_probabilities, predict_grades])
def test_words_that_occur_once_say_nothing(function):
    with pytest.raises(ValueError, match="no terms remain"):
        function(["a1 b1", "c1 d1"], np.array([0, 1]), 2, ["e1"])
