"""Tasks with classes, through the whole suite."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.runs.helpers import Stop, assert_same, stop_after
from utils import Config, add_folds, fit_fold, load_table, open_run, predict
from utils.config import InputError
from utils.data import tokens
from utils.explain.explainer import Explainer
from utils.machine import runtime
from utils.runs import artifacts, submission
from utils.runs.compare import compare_weights, verdict
from utils.tasks import make_task
from utils.training.build import build_model
from utils.training.loop import add_gradients
from utils.training.optim import parameter_groups
from utils.training.setup import prepare

#: Of each kind a task's settings.
TASKS = {
    "binary": {"task": "binary", "target_columns": "suitable"},
    "binary, weighted": {"task": "binary", "target_columns": "suitable", "pos_weight": "auto"},
    "multiclass": {"task": "multiclass", "target_columns": "tone", "class_weights": "balanced"},
    "soft F1": {"task": "multiclass", "target_columns": "tone", "loss": "soft_f1"},
    "two targets": {"task": "multiclass", "target_columns": "tone,level", "metric": "log_loss"},
    "multilabel": {"task": "multilabel", "target_columns": "long,odd", "loss": "focal"},
    "CORAL": {"task": "ordinal", "target_columns": "level"},
    "CORN": {"task": "ordinal", "target_columns": "level", "loss": "corn"},
    "grades as classes": {"task": "ordinal", "target_columns": "level", "loss": "cross_entropy"},
}
QUICK = ("binary", "two targets", "multilabel", "CORAL")
KINDS = [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.full) for kind in TASKS]


@pytest.fixture
def config(workspace):
    """A function from a kind of task to its Config, on the sample with labels made of its levels."""
    for name in ("train", "test"):
        rows = pd.read_csv(runtime.ROOT / "data" / "sample" / f"{name}.csv", dtype=str, keep_default_na=False)
        if name == "train":
            level = ((1.0 - rows["target"].astype(float)) / 0.8 + 1).round().astype(int)
            rows["suitable"], rows["level"] = np.where(level <= 3, "yes", "no"), level.astype(str)
            rows["tone"] = pd.cut(level, 3, labels=["easy", "medium", "hard"]).astype(str)
            rows["long"] = (rows["excerpt"].str.len() > 500).astype(int).astype(str)
            rows["odd"] = (level % 2).astype(str)
        rows.to_csv(workspace / f"{name}.csv", index=False)

    def make(kind, **options):
        given = {"data": str(workspace / "train.csv"), "precision": "fp32", **TASKS[kind]}
        return Config.make("tiny", **{**given, **options})

    return make


@pytest.fixture
def table(config):
    return lambda kind: add_folds(load_table(config(kind)), config(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fold_is_trained_compared_predicted_submitted_and_explained(kind, config, table, workspace):
    rows = table(kind)
    folder = fit_fold(config(kind), rows)
    run = open_run(config(kind))
    task, predictions = run.task, artifacts.read_predictions(folder)
    shares = task.values(predictions, "averaged")
    assert ((shares >= 0) & (shares <= 1)).all()
    held_out = rows[rows["fold"] == 0]
    np.testing.assert_array_equal(run.targets, task.targets(held_out))
    labels = predictions[task.label_columns("averaged")].to_numpy(dtype=str)
    np.testing.assert_array_equal(labels, task.names_of(task.predicted(shares)).astype(str))

    comparison = compare_weights(run)
    assert (comparison["low"] <= comparison["score"]).all()
    assert f"the {task.metric.label} of the averaged weights" in verdict(comparison, task.metric)
    result = artifacts.read_result(folder)
    assert "majority" in result["baselines"]
    history = pd.read_csv(folder / "history.csv")
    best = history[task.metric.name].iloc[task.metric.best(history[task.metric.name])]
    assert result["scores"]["best"][task.metric.name] == pytest.approx(best)

    test = submission.load_test(run.config)
    combined = submission.predict_test(run, test, ["averaged"])["averaged"][0]
    path = submission.write_submission(test, combined, task, workspace)
    assert list(pd.read_csv(path)) == ["id", *run.config.target_columns]
    answers = predict(folder / "averaged", test["excerpt"].tolist())
    np.testing.assert_allclose(answers[task.class_names("")].to_numpy(float), combined, atol=1e-6)

    text = test["excerpt"][0]
    readings = [
        Explainer(folder / "averaged", task, output=i).read([text])[0] for i in range(len(task.outputs))
    ]
    assert all(np.abs(reading.gradients).max() > 0 for reading in readings)


@pytest.mark.parametrize("kind", ["soft F1", pytest.param("CORAL", marks=pytest.mark.full)])
def test_it_resumes_bit_identically(kind, config, table, monkeypatch):
    whole = fit_fold(config(kind, run="whole"), table(kind))
    restore = stop_after(5, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config(kind, run="interrupted", save_every=1), table(kind))
    restore()
    assert_same(whole, fit_fold(config(kind, run="interrupted", save_every=1), table(kind)))


@pytest.mark.parametrize("kind", TASKS)
def test_micro_batches_and_parts_give_the_whole_batchs_gradient(kind, config, table):
    training = prepare(config(kind, head_dropout=0, batch_size=12), table(kind), 0)
    batch = next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))
    gradients = []
    for parts in (1, 2, 5):
        training.optimizer.zero_grad()
        add_gradients(training, batch.split(parts))
        gradients.append([weight.grad.clone() for weight in training.model.parameters()])
    for other in gradients[1:]:
        for expected, gradient in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["soft F1", "CORN", "multiclass"])
def test_several_processes_give_the_result_of_one(kind, config, table):
    options = {"head_dropout": 0, "batch_size": 8}
    one = fit_fold(config(kind, run="one", **options), table(kind))
    two = fit_fold(config(kind, run="two", devices=2, **options), table(kind))
    a, b = (artifacts.read_predictions(folder).select_dtypes("number") for folder in (one, two))
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "sample", "columns"),
    [
        ("binary", {"suitable": ["no", "no"]}, ["id", "suitable"]),
        ("binary", {"suitable": ["0.5", "0.5"]}, ["id", "suitable"]),
        ("multiclass", {"tone": ["easy", "easy"]}, ["id", "tone"]),
        ("multiclass", {"hard": ["0", "0"], "easy": ["1", "1"], "medium": ["0", "0"]}, None),
        ("multilabel", {"long": ["0.5", "0.5"], "odd": ["0.5", "0.5"]}, ["id", "long", "odd"]),
        ("multilabel", {"long": ["0", "1"], "odd": ["0", "1"]}, ["id", "long", "odd"]),
    ],
    ids=str,
)
def test_a_submission_has_the_form_of_the_competitions_sample(kind, sample, columns, config, table):
    task = make_task(config(kind), table(kind))
    predictions = task.guess(np.zeros((2, len(task.config.target_columns))))
    ids, form = pd.Series(["a", "b"]), pd.DataFrame({"id": ["a", "b"], **sample})
    made = task.submission(ids, predictions, form)
    assert list(made) == (columns or list(form))
    if "0.5" in next(iter(sample.values())) or columns is None:
        assert made.drop(columns="id").to_numpy(float).max() < 1
    else:
        assert set(made.iloc[:, 1].astype(str)) <= {*task.labels[0]}


def test_baselines_are_scored_beside_the_model_and_see_the_training_rows_alone(config, table):
    rows = table("multiclass")
    task = make_task(config("multiclass"), rows)
    train, held_out = rows[rows["fold"] != 0], rows[rows["fold"] == 0]
    for shares in task.baselines(train, held_out).values():
        np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    majority = task.baselines(train, held_out)["majority"]
    np.testing.assert_allclose(majority[0], train["tone"].value_counts(normalize=True).sort_index())


def test_missing_labels_of_one_of_several_targets_count_nowhere(config, table):
    kind = "two targets"
    rows = load_table(config(kind))
    rows.loc[::3, "tone"] = np.nan
    rows = add_folds(rows, config(kind))
    folder = fit_fold(config(kind), rows)
    scores = artifacts.read_result(folder)["scores"]["last"]
    assert np.isfinite(scores["log_loss"])
    task = make_task(config(kind), rows)
    errors = task.errors(task.targets(rows), task.guess(task.targets(rows)))
    assert np.isnan(errors[:, 0]).sum() == rows["tone"].isna().sum()
    assert not np.isnan(errors[:, 1]).any()


def test_an_unsuitable_metric_ends_before_anything_is_written(config, table):
    rows = table("binary")
    rows["fold"] = np.where(rows["suitable"] == "yes", 0, 1)
    with pytest.raises(InputError, match="trains on one label"):
        fit_fold(config("binary", fold_by="column", n_folds=2), rows)
    assert not artifacts.fold_folder(config("binary")).exists()


def test_grades_are_expected_values_rounded(config, table):
    task = make_task(config("CORAL"), table("CORAL"))
    shares = np.array([[0.5, 0, 0, 0, 0, 0.5], [0.9, 0.1, 0, 0, 0, 0]])
    assert task.choose(shares).tolist() == [3, 0]  # 2.5 is rounded up
    np.testing.assert_allclose(task.errors(np.array([[0.0], [0.0]]), shares)[:, 0], [6.25, 0.01])
    assert task.scores(np.array([[3.0], [1.0]]), shares)["mae"] == 0.5


def test_a_row_is_told_to_people_in_words(config, table):
    task = make_task(config("binary"), table("binary"))
    row = {"target": np.array([1.0]), "averaged": np.array([0.7, 0.3])}
    assert task.sample(row) == "target yes, averaged no (0.70)"


@pytest.mark.parametrize("kind", TASKS)
def test_a_model_can_be_looked_at_before_any_table_is_seen(kind, workspace):
    """As notebook 05 does, for the groups of its weights."""
    settings = Config.make("tiny", **TASKS[kind])
    groups = parameter_groups(build_model(settings)[0], settings)
    assert groups[-1]["name"] == "head"
