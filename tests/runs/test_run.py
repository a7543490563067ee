"""Reading a run's folds, training missing ones, and comparing their weights."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from utils.config import InputError
from utils.reporting.run import weights_table
from utils.runs import artifacts, run
from utils.runs.compare import compare_weights, verdict
from utils.runs.fold import fit_fold
from utils.runs.run import open_run, train_in_process, train_missing_folds
from utils.tasks import add_folds, load_table
from utils.tasks.metrics import Metric
from utils.tasks.regression import Regression


@pytest.fixture
def two_folds(tiny, tiny_table, capsys):
    """The Config of a run of which folds 0 and 3 are trained."""
    for fold in (0, 3):
        fit_fold(tiny(fold=fold), tiny_table)
    capsys.readouterr()
    return tiny()


def test_trained_folds_are_read_and_missing_ones_are_named(two_folds, tiny_table, capsys):
    opened = open_run(two_folds)
    assert capsys.readouterr().out == "Folds 0, 3 of tiny; not trained: 1, 2, 4.\n"
    assert list(opened.folders) == [0, 3]
    assert opened.weights == ["last", "best", "averaged"]
    held_out = tiny_table[tiny_table["fold"].isin([0, 3])]
    predictions = opened.predictions
    assert set(predictions["id"]) == set(held_out["id"])
    expected = held_out.set_index("id").loc[predictions["id"]]
    np.testing.assert_allclose(opened.targets[:, 0], expected["target"])
    assert predictions["group"].tolist() == expected["topic"].tolist()
    squared = (predictions["averaged"] - predictions["target"]) ** 2
    np.testing.assert_allclose(opened.errors("averaged")[:, 0], squared)


def test_a_runs_own_data_and_settings_win_over_the_presets(tiny, workspace, capsys):
    texts = [f"text number {i} of a table of one's own" for i in range(42)]
    own = pd.DataFrame({"id": range(42), "words": texts, "score": np.arange(42) / 42})
    own.to_csv(workspace / "own.csv", index=False)
    columns = {"text_column": "words", "target_columns": "score", "group_column": "", "fold_by": "kfold"}
    settings = {"run": "mine", "data": str(workspace / "own.csv"), "n_folds": 7, "max_rows": 0, **columns}
    config = tiny(fold=6, **settings)
    fit_fold(config, add_folds(load_table(config), config))
    capsys.readouterr()
    opened = open_run(tiny(run="mine"))
    assert capsys.readouterr().out == "Folds 6 of mine; not trained: 0, 1, 2, 3, 4, 5.\n"
    assert (opened.config.data, opened.config.n_folds) == (settings["data"], 7)
    assert set(opened.table["words"]) == set(texts)
    shutil.copy(workspace / "own.csv", workspace / "moved.csv")
    assert open_run(tiny(run="mine", data=str(workspace / "moved.csv"))).config.data.endswith("moved.csv")


def test_missing_demo_folds_are_trained_first(two_folds, tiny_table, monkeypatch, capsys):
    shutil.rmtree(artifacts.fold_folder(two_folds, 3))
    trained = []

    def train(config):
        trained.append(config.fold)
        fit_fold(config, tiny_table)

    monkeypatch.setattr(run, "train_in_process", train)
    train_missing_folds(two_folds)
    assert trained == [1]
    assert "Fold 1 of tiny is missing; it is trained now." in capsys.readouterr().out
    assert list(open_run(two_folds).folders) == [0, 1]
    train_missing_folds(dataclasses.replace(two_folds, run="other", preset="clear"))
    assert trained == [1], "a fold of another preset was trained"
    with pytest.raises(
        InputError, match=r"output/other holds no finished fold; train one first with notebook 02"
    ):
        open_run(dataclasses.replace(two_folds, run="other", preset="clear"))


def test_a_fold_trained_with_other_settings_or_data_is_refused(two_folds, tiny, tiny_table, monkeypatch):
    fit_fold(tiny(fold=1, lr=5e-4), tiny_table)
    with pytest.raises(InputError, match=r"output/tiny/fold-1 was trained with another lr than fold 0"):
        open_run(two_folds)
    shutil.rmtree(artifacts.fold_folder(two_folds, 1))
    monkeypatch.setattr(run, "fingerprint", lambda table, config: "another")
    with pytest.raises(
        InputError, match=r"the data have changed since output/tiny/fold-0 was trained; set data"
    ):
        open_run(two_folds)


def test_folds_are_also_read_from_an_earlier_or_an_attached_output(two_folds, tmp_path, monkeypatch):
    mounted = tmp_path / "input" / "kernel"
    mounted.mkdir(parents=True)
    shutil.move(artifacts.fold_folder(two_folds, 3).parent, mounted / "tiny")
    assert list(open_run(dataclasses.replace(two_folds, resume_from=str(mounted))).folders) == [0, 3]
    monkeypatch.setattr(run, "KAGGLE_INPUT", tmp_path / "input")
    assert list(open_run(two_folds).folders) == [0, 3]


@pytest.mark.full
def test_training_in_a_process_passes_all_settings_on(workspace, tiny, capfd):
    config = tiny(output_dir=str(workspace / "elsewhere"), fold=2, max_rows=40, averaging="none", snapshots=0)
    folder = train_in_process(config)
    settings = artifacts.read_metadata(folder)["config"]
    expected = {"fold": 2, "max_rows": 40, "averaging": "none", "precision": "fp32"}
    assert {name: settings[name] for name in expected} == expected
    assert "Fold 2: fp32" in capfd.readouterr().out
    with pytest.raises(InputError, match=r"data='nowhere.csv' is not a file"):
        train_in_process(dataclasses.replace(config, data="nowhere.csv", retrain=True))


def test_a_missing_fold_is_trained_with_the_settings_of_the_others(tiny, tiny_table, monkeypatch):
    fit_fold(tiny(fold=0, lr=2e-3, pooling="cls"), tiny_table)
    trained = []
    monkeypatch.setattr(run, "train_in_process", trained.append)
    train_missing_folds(tiny(devices=1))
    config = trained[0]
    assert (config.fold, config.lr, config.pooling, config.devices) == (1, 2e-3, "cls", 1)


def test_the_data_of_every_fold_are_checked(two_folds, tmp_path):
    path = artifacts.fold_folder(two_folds, 3) / "run.json"
    metadata = json.loads(path.read_text())
    metadata["data"]["fingerprint"] = "another"
    path.write_text(json.dumps(metadata))
    artifacts.seal_fold(path.parent)
    with pytest.raises(InputError, match=r"the data have changed since output/tiny/fold-3 was trained"):
        open_run(two_folds)


def test_a_single_group_gives_no_interval_and_no_p_value_below_one(two_folds):
    """Resampling can only draw that group, and the paired test can only swap all of it."""
    opened = open_run(two_folds)
    opened.predictions["group"] = "one"
    rows = compare_weights(opened)
    assert np.isfinite(rows["score"]).all()
    assert rows["low"].isna().all()
    assert set(weights_table(rows, opened)["95 % interval"]) == {""}
    assert not (rows["p"] < 1).any()


def test_the_comparison_agrees_with_the_folds_results(two_folds):
    opened = open_run(two_folds)
    comparison = compare_weights(opened).set_index(["fold", "weights"])
    for fold, folder in opened.folders.items():
        for weights, scores in artifacts.read_result(folder)["scores"].items():
            row = comparison.loc[(fold, weights)]
            assert row["score"] == pytest.approx(scores["rmse"])
            assert row["r2"] == pytest.approx(scores["r2"])
            assert row["low"] < row["score"] < row["high"]
    errors = opened.errors("last")
    assert comparison.loc[("all", "last"), "score"] == pytest.approx(np.sqrt(errors.mean()))
    assert comparison["p"].drop("averaged", level="weights").between(0, 1).all()


@pytest.mark.parametrize(
    ("last", "best", "averaged", "p", "opening"),
    [
        (0.6, 0.55, 0.5, 0.01, "Averaging helped"),
        (0.6, 0.55, 0.5, 0.2, "Inconclusive"),
        (0.6, 0.5, 0.55, 0.01, "Averaging helped in part"),
        (0.6, 0.5, 0.55, 0.2, "Inconclusive"),
        (0.5, 0.5, 0.55, 0.01, "Averaging did not help"),
    ],
)
def test_the_verdict_agrees_with_the_numbers(last, best, averaged, p, opening):
    rows = [("last", last, p), ("best", best, 0.4), ("averaged", averaged, float("nan"))]
    comparison = pd.DataFrame(rows, columns=["weights", "score", "p"]).assign(fold="all")
    comparison["error"] = comparison["score"] ** 2
    sentence = verdict(comparison, Regression.metric)
    assert sentence.startswith(f"**{opening}**:")
    word = "lower" if last > averaged else "higher"
    assert f"{abs(last - averaged):.4f} {word} than with the last weights (p = {p}" in sentence
    assert "no more than chance could explain" in sentence


def test_the_verdict_asks_the_metric_which_is_better():
    """For a score where higher is better, the same numbers mean that averaging made it worse."""
    accuracy = Metric("accuracy", "accuracy", higher_is_better=True)
    rows = {"fold": "all", "weights": ["last", "averaged"], "score": [0.6, 0.5], "p": [0.01, float("nan")]}
    rows["error"] = [0.4, 0.5]
    sentence = verdict(pd.DataFrame(rows), accuracy)
    assert sentence.startswith(
        "**Averaging did not help**: over all held-out texts, the accuracy of the averaged"
    )
    assert "0.1000 lower than with the last weights" in sentence


@pytest.mark.parametrize(("ours", "theirs", "word"), [(0.3, 0.4, "smaller"), (0.4, 0.3, "larger")])
@pytest.mark.parametrize("score", [0.5, 0.6])
def test_the_verdict_says_when_score_and_tested_errors_disagree(ours, theirs, word, score):
    """Such as an equal or lower accuracy with a better Brier score: p is of the latter."""
    accuracy = Metric("accuracy", "accuracy", higher_is_better=True)
    rows = {"fold": "all", "weights": ["last", "averaged"], "score": [0.55, score], "p": [0.01, float("nan")]}
    sentence = verdict(pd.DataFrame(rows | {"error": [theirs, ours]}), accuracy)
    if (score > 0.55) == (ours < theirs):
        assert "a difference that chance would seldom make" in sentence
    else:
        assert sentence.startswith("**Averaging helped in part**")
        assert f"(p = 0.01: yet its errors are {word} than chance would make them)" in sentence


def test_a_damaged_result_is_named(two_folds):
    path = artifacts.fold_folder(two_folds, 0) / "result.json"
    path.write_text(json.dumps(artifacts.read_result(path.parent))[:50])
    with pytest.raises(InputError, match=r"output/tiny/fold-0/result.json is missing, cut short or alt"):
        open_run(two_folds)


def test_the_verdict_says_when_nothing_differs():
    rows = {"fold": "all", "weights": ["last", "averaged"], "score": [0.5, 0.5], "p": [1.0, float("nan")]}
    rows["error"] = [0.25, 0.25]
    sentence = verdict(pd.DataFrame(rows), Regression.metric)
    assert "to four digits the same as with the last weights (p = 1" in sentence
