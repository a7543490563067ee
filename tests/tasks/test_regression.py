import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.config import Config
from utils.tasks import add_folds, load_table, make_task
from utils.tasks.regression import batch_rmse


def make_regression(targets="target"):
    return make_task(Config.make("tiny", target_columns=targets))


def test_one_target():
    targets, predictions = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [5.0]])
    scores = make_regression().scores(targets, predictions)
    assert scores["rmse"] == pytest.approx(3**0.5)
    assert scores["spearman"] == 1.0
    assert scores["r2"] == pytest.approx(1 - 9 / 2)
    assert set(scores) == {"rmse", "pearson", "spearman", "r2", "batch_rmse"}


def test_several_targets_give_their_mean_score_and_each_score():
    targets = np.zeros((4, 2)) + np.arange(4)[:, None]
    predictions = targets + np.array([1.0, 3.0])
    scores = make_regression("a,b").scores(targets, predictions)
    assert (scores["rmse"], scores["rmse a"], scores["rmse b"]) == (2.0, 1.0, 3.0)
    assert scores["pearson"] == pytest.approx(1.0)


def test_a_constant_target_has_no_correlation():
    assert np.isnan(make_regression().scores(np.ones((3, 1)), np.arange(3.0)[:, None])["pearson"])
    assert np.isnan(make_regression().scores(np.ones((1, 1)), np.ones((1, 1)))["r2"])


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=40).filter(lambda errors: len(errors) % 4 == 0))
def test_the_mean_over_whole_batches_is_never_higher(errors):
    targets = np.zeros((len(errors), 1))
    predictions = np.array(errors)[:, None]
    assert batch_rmse(targets, predictions) <= make_regression().score(targets, predictions) + 1e-12


def test_the_metric_is_among_the_scores():
    targets, predictions = np.random.default_rng(0).normal(size=(2, 9, 2))
    regression = make_regression("a,b")
    assert regression.score(targets, predictions) == regression.scores(targets, predictions)["rmse"]


@pytest.mark.parametrize("names", ["target", "a,b"])
def test_predictions_come_back_from_their_table(names):
    regression, n_targets = make_regression(names), len(names.split(","))
    generator = np.random.default_rng(0)
    values = {weights: generator.normal(size=(3, n_targets)) for weights in ("target", "last", "best")}
    table = regression.predictions_table(["x", "y", "z"], values)
    columns = list(values) if n_targets == 1 else [f"{name} {weights}" for name in "ab" for weights in values]
    assert list(table) == ["id", *columns]
    for weights, array in values.items():
        np.testing.assert_array_equal(regression.values(table, weights), array)
    assert regression.has(table, "best")
    assert not regression.has(table, "averaged")


def test_the_general_interval_agrees_with_the_fast_one_for_the_rmse():
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(200, 1))
    predictions = targets + generator.normal(size=(200, 1))
    groups = np.arange(200) % 40
    regression = make_regression()
    low, high = regression.interval(targets, predictions, groups)
    general = super(type(regression), regression).interval
    assert low < regression.score(targets, predictions) < high
    assert general(targets, predictions, groups) == pytest.approx((low, high), abs=0.02)
    assert all(np.isnan(general(targets, predictions, np.zeros(200))))


def test_the_baselines_are_the_mean_two_counts_and_tf_idf():
    """On the sample, whose levels differ in the length of sentences and words."""
    config = Config.make("demo")
    table = add_folds(load_table(config), config)
    train, held_out = table[table["fold"] != 0], table[table["fold"] == 0]
    regression = make_task(config, table, train)
    targets = regression.targets(held_out)
    predictions = regression.baselines(train, held_out)
    assert list(predictions) == ["mean", "two counts", "TF-IDF, ridge"]
    assert all(array.shape == targets.shape for array in predictions.values())
    rmse = {name: regression.score(targets, array) for name, array in predictions.items()}
    squared = (targets - train["target"].mean()) ** 2
    assert rmse["mean"] == pytest.approx(float(np.sqrt(squared.mean())))
    assert rmse["two counts"] < 0.4 < rmse["TF-IDF, ridge"] < rmse["mean"]


def test_texts_without_words_have_baselines_too():
    config = Config.make("tiny")
    texts = {"excerpt": ["!", "?", "a", "one word"], "target": [0.0, 1.0, 2.0, 3.0]}
    rows = pd.DataFrame({"id": list("abcd"), **texts})
    predictions = make_task(config, rows, rows).baselines(rows, rows)
    assert list(predictions) == ["mean", "two counts"]
    assert all(np.isfinite(array).all() for array in predictions.values())
