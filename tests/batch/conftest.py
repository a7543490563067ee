"""Folds that were trained without interruption, for comparison."""

import pytest

from tests.batch.helpers import SETTINGS
from utils.config import Config
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The folders of folds 0 and 1, trained with ``SETTINGS`` and nothing in the way."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = Config.make("tiny", precision="fp32", output_dir=str(folder), **SETTINGS)
    table = add_folds(load_table(config), config)
    return {fold: fit_fold(config, table, fold) for fold in (0, 1)}
