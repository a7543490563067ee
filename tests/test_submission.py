"""Submissions: ensembles compared honestly, files checked."""

import numpy as np
import pandas as pd
import pytest

from utils import checkpoint, runtime, submission
from utils.config import InputError
from utils.data import Texts
from utils.fold import fit_fold
from utils.folds import Run, open_run
from utils.predict import predict_texts
from utils.submission import choose, combine, compare_ensembles, kinds_of, load_test, predict_test, write_submission


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
    predictions["last"], predictions["swa"] = (target + generator.normal(size=rows) * s for s in (1.0, 0.5))
    from utils.config import Config

    return Run(Config.make("tiny"), dict.fromkeys(range(folds), None), predictions, predictions)


def test_every_fold_scores_every_test_text_with_its_own_weights(run):
    table = load_test(run.config)
    assert "target" not in table
    found = predict_test(run, table, ["swa", "last"])
    assert found["swa"].shape == (2, len(table), 1)
    for i, folder in enumerate(run.folders.values()):
        model, tokenizer = checkpoint.load_model(folder, "last")
        expected = predict_texts(model, Texts.of(table, tokenizer, run.config), tokenizer, run.config)
        np.testing.assert_array_equal(found["last"][i], expected)


def test_the_combination_of_a_fold_has_not_seen_it(monkeypatch):
    run, seen = made_up(rows=30), []

    class Spy(submission.Ridge):
        def __init__(self, features, targets):
            seen.append(set(targets))
            super().__init__(features, targets)

    monkeypatch.setattr(submission, "Ridge", Spy)
    table = compare_ensembles(run, ["swa", "last"]).set_index("ensemble")["rmse"]
    assert table["swa"] == pytest.approx(np.sqrt(run.squared_errors("swa").mean()))
    by_fold = run.predictions.groupby("fold")["target"].apply(set)
    assert len(seen) == 3
    for fitted, own in zip(seen, by_fold, strict=True):
        assert not fitted & own
        assert len(fitted) == 20


def test_ridge_weights_beat_the_mean_where_one_model_is_worse():
    table = compare_ensembles(made_up(rows=600), ["swa", "last"]).set_index("ensemble")["rmse"]
    assert table["ridge"] < table["swa"] < table["mean"] < table["last"]


def test_ensembles_of_test_scores():
    run = made_up()
    scores = {"swa": np.array([[[1.0], [2.0]], [[3.0], [4.0]]]), "last": np.zeros((2, 2, 1))}
    np.testing.assert_allclose(combine(run, scores, "swa"), [[2.0], [3.0]])
    np.testing.assert_allclose(combine(run, scores, "mean"), [[1.0], [1.5]])
    assert combine(run, scores, "ridge").shape == (2, 1)
    ensembles = compare_ensembles(run, ["last", "swa"])
    assert choose(ensembles, None) == ensembles["ensemble"].iloc[0]
    assert choose(ensembles, "mean") == "mean"
    with pytest.raises(InputError, match="ensemble='rigde' is not known; did you mean 'ridge'"):
        choose(ensembles, "rigde")


def test_kinds(run):
    assert kinds_of(run, "swa, last") == ["swa", "last"]
    with pytest.raises(InputError, match="names 'sva'; choose from last, best, swa"):
        kinds_of(run, "sva")
    run.predictions = run.predictions.drop(columns="swa")
    with pytest.raises(InputError, match="these folds have only last, best"):
        kinds_of(run, "swa")


def test_the_file_is_the_samples_in_ids_order_and_columns(run, workspace):
    table = load_test(run.config).sample(frac=1.0, random_state=0)
    scores = np.arange(len(table), dtype=float)[:, None]
    path = write_submission(table, scores, run.config, workspace)
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
        write_submission(table, np.zeros((len(table), 1)), run.config, workspace, str(workspace / "sample.csv"))
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
        write_submission(table, np.full((len(table), 1), np.nan), run.config, workspace)
