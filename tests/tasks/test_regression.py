import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import root_mean_squared_error

from utils.config import Config
from utils.tasks import add_folds, load_table, make_task
from utils.tasks.metrics import paired_test
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


# --- missing targets --------------------------------------------------------------------------------------


def with_gaps(seed=0, rows=120):
    """Targets of which the second is missing in places, predictions, groups."""
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=(rows, 2))
    predictions = targets + generator.normal(size=(rows, 2))
    targets[generator.random(rows) < 0.4, 1] = np.nan
    return targets, predictions, generator.integers(40, size=rows)


def test_scores_are_those_of_what_is_known():
    targets, predictions, groups = with_gaps()
    known, regression = ~np.isnan(targets[:, 1]), make_regression("a,b")
    alone = [
        make_regression().scores(targets[rows, i : i + 1], predictions[rows, i : i + 1])
        for i, rows in enumerate([slice(None), known])
    ]
    scores = regression.scores(targets, predictions)
    for name in ("rmse", "pearson", "spearman", "r2"):
        assert scores[name] == np.mean([of_target[name] for of_target in alone])
    assert scores["rmse b"] == alone[1]["rmse"]
    assert np.isfinite(scores["batch_rmse"])
    assert regression.score(targets, predictions) == scores["rmse"]
    nothing = np.where([[False, True]], np.nan, targets)
    assert regression.score(nothing, predictions) == alone[0]["rmse"]
    low, high = regression.interval(targets, predictions, groups)
    general = super(type(regression), regression).interval(targets, predictions, groups)
    assert general == pytest.approx((low, high), abs=0.03)
    assert low < scores["rmse"] < high
    assert 0 < paired_test(*[regression.errors(targets, predictions + x) for x in (0, 0.1)], groups) <= 1


def test_a_stack_is_fitted_to_what_is_known():
    targets, predictions, _ = with_gaps()
    known = ~np.isnan(targets[:, 1])
    models = np.stack([predictions, predictions[:, ::-1]])
    stacked = make_regression("a,b").stack(models, targets)(models)
    single = make_regression().stack(models[:, known, 1:], targets[known, 1:])(models[:, :, 1:])
    np.testing.assert_allclose(stacked[:, 1:], single)


def test_baselines_of_each_target_are_fitted_to_the_rows_that_have_it():
    config = Config.make("demo", target_columns="target,other")
    table = load_table(Config.make("demo"))
    table["other"] = np.where(np.arange(len(table)) % 3 == 0, np.nan, table["target"] ** 2)
    train, held_out = table[:150], table[150:]
    both = make_task(config, table, train).baselines(train, held_out)
    known = train[train["other"].notna()]
    one = make_task(Config.make("demo", target_columns="other"), table, known).baselines(known, held_out)
    assert list(both) == list(one) == ["mean", "two counts", "TF-IDF, ridge"]
    for name, predictions in one.items():
        np.testing.assert_allclose(both[name][:, 1:], predictions)


@pytest.mark.parametrize("n_targets", [1, 6])
def test_complete_targets_are_scaled_and_scored_to_the_same_bits_as_ever(n_targets):
    """What the numbers came from before targets could be missing."""
    names = [f"t{i}" for i in range(n_targets)]
    for seed in range(20):
        values = np.random.default_rng(seed).normal(7, 3, size=(97, n_targets))
        regression = make_regression(",".join(names))
        regression.fit(pd.DataFrame(values, columns=names))
        targets = regression.targets(pd.DataFrame(values, columns=names))
        assert regression.location == tuple(targets.mean(axis=0).tolist())
        assert regression.scale == tuple(targets.std(axis=0).tolist())
        predictions = values + np.random.default_rng(seed + 1).normal(size=values.shape)
        errors = [root_mean_squared_error(*pair) for pair in zip(values.T, predictions.T, strict=True)]
        assert regression.score(values, predictions) == float(np.mean(errors))
        squared = ((values - predictions) ** 2).mean(axis=1)
        in_batches = [np.sqrt(squared[start : start + 4].mean()) for start in range(0, 97, 4)]
        assert batch_rmse(values, predictions) == float(np.mean(in_batches))
        groups = np.arange(97) % 20
        swapped = paired_test((values - predictions) ** 2, values**2, groups)
        assert swapped == paired_test(squared[:, None], (values**2).mean(axis=1)[:, None], groups)
