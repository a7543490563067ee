import pytest

from tests.runs.helpers import OPTIONS, Stop, stop_after
from utils.runs import artifacts, checkpoint
from utils.runs.fold import fit_fold


@pytest.fixture
def whole(tiny, tiny_table):
    """The folder of a fold that was trained without interruption."""
    return fit_fold(tiny(run="whole", **OPTIONS), tiny_table)


@pytest.fixture
def saved(tiny, tiny_table, monkeypatch):
    """The state of an interrupted training run."""
    restore = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(save_every=1, **OPTIONS), tiny_table)
    restore()
    return checkpoint.latest(artifacts.fold_folder(tiny()) / "state")
