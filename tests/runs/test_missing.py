"""Missing values among several targets: masked from the table to LIT."""

import numpy as np
import pandas as pd
import pytest

from tests.runs.helpers import Stop, assert_same, stop_after
from utils.config import Config, InputError
from utils.machine import runtime
from utils.reporting import fold as fold_report
from utils.reporting import run as run_report
from utils.runs import artifacts, submission
from utils.runs.compare import compare_weights, verdict
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import add_folds, load_table, make_task
from utils.training.setup import prepare


def sample(missing=lambda i: i % 3 == 1):
    """The sample with a second target, which some rows lack."""
    rows = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv", dtype=str, keep_default_na=False)
    words = rows["excerpt"].str.split().str.len()
    rows["words"] = [("" if missing(i) else str(n / 10)) for i, n in enumerate(words)]
    rows.loc[0, ["target", "words"]] = ["NA", "9.5"]
    return rows


@pytest.fixture
def config(workspace):
    sample().to_csv(workspace / "train.csv", index=False)
    options = {"data": str(workspace / "train.csv"), "target_columns": "target,words", "precision": "fp32"}
    return lambda **overrides: Config.make("tiny", **{**options, **overrides})


@pytest.fixture
def table(config):
    return add_folds(load_table(config()), config())


def test_a_fold_is_trained_scored_compared_plotted_and_shown(config, table, capsys):
    for fold in (0, 1):
        fit_fold(config(fold=fold, batch_size=4), table)
    run = open_run(config())
    assert table["words"].isna().sum() > 10
    held_out = table.set_index("id").loc[run.predictions["id"]]
    np.testing.assert_array_equal(run.targets, held_out[["target", "words"]])
    known = held_out["words"].notna().to_numpy()
    comparison = compare_weights(run)
    overall = comparison[comparison["fold"] == "all"].set_index("weights").loc["last"]
    errors = (run.values("last") - run.targets) ** 2
    expected = [np.sqrt(errors[:, 0][~np.isnan(errors[:, 0])].mean()), np.sqrt(errors[known, 1].mean())]
    assert overall["score"] == pytest.approx(np.mean(expected))
    assert overall["rmse words"] == pytest.approx(expected[1])
    assert overall["low"] < overall["score"] < overall["high"]
    assert 0 < overall["p"] <= 1
    assert "RMSE" in verdict(comparison, run.task.metric)
    result = artifacts.read_result(run.folders[0])
    assert all(np.isfinite(scores["rmse"]) for scores in result["baselines"].values())
    assert list(result["baselines"]) == ["mean", "two counts", "TF-IDF, ridge"]
    lengths = pd.Series(50, index=table["id"])
    errors_table = run_report.errors_table(run, lengths, by="topic")
    assert np.isfinite(errors_table[["target", *run.weights]]).all(axis=None)
    run_report.plot_errors(run, errors_table, by="topic")
    run_report.disagreements(run, errors_table)
    predictions = artifacts.read_predictions(run.folders[0])
    fold_report.plot_data(table, [50] * len(table), run.task)
    fold_report.plot_predictions(predictions, run.task)
    fold_report.worst_predictions(table, predictions, run.task)
    ensembles = submission.compare_ensembles(run, ["averaged", "last"])
    assert np.isfinite(ensembles["score"]).all()
    assert set(ensembles["ensemble"]) == {"averaged", "last", "mean", "stacked"}


def test_it_resumes_bit_identically(config, table, monkeypatch):
    whole = fit_fold(config(run="whole"), table)
    restore = stop_after(5, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config(run="interrupted", save_every=1), table)
    restore()
    assert_same(whole, fit_fold(config(run="interrupted", save_every=1), table))


def test_the_head_is_scaled_by_what_is_known(config, table):
    training = prepare(config(), table, 0)
    known = table.loc[table["fold"] != 0, "words"].dropna()
    head = training.model.head.config
    assert (head.location[1], head.scale[1]) == pytest.approx((known.mean(), known.std(ddof=0)))


@pytest.mark.parametrize("fold_by", ["kfold", "stratified", "group"])
@pytest.mark.parametrize("what", ["training", "held-out"])
def test_a_fold_that_knows_nothing_of_a_target_is_refused_before_anything_is_written(
    what, fold_by, config, workspace
):
    settings = config(fold_by=fold_by)
    table = add_folds(load_table(settings), settings)
    table.loc[(table["fold"] == 0) == (what == "held-out"), "words"] = np.nan
    words = "trains on" if what == "training" else "holds out"
    with pytest.raises(InputError, match=f"the fold {words} no row with a value of 'words'; choose another"):
        fit_fold(settings, table)
    assert not artifacts.fold_folder(settings).exists()


@pytest.mark.parametrize(
    ("change", "targets", "words"),
    [
        (
            {"target": "", "words": " "},
            "target,words",
            "is missing, as are the other targets, in row 5",
        ),
        ({"words": "many"}, "target,words", "column 'words' holds no finite number in row 5: 'many'"),
        ({"words": "inf"}, "target,words", "column 'words' holds no finite number in row 5: 'inf'"),
        ({"target": ""}, "target", "column 'target' holds no finite number in row 5: ''"),
    ],
)
def test_what_cannot_be_masked_is_refused(change, targets, words, config):
    settings = config(target_columns=targets, max_rows=0)
    rows = sample(missing=lambda i: False)
    rows.loc[0, "target"] = "1.0"
    rows.loc[4, list(change)] = list(change.values())
    rows.to_csv(settings.data, index=False)
    with pytest.raises(InputError, match=words):
        load_table(settings)


def test_a_target_without_values_is_refused(config):
    rows = sample(missing=lambda i: i > 0).assign(words="")
    rows.loc[0, "target"] = "1"
    with pytest.raises(InputError, match="column 'words' is empty; leave it out of target_columns"):
        make_task(config()).check(rows, "the table")


@pytest.mark.parametrize("written", ["", " ", "nan", "NA", "N/A", "null", "None", None, np.nan, pd.NA])
def test_however_a_missing_value_is_written(written, config):
    rows = sample().astype(object)
    rows.at[4, "words"] = written
    checked = make_task(config()).check(rows, "the table")
    assert np.isnan(checked["words"][4])
    assert checked["words"].dtype == float


def test_lit_shows_them_as_missing(config, table):
    pytest.importorskip("lit_nlp")
    from utils.lit.results import RegressionMetrics
    from utils.lit.spec import make_view
    from utils.lit.wrappers import TextDataset

    task = make_task(config(), table)
    view = make_view(task, 1, table)
    examples = TextDataset(table, view).examples
    labels = [example["words"] for example in examples]
    assert {label is None for label in labels} == {True, False}
    spec = view.dataset_fields()["words"], view.outputs()["predicted words"]
    options = {"label_spec": spec[0], "pred_spec": spec[1]}
    scores = RegressionMetrics().compute(labels, [2.0] * len(labels), **options)
    assert scores["rmse"] ** 2 == pytest.approx(((table["words"] - 2) ** 2).mean())
    assert RegressionMetrics().compute([None], [2.0], **options) == {}


@pytest.mark.full
def test_lit_is_asked_about_texts_whose_target_is_known(config, table):
    pytest.importorskip("lit_nlp")
    from utils.lit.questions import HeldOut
    from utils.lit.run import start, stop
    from utils.reporting.words import contrast

    fit_fold(config(), table)
    run = open_run(config())
    try:
        lit = start(run, texts=0, target="words", port=0)
        held_out = HeldOut(lit, run, target="words")
        rows = table[(table["fold"] == 0) & table["words"].notna()]
        assert held_out.ids == rows["id"].tolist()
        assert np.isfinite(held_out.targets).all()
        assert contrast(held_out.rows, held_out.extent, run.config)[0]["data"]["words"] is not None
        expected = run.errors("averaged")[:, 1]
        measured = held_out.metric_table()
        assert measured.to_numpy() == pytest.approx(np.sqrt(np.nanmean(expected)), abs=1e-4)
    finally:
        stop()
