"""What the tests of LIT share: five trained folds, a server that has them open, and questions to it."""

from dataclasses import replace

import numpy as np
import pytest

from utils.config import Config
from utils.explain.explainer import Explainer
from utils.lit.run import start, stop
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import add_folds, load_table

HELD_OUT, MODEL, SCORE = "fold 0 held out", "fold 0 · averaged", "predicted target"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Five tiny folds that have learnt something."""
    output = str(tmp_path_factory.mktemp("lit") / "output")
    longer = {"epochs": 12, "swa_start": 6, "lr": 3e-3, "max_rows": 0, "max_length": 96}
    config = Config.make("tiny", precision="fp32", output_dir=output, **longer)
    table = add_folds(load_table(config), config)
    for fold in range(5):
        fit_fold(replace(config, fold=fold), table)
    return open_run(config)


@pytest.fixture(scope="session")
def lit(trained):
    yield start(trained, texts=24)
    stop()


@pytest.fixture(scope="session")
def rows(lit):
    return lit.ask("get_dataset", dataset_name=HELD_OUT)


@pytest.fixture(scope="session")
def predicted(lit, rows):
    return np.array([row[SCORE] for row in predict(lit, rows, SCORE)])


@pytest.fixture(scope="session")
def explainer(trained):
    return Explainer(trained.folders[0] / "averaged", trained.task)


@pytest.fixture
def alone(monkeypatch):
    """A test that starts servers of its own."""
    monkeypatch.setattr("utils.lit.run._current", {})
    yield
    stop()


def predict(lit, inputs, fields, model=MODEL, dataset=HELD_OUT):
    return lit.ask(
        "get_preds", {"inputs": inputs}, model=model, dataset_name=dataset, requested_fields=fields
    )


def text_of(row):
    return row["data"]["excerpt"]
