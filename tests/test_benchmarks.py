"""The arithmetic of the benchmarks; what they measure is not asserted."""

import pytest

from benchmarks import scaling, throughput


def test_the_four_costs_are_found_again_from_the_runs_they_make():
    costs = [13.0, 0.005, 0.07, 0.4]
    sizes = [(160, 1), (160, 3), (320, 1), (320, 3)]
    found = scaling.fit([(rows, epochs, scaling.predict(costs, rows, epochs)) for rows, epochs in sizes])
    assert found == pytest.approx(costs, rel=1e-6)


def test_a_batch_takes_as_many_rounds_as_its_folds_need():
    costs = [10.0, 0.0, 0.1, 0.0]
    fold = 10 + 0.1 * 100 * 2
    assert scaling.batch_seconds(costs, 100, 2, folds=5, at_once=2) == pytest.approx(3 * fold)
    assert scaling.batch_seconds(costs, 100, 2, folds=5, at_once=5) == pytest.approx(fold)


def test_the_warm_up_is_not_counted():
    clock = throughput.Clock()
    clock.ends = [100.0, 101.0, 101.5, 102.0, 102.5]
    assert clock.result() == {"seconds_per_step": 0.5, "steps": 5}
