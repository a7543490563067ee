import numpy as np
import pytest

from utils.tasks.metrics import Metric, bootstrap_interval, paired_test

RMSE = Metric("rmse", "RMSE", "points")
ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True)


def test_a_metric_knows_which_score_is_better():
    assert RMSE.is_better(0.4, 0.5)
    assert not ACCURACY.is_better(0.4, 0.5)
    assert not RMSE.is_better(0.5, 0.5)
    assert RMSE.gain(0.4, 0.5) == pytest.approx(0.1)
    assert ACCURACY.gain(0.4, 0.5) == pytest.approx(-0.1)
    assert RMSE.best([0.5, float("nan"), 0.4, 0.4]) == 2
    assert ACCURACY.best([0.5, float("nan"), 0.4, 0.5]) == 0
    assert (RMSE.axis, ACCURACY.axis) == ("RMSE (points)", "accuracy")


def test_an_interval_resamples_whole_groups():
    """Ten equal rows per group carry no more information than one."""
    values = np.random.default_rng(0).normal(size=30)
    single = bootstrap_interval(lambda rows: values[rows].mean(), np.arange(30))
    repeated = np.repeat(values, 10)
    tenfold = bootstrap_interval(lambda rows: repeated[rows].mean(), np.repeat(np.arange(30), 10))
    assert tenfold == pytest.approx(single)
    assert single[0] < values.mean() < single[1]


def test_an_interval_draws_groups_of_any_sizes_whole():
    groups, drawn = np.array(list("abbccca")), []
    bootstrap_interval(lambda rows: drawn.append(np.sort(groups[rows])) or 0.0, groups)
    sizes = {"a": 2, "b": 2, "c": 3}
    for rows in drawn:
        names, counts = np.unique(rows, return_counts=True)
        times = counts / [sizes[name] for name in names]
        assert (times == times.round()).all()
        assert times.sum() == 3


def test_a_paired_test_swaps_whole_groups():
    generator = np.random.default_rng(0)
    ours = generator.random((60, 1))
    theirs = ours + 0.3 + 0.1 * generator.random((60, 1))
    assert paired_test(ours, theirs, np.arange(60)) < 0.001
    assert paired_test(ours, theirs, np.repeat(np.arange(3), 20)) > 0.2, (
        "three groups are too few to be significant"
    )
    assert np.isnan(paired_test(ours, theirs, np.zeros(60)))
