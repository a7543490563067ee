"""The benchmark of whole folds runs: each contestant trains, evaluates and saves."""

import importlib.util
from argparse import Namespace

import pytest

from benchmarks import whole_fold
from utils.config import Config


@pytest.mark.full
@pytest.mark.parametrize("name", whole_fold.NAMES)
def test_each_contestant_takes_the_steps_of_the_whole_fold(name, workspace, monkeypatch):
    if name == "lightning" and not importlib.util.find_spec("lightning"):
        pytest.skip("Lightning is not installed")

    def make_config(arguments, **changes):
        return Config.make("tiny", epochs=arguments.epochs, precision="fp32", snapshots=0, **changes)

    monkeypatch.setattr(whole_fold, "make_config", make_config)
    result = whole_fold.one(name, Namespace(epochs=2))
    assert result["steps"] == 6
    assert result["seconds"] > 0
