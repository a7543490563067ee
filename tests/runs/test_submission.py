"""Submissions: ensembles compared honestly, files checked."""

import numpy as np
import pandas as pd
import pytest

from utils.config import Config, InputError
from utils.machine import runtime
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.runs.run import Run, open_run
from utils.runs.submission import (
    choose,
    choose_weights,
    combine,
    compare_ensembles,
    load_test,
    predict_test,
    write_submission,
)
from utils.tasks import make_task
from utils.training.predict import predict_examples


@pytest.fixture
def run(tiny, tiny_table, capsys):
    for fold in (0, 1):
        fit_fold(tiny(fold=fold), tiny_table)
    return open_run(tiny())


def made_up(rows=60, folds=3, seed=0):
    """A Run whose last weights err by twice as much as its averaged ones, independently."""
    generator = np.random.default_rng(seed)
    target = generator.normal(size=rows)
    predictions = pd.DataFrame({"id": [str(i) for i in range(rows)], "target": target, "fold": np.arange(rows) % folds})
    predictions["last"], predictions["averaged"] = (target + generator.normal(size=rows) * s for s in (1.0, 0.5))
    config = Config.make("tiny")
    return Run(config, make_task(config), dict.fromkeys(range(folds), None), predictions, predictions)


def test_every_fold_scores_every_test_text_with_its_own_weights(run):
    table = load_test(run.config)
    assert "target" not in table
    predictions = predict_test(run, table, ["averaged", "last"])
    assert predictions["averaged"].shape == (2, len(table), 1)
    for i, folder in enumerate(run.folders.values()):
        model, tokenizer = artifacts.load_model(folder / "last")
        examples = run.task.encode(table, tokenizer)
        expected = predict_examples(model, run.task, examples, tokenizer)
        np.testing.assert_array_equal(predictions["last"][i], expected)


def test_the_combination_of_a_fold_has_not_seen_it(monkeypatch):
    run, seen = made_up(rows=30), []

    stack = run.task.stack

    def spy(predictions, targets):
        seen.append(set(targets[:, 0]))
        return stack(predictions, targets)

    monkeypatch.setattr(run.task, "stack", spy)
    table = compare_ensembles(run, ["averaged", "last"]).set_index("ensemble")["score"]
    assert table["averaged"] == pytest.approx(np.sqrt(run.errors("averaged").mean()))
    by_fold = run.predictions.groupby("fold")["target"].apply(set)
    assert len(seen) == 3
    for fitted, held_out in zip(seen, by_fold, strict=True):
        assert not fitted & held_out
        assert len(fitted) == 20


def test_ridge_weights_beat_the_mean_where_one_model_is_worse():
    table = compare_ensembles(made_up(rows=600), ["averaged", "last"]).set_index("ensemble")["score"]
    assert table["stacked"] < table["averaged"] < table["mean"] < table["last"]


def test_ensembles_of_test_scores():
    run = made_up()
    scores = {"averaged": np.array([[[1.0], [2.0]], [[3.0], [4.0]]]), "last": np.zeros((2, 2, 1))}
    np.testing.assert_allclose(combine(run, scores, "averaged"), [[2.0], [3.0]])
    np.testing.assert_allclose(combine(run, scores, "mean"), [[1.0], [1.5]])
    assert combine(run, scores, "stacked").shape == (2, 1)
    ensembles = compare_ensembles(run, ["last", "averaged"])
    assert choose(ensembles, None) == ensembles["ensemble"].iloc[0]
    assert choose(ensembles, "mean") == "mean"
    with pytest.raises(InputError, match="ensemble='stakced' is not known; did you mean 'stacked'"):
        choose(ensembles, "stakced")


def test_weights_are_chosen_by_name(run):
    assert choose_weights(run, "averaged, last") == ["averaged", "last"]
    with pytest.raises(InputError, match="names 'sva'; choose from last, best, averaged"):
        choose_weights(run, "sva")
    run.predictions = run.predictions.drop(columns="averaged")
    with pytest.raises(InputError, match="these folds have only last, best"):
        choose_weights(run, "averaged")


def test_the_file_is_the_samples_in_ids_order_and_columns(run, workspace):
    table = load_test(run.config).sample(frac=1.0, random_state=0)
    scores = np.arange(len(table), dtype=float)[:, None]
    path = write_submission(table, scores, run.task, workspace)
    found = pd.read_csv(path, dtype={"id": str})
    sample = pd.read_csv(runtime.ROOT / "data" / "sample" / "sample_submission.csv", dtype={"id": str})
    assert found["id"].tolist() == sample["id"].tolist()
    assert list(found) == ["id", "target"]
    by_id = dict(zip(table["id"], scores[:, 0], strict=True))
    assert found["target"].tolist() == [by_id[name] for name in found["id"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.rename(columns={"target": "score"}), "has the columns id, score, and the submission would have"),
        (lambda s: pd.concat([s, s[:1]]), "more than once; get the file anew"),
        (lambda s: s[1:], "1 ids, such as '.*', are only in .*sample.csv or only in the test set"),
        (lambda s: s.assign(id=["x", *s["id"][1:]]), "2 ids, such as"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_and_nothing_is_written(change, words, run, workspace):
    sample = pd.read_csv(runtime.ROOT / "data" / "sample" / "sample_submission.csv", dtype=str)
    change(sample).to_csv(workspace / "sample.csv", index=False)
    table = load_test(run.config)
    with pytest.raises(InputError, match=words):
        write_submission(table, np.zeros((len(table), 1)), run.task, workspace, str(workspace / "sample.csv"))
    assert not (workspace / "submission.csv").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.rename(columns={"excerpt": "text"}), "has no column 'excerpt'"),
        (lambda t: pd.concat([t, t[:1]]), "more than once|twice|repeats"),
        (lambda t: t.assign(id=["", *t["id"][1:]]), "id"),
        (lambda t: t[:0], "has a header but no rows"),
    ],
)
def test_a_test_set_that_cannot_be_predicted(change, words, tiny, workspace):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "test.csv", dtype=str, keep_default_na=False)
    change(table).to_csv(workspace / "test.csv", index=False)
    with pytest.raises(InputError, match=words):
        load_test(tiny(), str(workspace / "test.csv"))


def test_a_test_set_needs_no_groups(tiny, workspace):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "test.csv", dtype=str, keep_default_na=False)
    table.drop(columns="topic").to_csv(workspace / "test.csv", index=False)
    assert len(load_test(tiny(), str(workspace / "test.csv"))) == len(table)


def test_no_test_set(tiny, workspace, rows):
    rows.to_csv(workspace / "train.csv", index=False)
    with pytest.raises(InputError, match=r"there is no test.csv to predict; name the test set with test"):
        load_test(tiny(data=str(workspace / "train.csv")))


def test_numbers_that_are_none(run, workspace):
    table = load_test(run.config)
    with pytest.raises(InputError, match="no finite numbers"):
        write_submission(table, np.full((len(table), 1), np.nan), run.task, workspace)
