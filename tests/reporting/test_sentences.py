"""Sentences that interpret results: each is tested with both outcomes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from utils.config import Config
from utils.reporting import machine, sentences
from utils.reporting.environment import Check
from utils.tasks.metrics import Metric

LOWER, HIGHER = Metric("rmse", "RMSE"), Metric("f1", "F1", higher_is_better=True)


def test_names_are_listed_as_in_a_sentence():
    assert [sentences.listed(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_the_machine_in_words():
    works, absent = Check("torch", "2", "works"), Check("Apex", "none", "absent", "build it")
    assert machine.machine_in_words([works, absent]) == (
        "Everything that the suite needs works here. Absent, and not needed: Apex."
    )
    broken = Check("MiniLM", "damaged", "broken", "install it")
    assert "**MiniLM** must be mended first" in machine.machine_in_words([works, broken])


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({"fp32": 10.0}, "trains in fp32 alone"),
        ({"fp32": 10.0, "bf16": 8.0}, "No lower precision was faster than fp32 here."),
        ({"fp32": 10.0, "bf16": 25.0}, "bf16 was fastest, at 2.50 times the speed of fp32"),
    ],
)
def test_precisions_in_words(speeds, expected):
    rows = [
        {"precision": name, "problem": "", "samples_per_second": speed, "loss": 0.5}
        for name, speed in speeds.items()
    ]
    assert expected in machine.precisions_in_words(pd.DataFrame(rows))


def test_the_choices_of_a_run_in_words():
    text = sentences.choices_in_words(Config.make("demo", optimizer="madgrad"))
    assert "pools with `mean_layers`, trains with `madgrad` at a peak rate of 7e-05" in text
    assert text.endswith("averages by SWA from epoch 2.")
    assert sentences.choices_in_words(Config.make("demo", averaging="none")).endswith("averages nothing.")


@pytest.mark.parametrize(
    ("averaged", "smooth", "end"),
    [([0.5, 0.49, 0.48], "smoother", "better"), ([0.9, 0.2, 0.9], "no smoother", "no better")],
)  # fmt: skip
def test_a_history_in_words(averaged, smooth, end):
    history = pd.DataFrame({"rmse": [0.9, 0.5, 0.7, 0.6], "averaged_rmse": [np.nan, *averaged]})
    text = sentences.history_in_words(history, LOWER)
    assert f"The averaged line is {smooth} than the raw one" in text
    assert f"{averaged[-1]:.4f}, {end} than the raw weights' 0.6000" in text
    assert sentences.history_in_words(history.iloc[:1], LOWER) == "Nothing was averaged in this run."
    assert sentences.history_in_words(history.iloc[:2], LOWER).startswith("At the last evaluation")


@pytest.mark.parametrize(("metric", "best", "beaten"), [(LOWER, 0.3, 0.6), (HIGHER, 0.6, 0.3)])
def test_baselines_in_words(metric, best, beaten):
    scores, name = {"last": {metric.name: 0.1}, "averaged": {metric.name: 0.45}}, metric.name
    ahead = {"mean": {name: beaten}, "counts": {name: best}}
    assert '**A baseline beats the transformer here**: "counts"' in sentences.baselines_in_words(
        scores, ahead, metric
    )
    behind = {"mean": {name: beaten}}
    text = sentences.baselines_in_words(scores, behind, metric)
    assert text.startswith('The averaged weights beat the best baseline, "mean"')
    assert sentences.baselines_in_words(scores, {}, metric) == ""


@pytest.mark.parametrize(("middle", "expected"), [(0.9, "a barrier of 0.3000"), (0.55, "no barrier")])
def test_a_barrier_in_words(middle, expected):
    line = pd.DataFrame({"position": [-0.5, 0, 0.5, 1, 1.5], "train": [1, 0.6, middle, 0.5, 0.8]})
    line["held out"] = 0.7
    text = sentences.line_in_words(line, "last", "averaged", LOWER)
    assert f"on train texts there is {expected}, and the best point is at 1" in text
    opposite = line.assign(train=-line["train"])
    assert expected in sentences.line_in_words(opposite, "last", "averaged", HIGHER)


def test_a_plane_in_words():
    grid = pd.DataFrame([{"x": x, "y": y} for x in (0.0, 1.0) for y in (0.0, 1.0)])
    grid["train"], grid["held out"] = [0.1, 0.5, 0.5, 0.9], [0.9, 0.5, 0.5, 0.1]
    grid.attrs["points"] = {"averaged": (0.0, 0.0), "last": (1.0, 1.0)}
    text = sentences.plane_in_words(grid, LOWER)
    assert (
        "0 from averaged on training texts, and 0 from last on held-out ones; the two are 1.4 apart" in text
    )
    assert "0 from last on training texts" in sentences.plane_in_words(grid, HIGHER)


@pytest.mark.parametrize(("metric", "sign"), [(LOWER, 1), (HIGHER, -1)])
@pytest.mark.parametrize("flattest", ["last", "averaged"])
def test_flatness_in_words(metric, sign, flattest):
    rows = []
    for point in ("last", "averaged"):
        rise = 0.1 if point == flattest else 0.3
        for size in (0.0, 0.15):
            score = 0.5 + sign * rise * (size > 0)
            rows.append({"point": point, "size": size, "draw": 0, "train": score, "held out": score})
    text = sentences.flatness_in_words(pd.DataFrame(rows), metric)
    assert f"on train texts **{flattest}** loses least" in text
    assert f"{flattest} 0.100" in text


@pytest.mark.parametrize(
    ("last", "expected"), [(0.4, "averaging them helped"), (0.6, "averaging them did not help")]
)
def test_growth_in_words(last, expected):
    averages = pd.DataFrame({"averaged": [1, 2], "train": 0.1, "held out": [0.5, last]})
    assert expected in sentences.growth_in_words(averages, LOWER)


def test_errors_in_words():
    run = SimpleNamespace(weights=["last"], config=Config.make("tiny"))
    errors = pd.DataFrame({"length": [10, 20, 70, 80], "last": [0.1, 0.2, 0.3, 0.4], "topic": list("aabb")})
    text = sentences.errors_in_words(run, errors, "topic")
    assert text.startswith("50% of the held-out texts are longer than 64 tokens")
    assert "a rank correlation of +1.00" in text
    assert text.endswith("The largest mean error is that of topic “b”.")
    assert "topic" not in sentences.errors_in_words(run, errors)


def test_pooling_in_words():
    shares = pd.DataFrame(
        {"fold 0": [0.25, 0.76], "before training": [0.2, 0.8]}, index=["layer 0", "layer 1"]
    )
    assert "+5.0 percentage points, of layer 0 in fold 0" in sentences.pooling_in_words(shares)
    assert "reads one layer" in sentences.pooling_in_words(None)


def test_a_flat_rate_in_words():
    plan = pd.DataFrame({"embeddings": [1e-5, 5e-6, 1e-4], "head": [4e-4, 2e-4, 1e-4]}, index=[0.0, 1.0, 2.0])
    text = sentences.flat_rate_in_words(plan, Config.make("demo", swa_start=2, swa_flat_lr=1e-4))
    assert "**embeddings** goes from 5.0e-06 when SWA takes over to 1.0e-04: 20.0 times that rate" in text
    assert "10.0 times its own peak. **head** ends at 0.25 times its peak" in text


def test_ensembles_in_words():
    table = pd.DataFrame({"ensemble": ["stacked", "mean"], "score": [0.40, 0.41]})
    text = sentences.ensembles_in_words(table, "mean", LOWER)
    assert (
        "**stacked** scores best over held-out texts, 0.0100 in RMSE ahead of mean; mean is submitted" in text
    )
    assert "one way" in sentences.ensembles_in_words(table.iloc[:1], "stacked", LOWER)


def test_the_best_baseline_of_each_fold_in_words(monkeypatch):
    results = {0: {"mean": {"rmse": 1.0}, "counts": {"rmse": 0.3}}, 4: {"mean": {"rmse": 1.1}}}
    monkeypatch.setattr(sentences, "read_result", lambda fold: {"baselines": results[fold]})
    run = SimpleNamespace(task=SimpleNamespace(metric=LOWER), folders={0: 0, 4: 4})
    text = sentences.fold_baselines_in_words(run)
    assert text.endswith("the best RMSE is 0.3000 on fold 0 (counts) and 1.1000 on fold 4 (mean).")
    results.update({0: {}, 4: {}})
    assert sentences.fold_baselines_in_words(run) == ""


def test_agreement_in_words():
    task = SimpleNamespace(metric=LOWER)
    text = sentences.agreement_in_words(np.array([[[0.0]], [[1.0]]]), task, [0, 3], 0.5)
    assert "the predictions of 2 folds' models have a standard deviation of 0.707" in text
    assert sentences.agreement_in_words(np.zeros((1, 1, 1)), task, [0], 0.5).startswith("One fold's model")
