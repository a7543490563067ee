"""Submissions: comparing and combining ensembles, and checking the files."""

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


def synthetic_run(rows=60):
    """A Run of three folds whose last weights have errors twice as large as its averaged ones."""
    generator = np.random.default_rng(0)
    target = generator.normal(size=rows)
    columns = {"id": [str(i) for i in range(rows)], "target": target, "fold": np.arange(rows) % 3}
    columns["last"] = target + generator.normal(size=rows)
    columns["averaged"] = target + generator.normal(size=rows) * 0.5
    predictions, config = pd.DataFrame(columns), Config.make("tiny")
    return Run(config, make_task(config), dict.fromkeys(range(3)), predictions, predictions)


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


def test_a_folds_combination_is_fitted_without_its_rows(monkeypatch):
    run, fitted_targets = synthetic_run(rows=30), []
    stack = run.task.stack

    def record(predictions, targets):
        fitted_targets.append(set(targets[:, 0]))
        return stack(predictions, targets)

    monkeypatch.setattr(run.task, "stack", record)
    table = compare_ensembles(run, ["averaged", "last"]).set_index("ensemble")["score"]
    assert table["averaged"] == pytest.approx(np.sqrt(run.errors("averaged").mean()))
    by_fold = run.predictions.groupby("fold")["target"].apply(set)
    assert len(fitted_targets) == 3
    for fitted, held_out in zip(fitted_targets, by_fold, strict=True):
        assert not fitted & held_out
        assert len(fitted) == 20


def test_ridge_weights_beat_the_mean_where_one_model_is_worse():
    table = compare_ensembles(synthetic_run(rows=600), ["averaged", "last"]).set_index("ensemble")["score"]
    assert table["stacked"] < table["averaged"] < table["mean"] < table["last"]


def test_ensembles_of_test_scores():
    run = synthetic_run()
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


def test_the_file_has_the_ids_order_and_columns_of_the_sample(run, workspace):
    table = load_test(run.config).sample(frac=1.0, random_state=0)
    scores = np.arange(len(table), dtype=float)[:, None]
    path = write_submission(table, scores, run.task, workspace)
    submission = pd.read_csv(path, dtype={"id": str})
    sample = pd.read_csv(runtime.ROOT / "data" / "sample" / "sample_submission.csv", dtype={"id": str})
    assert submission["id"].tolist() == sample["id"].tolist()
    assert list(submission) == ["id", "target"]
    by_id = dict(zip(table["id"], scores[:, 0], strict=True))
    assert submission["target"].tolist() == [by_id[name] for name in submission["id"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda table: table.rename(columns={"target": "score"}),
            "has the columns id, score, and the submission would have",
        ),
        (lambda table: pd.concat([table, table[:1]]), "more than once; get the file anew"),
        (lambda table: table[1:], "1 ids, such as '.*', are only in .*sample.csv or only in the test set"),
        (lambda table: table.assign(id=["x", *table["id"][1:]]), "2 ids, such as"),
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
        (lambda table: table.rename(columns={"excerpt": "text"}), "has no column 'excerpt'"),
        (lambda table: pd.concat([table, table[:1]]), "repeats an id in row"),
        (lambda table: table.assign(id=["", *table["id"][1:]]), "holds an empty id in row 1"),
        (lambda table: table[:0], "has a header but no rows"),
    ],
)
def test_a_test_set_that_cannot_be_predicted_is_refused(change, words, tiny, workspace):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "test.csv", dtype=str, keep_default_na=False)
    change(table).to_csv(workspace / "test.csv", index=False)
    with pytest.raises(InputError, match=words):
        load_test(tiny(), str(workspace / "test.csv"))


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_empty_texts_of_a_hidden_test_set_cost_no_submission(suffix, run, workspace):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "test.csv", dtype=str, keep_default_na=False)
    table.loc[[2, 5], "excerpt"] = ["", " \n "]
    path = workspace / f"test.{suffix}"
    (table.to_csv if suffix == "csv" else table.to_excel)(path, index=False)
    names = f"3 .{table['id'][2]}., 6 .{table['id'][5]}."
    with pytest.warns(UserWarning, match=f"2 of {len(table)} texts are empty, in row {names}"):
        test = load_test(run.config, str(path))
    scores = combine(run, predict_test(run, test, ["last"]), "last")
    submission = pd.read_csv(write_submission(test, scores, run.task, workspace), dtype={"id": str})
    assert set(submission["id"]) == set(table["id"])
    assert np.isfinite(submission["target"]).all()


def test_a_test_set_needs_no_groups(tiny, workspace):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "test.csv", dtype=str, keep_default_na=False)
    table.drop(columns="topic").to_csv(workspace / "test.csv", index=False)
    assert len(load_test(tiny(), str(workspace / "test.csv"))) == len(table)


def test_a_missing_test_set_is_reported(tiny, workspace, rows):
    rows.to_csv(workspace / "train.csv", index=False)
    with pytest.raises(InputError, match=r"there is no test.csv to predict; name the test set with test"):
        load_test(tiny(data=str(workspace / "train.csv")))


def test_predictions_that_are_not_finite_are_refused(run, workspace):
    table = load_test(run.config)
    with pytest.raises(InputError, match="no finite numbers"):
        write_submission(table, np.full((len(table), 1), np.nan), run.task, workspace)


#: A sample submission's columns without the id, and what the submission then holds for shares of
#: (0.2, 0.8) and (0.7, 0.3) of the labels no and yes.
FORMS = {
    "labels": ({"suitable": ["no", "no"]}, {"suitable": ["yes", "no"]}),
    "one column of probabilities": ({"suitable": ["0.5", "0.5"]}, {"suitable": [0.8, 0.3]}),
    "a column per label": ({"yes": ["0", "0"], "no": ["1", "1"]}, {"yes": [0.8, 0.3], "no": [0.2, 0.7]}),
    "no sample": (None, {"suitable": ["yes", "no"]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_written_as_the_sample_has_them(form, workspace):
    columns, expected = FORMS[form]
    config = Config.make("tiny", task="binary", target_columns="suitable", data=str(workspace / "train.csv"))
    pd.DataFrame().to_csv(workspace / "train.csv")
    if columns:  # in another order than the test set
        pd.DataFrame({"id": ["b", "a"], **columns}).to_csv(workspace / "sample_submission.csv", index=False)
    task = make_task(config, pd.DataFrame({"suitable": ["no", "yes"]}))
    probabilities = np.array([[0.2, 0.8], [0.7, 0.3]])
    path = write_submission(pd.DataFrame({"id": ["a", "b"]}), probabilities, task, workspace)
    submission = pd.read_csv(path, keep_default_na=False)
    assert submission.columns.tolist() == ["id", *expected]
    assert submission.set_index("id").loc[["a", "b"]].to_dict("list") == expected
    assert submission["id"].tolist() == (["b", "a"] if columns else ["a", "b"])


@pytest.mark.parametrize(("cells", "expected"), [(["0", "1"], [1, 0]), (["0.5", "0.5"], [0.8, 0.3])])
def test_several_labels_are_written_as_the_sample_has_them(cells, expected, workspace):
    config = Config.make("tiny", task="multilabel", target_columns="a,b", data=str(workspace / "train.csv"))
    pd.DataFrame().to_csv(workspace / "train.csv")
    sample = pd.DataFrame({"id": ["1"], "a": cells[:1], "b": cells[1:]})
    sample.to_csv(workspace / "sample_submission.csv", index=False)
    task = make_task(config, pd.DataFrame({"a": ["0"], "b": ["1"]}))
    path = write_submission(pd.DataFrame({"id": ["1"]}), np.array([[0.8, 0.3]]), task, workspace)
    assert pd.read_csv(path).loc[0, ["a", "b"]].tolist() == expected
