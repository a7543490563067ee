import shutil

import pytest

from tests.runs.helpers import OPTIONS, Stop, stop_after
from utils import Config, add_folds, load_table
from utils.machine import runtime
from utils.runs import artifacts, checkpoint
from utils.runs.fold import fit_fold


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A workspace with the fold of ``whole`` and that of ``saved``, which each test gets a copy of."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "workspace", lambda: folder)
        config = Config.make("tiny", precision="fp32", **OPTIONS)
        table = add_folds(load_table(config), config)
        fit_fold(Config.make("tiny", precision="fp32", run="whole", **OPTIONS), table)
        stop_after(9, patch)
        with pytest.raises(Stop):
            fit_fold(Config.make("tiny", precision="fp32", save_every=1, **OPTIONS), table)
    return folder


@pytest.fixture
def whole(trained, workspace):
    """The folder of a fold that was trained without interruption."""
    return _copy(trained, workspace, "whole") / "fold-0"


@pytest.fixture
def saved(trained, workspace, tiny):
    """The state of an interrupted training run."""
    _copy(trained, workspace, "tiny")
    return checkpoint.latest(artifacts.fold_folder(tiny()) / "state")


def _copy(trained, workspace, run):
    for name in (run, "tiny-encoder"):
        shutil.copytree(trained / "output" / name, workspace / "output" / name, dirs_exist_ok=True)
    return workspace / "output" / run
