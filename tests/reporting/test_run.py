"""Tables and plots across the folds of a run."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.reporting import run as report
from utils.reporting.views import make_view
from utils.runs.artifacts import read_result
from utils.runs.compare import compare_weights
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import make_task
from utils.tasks.metrics import Metric


@pytest.fixture
def two(tiny, tiny_table):
    for fold in (0, 3):
        fit_fold(tiny(fold=fold), tiny_table)
    yield open_run(tiny())
    plt.close("all")


@pytest.fixture
def errors(two):
    lengths = pd.Series(range(len(two.table)), index=two.table["id"])
    return report.errors_table(two, lengths, "topic")


def test_the_scores_of_each_fold_stand_beside_its_baselines(two):
    table = report.weights_table(compare_weights(two), two)
    names = ["last", "best epoch (chosen on this fold)", "averaged"]
    baselines = [f"baseline: {name}" for name in ("mean", "two counts", "TF-IDF, ridge")]
    assert table.loc[0].index.tolist() == names + baselines
    assert table.loc["all"].index.tolist() == names, "a mean over folds is not the score over all rows"
    assert table.columns.tolist() == [
        "RMSE", "95 % interval", "Pearson's r", "Spearman's ρ", "R²", "batch rmse", "p against averaged"
    ]  # fmt: skip
    for fold, folder in two.folders.items():
        result = read_result(folder)
        assert table.loc[(fold, "averaged"), "RMSE"] == f"{result['scores']['averaged']['rmse']:.4f}"
        counts = table.loc[(fold, "baseline: two counts")]
        assert counts["RMSE"] == f"{result['baselines']['two counts']['rmse']:.4f}"
        assert (counts["95 % interval"], counts["p against averaged"]) == ("", "")
    assert table.loc[(0, "baseline: mean"), "Spearman's ρ"] == "–", "a constant correlates with nothing"
    assert table.note.splitlines() == [
        "– is undefined. Pearson's r, Spearman's ρ, R²: needs two different targets and predictions.",
        "p is of a paired test of each text's squared error.",
    ]


def test_scores_are_plotted_with_their_intervals():
    rows = [
        {"fold": fold, "weights": weights, "score": 0.8, "low": 0.7, "high": 0.85}
        | {"gain": gain, "gain_low": gain - 0.1, "gain_high": gain + 0.1}
        for fold in (0, 3, "all")
        for weights, gain in (("last", 0.2), ("averaged", np.nan))
    ]
    rows[0]["high"] = 0.79  # a bootstrap interval need not hold the score
    figure = report.plot_weights(pd.DataFrame(rows), Metric("f1", "macro F1", higher_is_better=True))
    axes, gains = figure.axes
    assert axes.get_xlabel() == "macro F1"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fold 0", "fold 3", "all folds"]
    assert axes.get_legend_handles_labels()[1] == ["last", "averaged"]
    (line,) = [line for line in gains.lines if line.get_marker() == "o"]
    assert line.get_xdata().tolist() == [0.2, 0.2, 0.2], "of the averaged weights over the last"
    nothing = pd.DataFrame(rows).assign(gain=np.nan)
    assert len(report.plot_weights(nothing, Metric("rmse", "RMSE")).axes) == 1, "nothing was averaged"


def test_errors_belong_to_their_texts(two, errors, tiny_table):
    texts = tiny_table.set_index("id")
    assert errors["text"].tolist() == texts.loc[errors["id"], "excerpt"].tolist()
    assert errors["topic"].tolist() == texts.loc[errors["id"], "topic"].tolist()
    assert (errors["fold"] == texts.loc[errors["id"], "fold"].to_numpy()).all()
    off = two.predictions["last"] - two.predictions["target"]
    np.testing.assert_allclose(errors["last"], off**2)


def test_errors_are_drawn_by_length_target_and_category(two, errors):
    figure = report.plot_errors(two, errors, "topic")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    sizes = errors["topic"].value_counts()
    chosen = "with the largest errors" if sizes.iloc[5] == sizes.iloc[6] else "most frequent"
    assert titles[:3] == [
        "Length, in tokens up to",
        "Target",
        f"topic: the 6 {chosen}, of {errors['topic'].nunique()}",
    ]
    bars = figure.axes[1].containers[0]  # the last weights, by target: the sample has six
    lowest = errors.index[errors["target"] == errors["target"].min()]
    rows = two.predictions.loc[lowest]
    expected = float(np.sqrt(((rows["last"] - rows["target"]) ** 2).mean()))
    assert bars[0].get_height() == pytest.approx(expected)
    topics = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert topics == sorted(topics)
    assert len(topics) == 6
    assert len(figure.axes[3].collections[0].get_offsets()) == len(errors)
    assert len(report.plot_errors(two, errors).axes) == 3, "no category"


def test_tenths_of_the_target_keep_equal_targets_together(two):
    described = pd.Series(np.arange(len(two.predictions)) // 2 * 1.0)  # pairs of equal targets
    title, table = make_view(two.task).target_errors(two, described)
    assert title == "Target, in tenths of the texts up to"
    assert len(table) <= 10
    assert set(table.index) <= set(described), "a tenth ends with a target that texts have"


def test_no_residuals_where_predictions_do_not_pair_with_targets(two, errors, monkeypatch):
    task = two.task
    values, score = task.values, task.score

    def doubled(predictions, name):
        array = values(predictions, name)
        return array if name == "target" else np.hstack([array, array])

    monkeypatch.setattr(task, "values", doubled)
    monkeypatch.setattr(task, "score", lambda targets, predictions: score(targets, predictions[:, :1]))
    assert len(report.plot_errors(two, errors, "topic").axes) == 3


def test_the_texts_shown_are_those_that_the_weights_disagree_on(two, errors):
    page = report.disagreements(two, errors, n=2).data
    gap = (two.predictions["averaged"] - two.predictions["last"]).abs().sort_values(ascending=False)
    assert re.findall("<b>(.*?)</b>", page) == two.predictions.loc[gap.index[:2], "id"].tolist()
    row = two.predictions.loc[gap.index[0]]
    numbers = f"target {row['target']:.2f}, last {row['last']:.2f}, averaged {row['averaged']:.2f}"
    assert f"</b> (fold {row['fold']}): {numbers}</p><blockquote>" in page


def test_agreement_is_drawn_for_any_number_of_folds(tiny):
    predictions, task = np.random.default_rng(0).normal(size=(7, 20, 1)), make_task(tiny())
    left, right = report.plot_agreement(predictions, task, list(range(7))).axes
    assert len(left.collections) == 7
    assert sum(bar.get_height() for bar in right.patches) == 20
    left, _ = report.plot_agreement(predictions[:2], task, [0, 4]).axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("fold 0", "fold 4"), "not both against their own mean"
    right = report.plot_agreement(predictions[:1], task, [0]).axes[1]
    assert sum(bar.get_height() for bar in right.patches) == 20
    plt.close("all")
