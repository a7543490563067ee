"""Tables and plots of labels, grades and several labels at once, on predictions made up."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from tests import hostile
from utils.config import Config
from utils.data.folds import assign_folds
from utils.reporting import classes, fold, style
from utils.reporting import run as report
from utils.reporting.landscape import Landscape, line
from utils.runs import artifacts
from utils.runs.compare import compare_weights, verdict
from utils.runs.fold import fit_fold
from utils.runs.run import Run, open_run
from utils.tasks import add_folds, load_table, make_task
from utils.tasks.regression import Regression

N = 60
#: Of each kind of task its target columns and their cells.
KINDS = {
    "binary": {"suitable": ["no", "yes", "yes"]},
    "multiclass": {"genre": ["tides", "kites", "a very long name of a topic", "owls"]},
    "ordinal": {"level": ["2", "10", "1"]},
    "multilabel": {"easy": ["1", "0", "0"], "wordy": ["1", "1", "0", "0", "0"]},
    "several": {"genre": ["tides", "kites", "owls"], "level": ["2", "10", "1", ""]},
}


def made_up(kind, columns=None, n=N, **settings):
    """A run of a kind of task, of which nothing was trained: texts, random predictions, two folds."""
    columns = columns or KINDS[kind]
    task_name = {"several": "multiclass"}.get(kind, kind)
    config = Config.make("tiny", task=task_name, target_columns=list(columns), fold_by="kfold", **settings)
    table = pd.DataFrame({"id": [f"r{i}" for i in range(n)], "excerpt": [f"text {i}" for i in range(n)]})
    table = table.assign(**{name: (cells * n)[:n] for name, cells in columns.items()})
    task = make_task(config)
    table = assign_folds(task.check(table, "table"), config)
    task.see(table)
    targets, generator = task.targets(table), np.random.default_rng(0)
    arrays = {"last": task.guess(targets), "averaged": task.guess(targets)[generator.permutation(n)]}
    predictions = task.predictions_table(table["id"].tolist(), {"target": targets, **arrays})
    predictions = predictions.assign(fold=table["fold"], group=table["id"])
    return Run(config, task, {}, table, predictions)


@pytest.fixture(params=KINDS)
def run(request):
    return made_up(request.param)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_every_fold_says_how_many_rows_have_each_label(run):
    table = fold.folds_table(run.table, run.task)
    shown = table.drop(columns=["rows"])
    assert list(shown) == run.task.class_names("")
    for name, column in shown.items():
        counts = column.str.extract(r"^(\d+) \((\d+)%\)$").astype(float)
        target, label = ([*name.split(" ", 1), None][:2]) if len(run.task.labels) > 1 else (None, name)
        target = target or run.config.target_columns[0]
        cells = run.table[target][run.table["fold"] == 3].dropna()
        expected = cells == (label or "1")
        assert counts.loc[3, 0] == expected.sum()
        assert counts.loc[3, 1] == pytest.approx(100 * expected.mean(), abs=0.51)


def test_labels_are_counted_in_place_of_a_histogram(run):
    left, _ = fold.plot_data(run.table, [50] * N, run.task).axes
    codes = run.task.targets(run.table)
    expected = [(codes[:, i] == k).sum() for i, size in enumerate(run.task.sizes) for k in range(size)]
    if run.task.name == "multilabel":
        expected = expected[1::2]
    assert [bar.get_width() for bar in left.patches] == expected
    assert len(left.get_yticklabels()) == len(expected)


def test_a_confusion_matrix_counts_what_is_taken_for_what():
    run = made_up("multiclass")
    axes = fold.plot_predictions(run.predictions, run.task).axes[0]
    chosen = run.task.predicted(run.values("averaged"))[:, 0]
    expected = confusion_matrix(run.targets[:, 0].astype(int), chosen)
    assert texts_of(axes) == [str(count) for count in expected.ravel() if count]
    np.testing.assert_allclose(axes.images[0].get_array(), expected / expected.sum(axis=1, keepdims=True))
    assert axes.get_yticklabels()[0].get_text() == "a very long n…"


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("binary", ["Confusion matrix"]),
        ("multiclass", ["Confusion matrix"]),
        ("ordinal", ["Confusion matrix", "Expected grade"]),
        ("multilabel", ["Labels"]),
        ("several", ["genre", "level"]),
    ],
)
def test_each_kind_of_task_has_its_panels(kind, titles):
    run = made_up(kind)
    figure = fold.plot_predictions(run.predictions, run.task)
    axes = [one for one in figure.axes if one.get_title(loc="left")]
    assert [one.get_title(loc="left") for one in axes[:-2]] == titles
    assert axes[-2].get_title(loc="left") == "Probability of the true label"
    known = (~np.isnan(run.targets)).sum()
    shares = axes[-2].patches
    assert max(bar.get_y() + bar.get_height() for bar in shares) <= known
    assert sum(bar.get_height() for bar in shares) == known
    assert axes[-1].get_title(loc="left").startswith("Calibration error 0.")
    (counts,) = [one for one in figure.axes if not one.get_title(loc="left")]
    assert sum(bar.get_height() for bar in counts.patches) == known
    name = {"binary": "yes", "multilabel": "each label"}.get(kind, "the predicted label")
    assert axes[-1].get_xlabel() == f"probability of {name}"


def test_grades_keep_their_order_and_are_expected_between_them():
    run = made_up("ordinal")
    matrix, grades, *_ = fold.plot_predictions(run.predictions, run.task).axes
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["1", "2", "10"]
    points = grades.collections[0].get_offsets()
    expected = run.values("averaged") @ [0, 1, 2]
    np.testing.assert_allclose(points[:, 1], expected)
    np.testing.assert_allclose(np.round(points[:, 0]), run.targets[:, 0])


def test_found_missed_and_falsely_alarmed_labels_are_told_apart():
    run = made_up("multilabel")
    axes = fold.plot_predictions(run.predictions, run.task).axes[0]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    chosen = (run.values("averaged") > 0.5).astype(int)
    true = run.targets == 1
    expected = [(true & (chosen == 1)), (true & (chosen == 0)), (~true & (chosen == 1))]
    assert widths == [counts.sum(axis=0).tolist() for counts in expected]


def test_rare_ones_of_many_classes_are_pooled():
    names = [str(i) for i in range(30)]
    codes = np.repeat(np.arange(30), np.arange(30) + 1)
    _, axes = plt.subplots()
    classes.draw_confusion(axes, codes, codes[::-1].copy(), names, "")
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == [*names[-20:], "others"]
    assert axes.images[0].get_array().shape == (21, 21)
    assert not axes.texts, "too many to be read"
    run = made_up("multiclass", {"genre": [*names, *names[:5]]}, n=350)
    assert len(fold.folds_table(run.table, run.task).columns) == 21
    title = fold.plot_data(run.table, [5] * 350, run.task).axes[0].get_title(loc="left")
    assert title == "The 20 most frequent of 30 labels"
    report.plot_errors(run, report.errors_table(run, run.table.set_index("id")["excerpt"].str.len()))


def test_calibration_counts_what_came_true():
    shares = np.array([0.05, 0.07, 0.95, 0.95, 1.0])
    bins = classes.calibration(shares, np.array([False, True, True, True, False]))
    assert bins["count"].to_dict() == {0: 2, 9: 3}
    assert bins["probability"].tolist() == pytest.approx([0.06, 2.9 / 3])
    assert bins["share"].tolist() == pytest.approx([0.5, 2 / 3])
    error, _ = classes.calibration_error(bins)
    assert error == pytest.approx((2 * 0.44 + 3 * (2.9 / 3 - 2 / 3)) / 5)


@pytest.mark.parametrize("n", [100, 2000])
def test_the_calibration_error_by_chance_is_that_of_true_probabilities(n):
    generator = np.random.default_rng(0)
    shares = generator.random(n)
    draws = [classes.calibration(shares, generator.random(n) < shares) for _ in range(100)]
    errors, by_chance = np.array([classes.calibration_error(bins) for bins in draws]).T
    assert by_chance.mean() == pytest.approx(errors.mean(), rel=0.1)


def test_the_surest_mistakes_come_first_with_label_and_probability(run):
    page = fold.worst_predictions(run.table, run.predictions, run.task, n=N).data
    errors = np.nanmean(run.errors("averaged"), axis=1)
    order = np.argsort(-errors, kind="stable")
    assert re.findall("<b>(.*?)</b>", page) == run.predictions["id"].iloc[order].tolist()
    sentence = run.task.sample(
        {"target": run.targets[order[0]], "predicted": run.values("averaged")[order[0]]}
    )
    assert f"</b>: {sentence}</p>" in page
    shares = [float(share) for share in re.findall(r"\((\d\.\d\d)\)", sentence)]
    assert len(shares) == len(run.task.labels)


def test_a_grades_probability_is_that_of_the_grade_that_is_predicted():
    """It need not be the most probable one."""
    task = made_up("ordinal").task
    values = {"target": np.array([0.0]), "predicted": np.array([0.48, 0.1, 0.42])}
    assert task.sample(values) == "target 1, predicted 2 (0.10)"


def test_several_labels_are_named_not_numbered():
    task = made_up("multilabel").task
    values = {"target": np.array([0.0, 1.0]), "predicted": np.array([0.8, 0.3])}
    assert task.sample(values) == "target wordy, predicted easy (0.80), wordy (0.30)"
    assert task.sample({"target": np.zeros(2)}) == "target none"


def test_errors_are_drawn_by_what_is_true(run):
    errors = report.errors_table(run, run.table.set_index("id")["excerpt"].str.len())
    figure = report.plot_errors(run, errors)
    by_length, by_target, misses = figure.axes
    assert by_length.get_ylabel().replace("\n", " ") == run.task.error
    bars = dict(zip(run.weights, by_target.containers, strict=True))
    labels = [label.get_text() for label in by_target.get_xticklabels()]
    if len(run.task.labels) == 1:
        assert labels == style.shortened(run.task.labels[0], 18), "in the order of the labels"
        expected = [run.errors("last")[run.targets[:, 0] == k].mean() for k in range(len(labels))]
    else:
        assert labels == list(run.config.target_columns)
        expected = np.nanmean(run.errors("last"), axis=0)
    assert [bar.get_height() for bar in bars["last"]] == pytest.approx(list(expected))
    assert "veraged weights" in misses.get_title(loc="left")
    assert report.disagreements(run, errors, n=2).data.count("<b>") == 2


def test_what_averaging_changed_stands_in_brackets():
    run = made_up("binary")
    axes = report.plot_errors(run, report.errors_table(run, pd.Series(5, index=run.table["id"]))).axes[-1]
    matrices = [
        confusion_matrix(run.targets[:, 0], run.task.predicted(run.values(weights))[:, 0]).ravel()
        for weights in ("averaged", "last")
    ]
    expected = [
        f"{now}\n({now - then:+d})" if now != then else f"{now}" for now, then in zip(*matrices, strict=True)
    ]
    assert texts_of(axes) == expected


def test_the_comparison_names_the_error_that_is_tested(run):
    comparison = compare_weights(run)
    table = report.weights_table(comparison, run)
    assert table.note.splitlines()[-1] == f"p is of a paired test of each text's {run.task.error}."
    sentences = verdict(comparison, run.task.metric)
    assert run.task.metric.label in sentences
    assert sentences.endswith(f"Tested is each text's {run.task.error}.")
    for metric in run.task.metrics:
        assert metric.label in table.columns
    assert comparison["error"].iloc[-1] == pytest.approx(np.nanmean(run.errors("averaged")), rel=0.05)
    report.plot_weights(comparison, run.task.metric)


def test_undefined_scores_are_a_dash_with_the_reason():
    run = made_up("ordinal")
    one = np.ones((5, 1))
    scores = pd.DataFrame({"last": run.task.scores(one, run.task.guess(one))}).T
    metrics = style.metrics_of(type(run.task))
    table = style.Scores(scores.rename(columns=lambda name: style.score_label(name, metrics)))
    table.note = style.undefined_note(scores, metrics)
    page = table._repr_html_()
    assert page.count("<td>–</td>") == scores.isna().sum().sum() > 3
    assert "NaN" not in page
    assert "QWK: needs two different grades; " in page
    assert "F1 1, F1 10: needs texts of that class." in page
    assert style.undefined_note(scores.dropna(axis=1), metrics) == ""


@pytest.mark.parametrize(("name", "label"), [
    ("macro_f1", "macro F1"), ("qwk", "QWK"), ("f1 yes_no", "F1 yes_no"), ("qwk level", "QWK level"),
    ("mae", "mean absolute error"), ("batch_rmse", "batch rmse"),
])  # fmt: skip
def test_headings_are_the_metrics_labels(name, label):
    metrics = [*style.metrics_of(type(made_up("ordinal").task)), *style.metrics_of(Regression)]
    assert style.score_label(name, metrics) == label


def test_scores_of_many_classes_are_left_out():
    metrics = style.metrics_of(type(made_up("ordinal").task))
    names = ["qwk", "qwk a", "qwk b", *(f"f1 {i}" for i in range(11))]
    assert style.shown_scores(names, metrics) == ["qwk", "qwk a", "qwk b"]
    assert style.shown_scores(names[:-1], metrics) == names[:-1]


def test_agreement_is_that_of_the_labels(run):
    same = np.stack([run.values("last")] * 3)
    left, right = report.plot_agreement(same, run.task, [0, 1, 4]).axes
    n = run.targets.size
    assert [bar.get_height() for bar in left.patches] == [0, 0, 0, n]
    assert sum(bar.get_height() for bar in right.patches) == n
    differing = np.stack([run.values("last"), run.values("averaged")])
    votes = [bar.get_height() for bar in report.plot_agreement(differing, run.task, [0, 1]).axes[0].patches]
    assert sum(votes) == n
    assert votes[1] > 0


def test_labels_are_drawn_and_written_as_they_are(monkeypatch):
    """Dollar signs in labels begin no formula, and markup in them is text."""
    run = made_up("multiclass", {"genre": list(hostile.STRINGS)})
    monkeypatch.setattr(
        plt.Text, "_preprocess_math", lambda self, text: (text, "$" in text.replace(r"\$", ""))
    )
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", lambda *args: pytest.fail("a formula"))
    errors = report.errors_table(run, run.table.set_index("id")["excerpt"].str.len())
    figures = [fold.plot_data(run.table, [5] * N, run.task), fold.plot_predictions(run.predictions, run.task)]
    for figure in [*figures, report.plot_errors(run, errors)]:
        figure.canvas.draw()
    scores = report.weights_table(compare_weights(run), run)
    shown = [fold.worst_predictions(run.table, run.predictions, run.task), errors, scores]
    hostile.check_page(hostile.exported(*shown, fold.folds_table(run.table, run.task)))


def test_a_trained_fold_of_labels_is_shown(workspace, tiny):
    """From its own files: the scores, and the landscape in errors that few texts define."""
    rows = made_up("binary").table.drop(columns="fold")
    rows.to_csv(workspace / "rows.csv", index=False)
    config = tiny(data="rows.csv", task="binary", target_columns="suitable", fold_by="kfold")
    folder = fit_fold(config, add_folds(load_table(config), config))
    table = fold.scores_table(folder)
    assert list(table.columns[:2]) == ["accuracy", "macro F1"]
    assert list(table.columns[-2:]) == ["F1 no", "F1 yes"]
    assert table.loc["last", "AUROC"] == pytest.approx(
        artifacts.read_result(folder)["scores"]["last"]["auroc"], abs=1e-4
    )
    run = open_run(config)
    landscape = Landscape.open(folder, run, texts=N)
    scores = line(landscape, "last", "averaged", np.array([0.0, 1.0]))
    expected = [run.errors(weights).mean() for weights in ("last", "averaged")]
    assert scores["held out"].tolist() == pytest.approx(expected, abs=1e-5)
    assert (landscape.metric.label, landscape.metric.higher_is_better) == ("Brier score", False)
