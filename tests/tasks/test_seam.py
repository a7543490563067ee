"""A new task is one class. This one works in the whole suite without a change anywhere else."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from tests.runs.helpers import Stop, after_each, assert_same, stop_after
from utils import Config, add_folds, fit_fold, load_table, open_run, predict
from utils.config import InputError
from utils.data.table import check_rows
from utils.explain.explainer import Explainer
from utils.machine import runtime
from utils.modeling.losses import Loss
from utils.reporting import fold as fold_report
from utils.reporting import run as run_report
from utils.runs import artifacts, submission
from utils.runs.compare import compare_weights, verdict
from utils.tasks import TASKS, Task
from utils.tasks.metrics import Metric


class CrossEntropy(Loss):
    def statistics(self, outputs, targets):
        return F.cross_entropy(outputs, targets[:, 0].long(), reduction="sum").unsqueeze(0)


class LengthClass(Task):
    """Which third a text's length falls into, given as a word."""

    name = "length_class"
    metric = Metric("accuracy", "accuracy", higher_is_better=True)

    def check(self, table, where):
        column = self.config.target_columns[0]
        check_rows(table, ~table[column].isin(["short", "medium", "long"]), column, "holds no length", where)
        return table

    def strata(self, table):
        return table[self.config.target_columns[0]]

    def see(self, table):
        self.outputs = tuple(sorted(set(table[self.config.target_columns[0]])))

    def fit(self, train):
        self.loss = CrossEntropy()

    def targets(self, table):
        labels = table.reindex(columns=self.config.target_columns).iloc[:, 0]
        return labels.map({label: float(i) for i, label in enumerate(self.outputs)}).to_numpy(float)[:, None]

    def decode(self, outputs, examples):
        return torch.tensor(np.stack(outputs)).softmax(dim=1).numpy()

    def columns(self, weights):
        return [weights] if weights == "target" else [f"{weights} {label}" for label in self.outputs]

    def errors(self, targets, predictions):
        return (predictions.argmax(axis=1) != targets[:, 0]).astype(float)[:, None]

    def scores(self, targets, predictions):
        return {"accuracy": float(1 - self.errors(targets, predictions).mean())}

    def submission(self, ids, predictions, sample=None):
        return pd.DataFrame({"id": ids, "length": np.array(self.outputs)[predictions.argmax(axis=1)]})


@pytest.fixture(scope="module", autouse=True)
def _unregistered_afterwards():
    yield
    TASKS.pop("length_class", None)


@pytest.fixture
def config(workspace):
    for name in ("train", "test"):
        rows = pd.read_csv(runtime.ROOT / "data" / "sample" / f"{name}.csv", dtype=str, keep_default_na=False)
        if name == "train":
            words = rows["excerpt"].str.split().str.len()
            rows["length"] = pd.qcut(words, 3, labels=["short", "medium", "long"]).astype(str)
        rows.to_csv(workspace / f"{name}.csv", index=False)
    options = {
        "task": "length_class",
        "data": str(workspace / "train.csv"),
        "target_columns": "length",
        "fold_by": "stratified",
        "precision": "fp32",
        "epochs": 6,
        "eval_every": 2,
    }
    return lambda **overrides: Config.make("tiny", **{**options, **overrides})


@pytest.fixture
def table(config):
    return add_folds(load_table(config()), config())


def test_it_trains_and_the_best_epoch_is_the_one_with_the_highest_accuracy(config, table, capsys):
    folder = fit_fold(config(), table)
    history = pd.read_csv(folder / "history.csv")
    result = artifacts.read_result(folder)
    assert history["accuracy"].between(0, 1).all()
    assert history["averaged_accuracy"].notna().any()
    assert result["scores"]["best"]["accuracy"] == history["accuracy"].max()
    assert result["best_epoch"] == history["epoch"][history["accuracy"].idxmax()]
    assert result["metric"]["higher_is_better"]
    predictions = artifacts.read_predictions(folder)
    shares = predictions[["last long", "last medium", "last short"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert "accuracy raw" in capsys.readouterr().out
    counts = table.groupby("fold")["length"].value_counts()
    assert counts.groupby("length").agg(np.ptp).max() <= 1, "the folds are not stratified"


def test_a_plateau_of_the_accuracy_is_one_that_does_not_rise(config, table, monkeypatch):
    series, known = itertools.chain([0.0, 0.1, 0.2, 0.3, 0.3, 0.2, 0.4], itertools.repeat(0.4)), {}

    def score(task, targets, predictions):  # other predictions have the next of the series
        key = predictions.tobytes()
        known[key] = known[key] if key in known else next(series)
        return known[key]

    monkeypatch.setattr(LengthClass, "score", score)
    options = {"schedule": "plateau", "lr_patience": 1, "lr_factor": 0.9, "warmup_ratio": 0}
    history = pd.read_csv(fit_fold(config(averaging="none", **options), table) / "history.csv")
    assert history["accuracy"].tolist()[:6] == [0.1, 0.2, 0.3, 0.3, 0.2, 0.4]
    shares = after_each(history["accuracy"], LengthClass.metric, 0.9)
    assert history["lr head"].tolist() == pytest.approx([share * config().lr for share in shares])
    assert min(shares) < 1


def test_it_resumes_bit_identically(config, table, monkeypatch):
    whole = fit_fold(config(run="whole"), table)
    restore = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config(run="interrupted", save_every=1), table)
    restore()
    assert_same(whole, fit_fold(config(run="interrupted", save_every=1), table))


def test_it_is_compared_plotted_submitted_predicted_and_explained(config, table, workspace):
    for fold in (0, 1):
        fit_fold(config(fold=fold), table)
    run = open_run(config())
    comparison = compare_weights(run)
    assert comparison["score"].between(0, 1).all()
    assert (comparison["low"] <= comparison["score"]).all()
    assert "the accuracy of the averaged weights" in verdict(comparison, run.task.metric)
    assert "accuracy" in run_report.weights_table(comparison, run).columns
    assert run_report.plot_weights(comparison, run.task.metric).axes[0].get_title() == "Held-out accuracy"
    history = pd.read_csv(run.folders[0] / "history.csv")
    assert fold_report.plot_history(history, run.task.metric).axes[0].get_ylabel() == "accuracy"

    test = submission.load_test(config())
    predictions = submission.predict_test(run, test, ["averaged", "last"])
    ensembles = submission.compare_ensembles(run, ["averaged", "last"])
    assert ensembles["score"].is_monotonic_decreasing, "the best ensemble does not come first"
    assert set(ensembles["ensemble"]) == {"averaged", "last", "mean"}
    shares = submission.combine(run, predictions, "mean")
    path = submission.write_submission(test, shares, run.task, workspace)
    assert set(pd.read_csv(path)["length"]) <= {"long", "medium", "short"}

    folder = artifacts.weights_folder(run.folders[0], "averaged")
    labels = predict(folder, test["excerpt"].tolist())["length"]
    assert labels.tolist() == predict(folder, test)["length"].tolist()

    short = run.task.outputs.index("short")
    text = test["excerpt"][0]
    reading = Explainer(folder, run.task, output=short).read([text])[0]
    assert np.abs(reading.gradients).max() > 0
    assert reading.attention.sum() <= 1 + 1e-5
    other = Explainer(folder, run.task, output=0).read([text])[0]
    assert not np.allclose(reading.gradients, other.gradients), "two classes have the same gradients"


def test_bad_targets_are_refused_with_the_tasks_own_message(config):
    settings = config()
    rows = pd.read_csv(settings.data, dtype=str, keep_default_na=False)
    rows.loc[3, "length"] = "endless"
    rows.to_csv(settings.data, index=False)
    with pytest.raises(InputError, match="column 'length' holds no length in row 4: 'endless'"):
        load_table(settings)


def test_an_unknown_task_pooling_or_loss_is_refused_with_a_suggestion():
    for name, value, nearest in (
        ("task", "regresion", "regression"),
        ("pooling", "atention", "attention"),
        ("loss", "rsme", "rmse"),
    ):
        with pytest.raises(InputError, match=f"{name}='{value}' is not known; did you mean '{nearest}'"):
            load_table(Config.make("tiny", **{name: value}))
