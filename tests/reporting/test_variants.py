"""What the tours show of their variants."""

import numpy as np
import pandas as pd
import pytest

from tests.tasks.helpers import make_run
from utils.modeling.classification import CrossEntropyLoss, FocalLoss
from utils.reporting import variants
from utils.runs.grades import compare_grades
from utils.runs.thresholds import compare_cuts
from utils.runs.variants import compare_variants
from utils.tasks.metrics import Metric

ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True)


@pytest.mark.parametrize(
    ("low", "high", "gain", "words"),
    [
        (-0.1, 0.2, 0.05, "cannot be told from the first here"),
        (0.01, 0.2, 0.1, "is better than the first"),
        (-0.2, -0.01, -0.1, "is worse than the first"),
        (np.nan, np.nan, 0.1, "cannot be told from the first here"),
    ],
)
def test_a_variant_is_better_only_beyond_its_interval(low, high, gain, words):
    row = pd.Series({"variant": "new", "score": 0.8, "gain": gain, "gain_low": low, "gain_high": high})
    sentence = variants.difference_in_words(row, ACCURACY, "the first")
    assert words in sentence
    assert f"a gain of {gain:+.3f}" in sentence


def test_variants_are_tabled_and_drawn():
    comparison = compare_variants({"one": make_run("ordinal", 4), "two": make_run("ordinal", 4, seed=1)})
    metric = make_run("ordinal", 4).task.metric
    table = variants.variants_table(comparison, metric)
    assert table.index.tolist() == ["one", "two"]
    assert table.iloc[0].tolist()[2:] == ["", "", ""], "the first is compared with itself"
    figure = variants.plot_variants(comparison, metric)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one", "two"]
    grades = variants.grades_table(compare_grades({"one": make_run("ordinal", 4)}))
    assert float(grades["QWK, rounded"].iloc[0]) == pytest.approx(comparison["score"][0], abs=5e-4)


def test_fitted_cuts_are_told_with_what_they_would_have_claimed():
    run = make_run("binary", 2)
    comparison = compare_cuts(run, "averaged")
    table = variants.cuts_table(comparison, run.task.label_metric)
    assert table["change"].iloc[0] == "+0.0000"
    sentence = variants.cuts_in_words(comparison, run.task.label_metric)
    honest, claimed = comparison["score"][1:] - comparison["score"][0]
    assert f"by {honest:+.3f}" in sentence
    assert f"claimed {claimed:+.3f}" in sentence
    scores = run.task.place_on_line(run.values("averaged"))
    figure = variants.plot_cuts(
        scores, run.targets[:, 0], np.array([0.3]), ("no", "yes"), run.task.usual_cuts(2)
    )
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "usual cuts",
        "fitted cuts",
    ]


def test_losses_are_drawn_as_they_are_computed():
    losses = {"cross-entropy": CrossEntropyLoss([2]), "focal": FocalLoss([2])}
    left, right = variants.plot_losses(losses).axes
    probability, loss = left.get_lines()[0].get_data()
    np.testing.assert_allclose(loss, -np.log(probability), rtol=1e-4)
    _, slopes = right.get_lines()[0].get_data()
    np.testing.assert_allclose(slopes, probability - 1, rtol=1e-4, atol=1e-5)
