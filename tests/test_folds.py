"""Folds read back, and what averaging did to them."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from utils import checkpoint, folds, report_runs
from utils.config import InputError
from utils.fold import fit_fold
from utils.folds import compare_weights, open_run, train_in_a_process, verdict


@pytest.fixture
def two(tiny, tiny_table, capsys):
    for fold in (0, 3):
        fit_fold(tiny(fold=fold), tiny_table)
    capsys.readouterr()
    return tiny()


def test_what_there_is_is_read_and_what_is_missing_is_said(two, tiny_table, capsys):
    run = open_run(two)
    assert capsys.readouterr().out == "Folds 0, 3 of tiny; not trained: 1, 2, 4.\n"
    assert list(run.folders) == [0, 3]
    assert run.kinds == ["last", "best", "swa"]
    held_out = tiny_table[tiny_table["fold"].isin([0, 3])]
    assert set(run.predictions["id"]) == set(held_out["id"])
    expected = held_out.set_index("id").loc[run.predictions["id"]]
    np.testing.assert_allclose(run.values("target")[:, 0], expected["target"])
    assert run.predictions["group"].tolist() == expected["topic"].tolist()
    np.testing.assert_allclose(
        run.squared_errors("swa")[:, 0], (run.predictions["swa"] - run.predictions["target"]) ** 2
    )


def test_missing_demo_folds_are_trained_first(two, monkeypatch, capsys):
    shutil.rmtree(checkpoint.fold_folder(two, 3))
    trained = []

    def train(config):
        trained.append(config.fold)
        shutil.copytree(checkpoint.fold_folder(two, 0), checkpoint.fold_folder(two, config.fold))

    monkeypatch.setattr(folds, "train_in_a_process", train)
    open_run(two)
    assert trained == [1]
    assert "Fold 1 of tiny is missing; it is trained now." in capsys.readouterr().out
    with pytest.raises(InputError, match=r"output/other holds no finished fold; train one first with notebook 02"):
        open_run(dataclasses.replace(two, run="other", preset="clear"))


def test_a_fold_trained_otherwise_or_on_other_data_is_refused(two, tiny, tiny_table, monkeypatch):
    fit_fold(tiny(fold=1, lr=5e-4), tiny_table)
    with pytest.raises(InputError, match=r"output/tiny/fold-1 was trained with another lr than fold 0"):
        open_run(two)
    shutil.rmtree(checkpoint.fold_folder(two, 1))
    monkeypatch.setattr(folds, "fingerprint", lambda table, config: "another")
    with pytest.raises(InputError, match=r"the data have changed since output/tiny/fold-0 was trained; set data"):
        open_run(two)


def test_folds_lie_in_an_earlier_output_or_in_attached_ones_too(two, tmp_path, monkeypatch):
    mounted = tmp_path / "input" / "kernel"
    mounted.mkdir(parents=True)
    shutil.move(checkpoint.fold_folder(two, 3).parent, mounted / "tiny")
    assert list(open_run(dataclasses.replace(two, resume_from=str(mounted))).folders) == [0, 3]
    monkeypatch.setattr(folds, "KAGGLE_INPUT", tmp_path / "input")
    assert list(open_run(two).folders) == [0, 3]


def test_a_process_trains_with_all_settings(workspace, tiny, capfd):
    config = tiny(output_dir=str(workspace / "apart"), fold=2, max_rows=40, averaging="none", snapshots=0)
    folder = train_in_a_process(config)
    about = checkpoint.read_about(folder)["config"]
    assert {name: about[name] for name in ("fold", "max_rows", "averaging", "precision")} == {
        "fold": 2, "max_rows": 40, "averaging": "none", "precision": "fp32"}  # fmt: skip
    assert "Fold 2: fp32" in capfd.readouterr().out
    with pytest.raises(InputError, match=r"fold 2 could not be trained: data='nowhere.csv' is not a file"):
        train_in_a_process(dataclasses.replace(config, data="nowhere.csv", retrain=True))


def test_a_missing_fold_is_trained_as_the_others_were(tiny, tiny_table, monkeypatch):
    fit_fold(tiny(fold=0, lr=2e-3, pooling="cls"), tiny_table)
    trained = []
    monkeypatch.setattr(folds, "train_in_a_process", trained.append)
    open_run(tiny(devices=1))
    asked = trained[0]
    assert (asked.fold, asked.lr, asked.pooling, asked.devices) == (1, 2e-3, "cls", 1)


def test_every_fold_answers_for_its_own_data(two, tmp_path):
    path = checkpoint.fold_folder(two, 3) / "config.json"
    about = json.loads(path.read_text())
    about["data"]["fingerprint"] = "another"
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"the data have changed since output/tiny/fold-3 was trained"):
        open_run(two)


def test_one_group_alone_proves_nothing(two):
    """Nothing can be drawn with replacement but that group, nor swapped but all of it."""
    run = open_run(two)
    run.predictions["group"] = "one"
    rows = compare_weights(run)
    assert np.isfinite(rows["rmse"]).all()
    assert rows["low"].isna().all()
    assert set(report_runs.weights_table(rows)["95 % interval"]) == {""}
    assert not (rows["p"] < 1).any()


def test_the_comparison_is_that_of_the_folds_results(two):
    run = open_run(two)
    comparison = compare_weights(run).set_index(["fold", "weights"])
    for fold, folder in run.folders.items():
        for kind, scores in checkpoint.read_result(folder)["scores"].items():
            row = comparison.loc[(fold, kind)]
            assert row["rmse"] == pytest.approx(scores["rmse"])
            assert row["low"] < row["rmse"] < row["high"]
    errors = run.squared_errors("last")
    assert comparison.loc[("all", "last"), "rmse"] == pytest.approx(np.sqrt(errors.mean()))
    assert comparison["p"].drop("swa", level="weights").between(0, 1).all()


@pytest.mark.parametrize(
    ("last", "best", "swa", "p", "opening"),
    [
        (0.6, 0.55, 0.5, 0.01, "Averaging helped"),
        (0.6, 0.55, 0.5, 0.2, "Averaging may have helped, or luck has"),
        (0.6, 0.5, 0.55, 0.01, "Averaging helped in part"),
        (0.6, 0.5, 0.55, 0.2, "Averaging may have helped, or luck has"),
        (0.5, 0.5, 0.55, 0.01, "Averaging did not help"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(last, best, swa, p, opening):
    rows = [("last", last, p), ("best", best, 0.4), ("swa", swa, float("nan"))]
    comparison = pd.DataFrame([{"fold": "all", "weights": kind, "rmse": rmse, "p": p} for kind, rmse, p in rows])
    said = verdict(comparison)
    assert said.startswith(f"**{opening}**:")
    assert f"{abs(last - swa):.4f} {'lower' if last > swa else 'higher'} than with the last weights (p = {p}" in said
    assert "no more than chance would make" in said


def test_a_damaged_result_is_named(two):
    path = checkpoint.fold_folder(two, 0) / "result.json"
    path.write_text(json.dumps(checkpoint.read_result(path.parent))[:50])
    with pytest.raises(InputError, match=r"output/tiny/fold-0/result.json is damaged"):
        open_run(two)


def test_the_verdict_says_when_nothing_differs():
    comparison = pd.DataFrame({"fold": "all", "weights": ["last", "swa"], "rmse": [0.5, 0.5], "p": [1.0, float("nan")]})
    assert "to four digits the same as with the last weights (p = 1" in verdict(comparison)
