"""What fitted cuts are worth, judged on other folds."""

import numpy as np
import pytest

from tests.tasks.helpers import make_run
from utils.config import InputError
from utils.runs.run import Run
from utils.runs.thresholds import FLATTERING, NESTED, USUAL, compare_cuts, nested_labels


@pytest.mark.parametrize(("task_name", "n_classes"), [("binary", 2), ("ordinal", 4)])
def test_fitted_cuts_are_judged_on_other_folds_than_they_were_fitted_to(task_name, n_classes):
    run = make_run(task_name, n_classes)
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
        compare_cuts(make_run("binary", 2, folds=1), "averaged")
    with pytest.raises(InputError, match="task=multiclass has no cuts"):
        compare_cuts(make_run("multiclass", 3), "averaged")
