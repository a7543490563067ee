"""Cuts between classes, fitted and judged."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from utils import Config
from utils.config import InputError
from utils.runs.run import Run
from utils.runs.thresholds import FLATTERING, NESTED, USUAL, compare_cuts, nested_labels
from utils.tasks import make_task
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


# --- a run of two folds, of which one was never trained ----------------------------------------------------


def make_run(task_name, n_classes, folds=4, seed=0):
    """A Run whose predictions are shifted, so that the usual cuts are wrong."""
    generator = np.random.default_rng(seed)
    names = [str(k) for k in range(n_classes)]
    codes = np.concatenate([np.arange(n_classes), generator.integers(0, n_classes, 400 - n_classes)])
    table = pd.DataFrame({"id": [str(i) for i in range(400)], "excerpt": "x", "target": codes.astype(str)})
    config = Config.make("tiny", task=task_name)
    task = make_task(config, table)
    centre = np.clip(codes * 0.5 + generator.normal(0, 0.3, 400), 0, n_classes - 1)
    shares = np.exp(-2 * (centre[:, None] - np.arange(n_classes)) ** 2)
    shares /= shares.sum(axis=1, keepdims=True)
    values = {"target": codes[:, None].astype(float), "averaged": shares}
    predictions = task.predictions_table(table["id"].tolist(), values)
    fold = np.arange(400) % folds
    predictions = predictions.assign(fold=fold, group=[f"g{i // 8}" for i in range(400)])
    return Run(config, task, dict.fromkeys(range(folds)), table.assign(fold=fold), predictions), names


@pytest.mark.parametrize(("task_name", "n_classes"), [("binary", 2), ("ordinal", 4)])
def test_fitted_cuts_are_judged_on_other_folds_than_they_were_fitted_to(task_name, n_classes):
    run, _ = make_run(task_name, n_classes)
    table = compare_cuts(run, "averaged").set_index("cuts")
    assert table.loc[FLATTERING, "score"] >= table.loc[NESTED, "score"] > table.loc[USUAL, "score"]
    assert 0 < table.loc[NESTED, "low"] <= table.loc[NESTED, "high"]
    labels = nested_labels(run, "averaged")
    one = run.predictions["fold"] == 0
    targets = run.targets.copy()
    targets[one.to_numpy()] = 0  # what the fold itself holds must not matter to its labels
    changed = run.predictions.copy()
    changed.loc[one, "target"] = "0"
    other = Run(run.config, run.task, run.folders, run.table, changed)
    np.testing.assert_array_equal(nested_labels(other, "averaged")[one], labels[one])


def test_what_has_no_cuts_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="has one finished fold"):
        compare_cuts(make_run("binary", 2, folds=1)[0], "averaged")
    with pytest.raises(InputError, match="task=multiclass has no cuts"):
        compare_cuts(make_run("multiclass", 3)[0], "averaged")
