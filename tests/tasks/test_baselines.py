import numpy as np
import pytest

from utils.tasks import baselines

GOOD, BAD = "a lovely, warm and funny film", "a dull, cold and tiresome film"
THINGS = ["cats", "dogs", "tides", "trains"] * 3
TEXTS = [f"{text} about {thing}" for text in (GOOD, BAD, "a film") for thing in THINGS]
CODES = np.repeat([0, 2, 3], 12)
NEW = [f"{GOOD} about ships", f"{BAD} about ships"]


def test_the_prior_is_each_classs_share():
    prior = baselines.predict_prior(CODES[:24], 5, 3)
    assert prior.tolist() == [[0.5, 0, 0.5, 0, 0]] * 3


def test_probabilities_of_classes_and_none_for_those_that_training_lacks():
    probabilities = baselines.predict_probabilities(TEXTS, CODES, 5, NEW)
    assert probabilities.shape == (2, 5)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert probabilities.argmax(axis=1).tolist() == [0, 2]
    assert not probabilities[:, [1, 4]].any()


def test_a_single_class_is_certain():
    probabilities = baselines.predict_probabilities(TEXTS[:12], CODES[:12], 3, NEW)
    assert probabilities.tolist() == [[1, 0, 0]] * 2


def test_each_of_several_labels_has_a_model_and_a_constant_one_is_certain():
    labels = np.stack([CODES == 0, CODES == 2, CODES >= 0, CODES < 0], axis=1).astype(int)
    probabilities = baselines.predict_label_probabilities(TEXTS, labels, NEW)
    assert probabilities[:, 2:].tolist() == [[1, 0]] * 2
    assert probabilities[0, 0] > 0.5 > probabilities[1, 0]
    assert probabilities[1, 1] > 0.5 > probabilities[0, 1]
    alone = baselines.predict_probabilities(TEXTS, labels[:, 1], 2, NEW)
    assert np.array_equal(alone[:, 1], probabilities[:, 1])


def test_grades_are_the_nearest_that_training_knows():
    grades = np.repeat([4.5, 1.0, 2.0], 12)
    predicted = baselines.predict_grades(TEXTS, grades, [*NEW, "a film about ships"])
    assert predicted.tolist() == [4.5, 1.0, 2.0]


def test_texts_without_words_are_told_apart_by_whoever_asks():
    with pytest.raises(ValueError, match=r"empty vocabulary|no terms remain"):
        baselines.predict_probabilities(["?", "!"] * 5, np.array([0, 1] * 5), 2, ["?"])
