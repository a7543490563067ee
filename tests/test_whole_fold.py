"""The benchmark of whole folds runs: each contestant trains, evaluates and saves."""

import importlib.util
from argparse import Namespace

import pytest

from benchmarks import whole_fold


@pytest.mark.full
@pytest.mark.parametrize("name", whole_fold.NAMES)
def test_each_contestant_takes_the_steps_of_the_whole_fold(name, workspace):
    if name == "lightning" and not importlib.util.find_spec("lightning"):
        pytest.skip("Lightning is not installed")

    settings = {
        "preset": "tiny",
        "encoder": "tiny",
        "data": None,
        "rows": 0,
        "epochs": 2,
        "precision": "fp32",
    }
    result = whole_fold.one(name, Namespace(**settings))
    assert result["steps"] == 6
    assert result["seconds"] > 0
