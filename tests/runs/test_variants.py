"""The same folds in several ways: trained, and compared row by row."""

import numpy as np
import pytest

from tests.runs.helpers import assert_same
from tests.tasks.helpers import make_run
from utils import fit_fold
from utils.runs import run as runs
from utils.runs.grades import compare_grades
from utils.runs.variants import compare_variants, train_variants


def test_variants_have_folders_of_their_own_and_are_trained_once(tiny, tiny_table, monkeypatch):
    variants = {"as it is": {}, "No averaging!": {"averaging": "none"}}
    opened = train_variants(tiny(run="tour"), variants, [0])
    folders = [run.folders[0] for run in opened.values()]
    assert [folder.parent.name for folder in folders] == ["tour-as-it-is", "tour-no-averaging"]
    assert opened["No averaging!"].config.averaging == "none"
    assert_same(fit_fold(tiny(run="alone"), tiny_table), folders[0])
    monkeypatch.setattr(runs, "fit_fold", None)  # which a second training would call
    train_variants(tiny(run="tour"), variants, [0])


def test_what_differs_by_noise_alone_is_no_gain_and_what_is_better_is_one():
    options = {"shrink": 1.0, "n_rows": 200}
    first, same = make_run("ordinal", 4, **options), make_run("ordinal", 4, seed=1, **options)
    better = make_run("ordinal", 4, noise=0.05, **options)
    table = compare_variants({"first": first, "same": same, "better": better}).set_index("variant")
    assert np.isnan(table.loc["first", "gain"])
    assert table.loc["same", "gain_low"] < 0 < table.loc["same", "gain_high"]
    assert 0 < table.loc["better", "gain_low"] <= table.loc["better", "gain"]
    assert table.loc["better", "p"] < 0.01 < table.loc["same", "p"]
    assert (table["low"] <= table["score"]).all()


def test_a_metric_of_which_less_is_better_gains_when_it_falls():
    first, better = make_run("regression", 4, shrink=1.0), make_run("regression", 4, shrink=1.0, noise=0.1)
    table = compare_variants({"first": first, "better": better})
    assert table["score"][1] < table["score"][0]
    assert table["gain"][1] > 0


def test_grades_as_numbers_and_as_classes_are_compared_on_one_scale():
    table = compare_grades({"numbers": make_run("regression", 4), "classes": make_run("ordinal", 4)})
    table = table.set_index("run")
    assert (table["fitted"] > table["rounded"]).all(), "the predictions are shrunk, and fitted cuts know it"
    assert (table["low"] <= table["rounded"]).all()
    assert table["fitted"].max() <= 1
    assert np.isnan(table.loc["numbers", "p"])
    assert 0 < table.loc["classes", "p"] <= 1


def test_grades_of_one_fold_have_no_fitted_cuts():
    assert "fitted" not in compare_grades({"classes": make_run("ordinal", 4, folds=1)})


def test_a_perfect_regression_has_a_kappa_of_one_whatever_the_grades():
    run = make_run("regression", 4, shrink=1.0, noise=0.0)
    assert compare_grades({"perfect": run})["rounded"].tolist() == [pytest.approx(1.0)]
