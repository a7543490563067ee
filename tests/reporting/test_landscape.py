"""The loss around weights, and the plots of it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from utils.reporting import weights as plots
from utils.reporting.landscape import (
    Landscape,
    _flat,
    growing_average,
    line,
    perturbed,
    plane,
    plane_points,
)
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks.metrics import Metric


def open_landscape(config, table, texts=64):
    folder = fit_fold(config, table)
    return Landscape.open(folder, open_run(config), texts), folder


@pytest.fixture
def landscape(tiny, tiny_table):
    return open_landscape(tiny(epochs=3, swa_every=1, lr=5e-3, snapshots=3), tiny_table, texts=100)


def test_the_points_score_what_the_fold_scored(landscape):
    """On all held-out texts: what result.json says."""
    landscape, folder = landscape
    for name, scores in artifacts.read_result(folder)["scores"].items():
        score = landscape.scores(landscape.points[name])["held out"]
        assert score == pytest.approx(scores["rmse"], abs=1e-5)
    assert landscape.snapshots == ["step-000004", "step-000006", "step-000009"]


def test_the_average_is_the_mean_of_its_snapshots(tiny, tiny_table):
    landscape, _ = open_landscape(tiny(epochs=3, swa_every=1, snapshots=99), tiny_table)
    assert len(landscape.snapshots) == 6
    mean = landscape.mixture(dict.fromkeys(landscape.snapshots, 1 / 6))
    for name, value in landscape.points["averaged"].items():
        torch.testing.assert_close(mean[name], value, rtol=1e-5, atol=1e-6)
    averages = growing_average(landscape)
    assert averages["averaged"].tolist() == [1, 2, 3, 4, 5, 6]
    score = landscape.scores(landscape.points["averaged"])["held out"]
    assert averages["held out"].iloc[-1] == pytest.approx(score, abs=1e-5)


def test_a_line_passes_through_its_ends(landscape):
    landscape, _ = landscape
    scores = line(landscape, "last", "averaged", np.array([0.0, 0.5, 1.0])).set_index("position")
    for position, name in {0.0: "last", 1.0: "averaged"}.items():
        score = landscape.scores(landscape.points[name])["train"]
        assert scores.loc[position, "train"] == pytest.approx(score)


def test_a_plane_is_orthonormal_and_passes_through_its_points(landscape, monkeypatch):
    landscape, _ = landscape
    names = plane_points(landscape)
    assert names == ("averaged", "step-000004", "step-000009")
    seen = []
    monkeypatch.setattr(
        Landscape, "scores", lambda self, weights: seen.append(_flat(weights)) or {"train": 0.0}
    )
    grid = plane(landscape, names, size=3, margin=0.0)
    corners = grid.attrs["points"]
    assert list(grid.attrs["trajectory"]) == landscape.snapshots
    for name in names[1:]:
        assert grid.attrs["trajectory"][name] == pytest.approx(corners[name], abs=1e-4)
    for point, weights in zip(grid[["x", "y"]].to_numpy(), seen, strict=True):
        for name in names:  # distances in the plane are distances in the space of weights
            distance = float((weights - _flat(landscape.points[name])).norm())
            assert distance == pytest.approx(np.hypot(*(point - corners[name])), rel=1e-3, abs=1e-4)


def test_points_on_one_line_are_no_plane(landscape):
    landscape, _ = landscape
    landscape.points = dict.fromkeys(("last", "best", "averaged"), landscape.points["last"])
    assert plane_points(landscape) is None


def test_a_perturbation_is_as_large_as_it_says_and_the_same_for_every_point(landscape, monkeypatch):
    landscape, _ = landscape
    seen = []
    monkeypatch.setattr(Landscape, "scores", lambda self, weights: seen.append(weights) or {"train": 0.0})
    rows = perturbed(landscape, "last", [0.0, 0.1], draws=2)
    assert rows["size"].tolist() == [0.0, 0.1, 0.0, 0.1]
    buffers = ("head.location", "head.scale")
    assert set(buffers) < set(landscape.points["last"])
    for name, value in landscape.points["last"].items():
        if name in buffers:
            assert torch.equal(seen[1][name], value)
        elif value.is_floating_point() and value.norm() > 0:
            assert torch.equal(seen[0][name], value)
            assert (seen[1][name] - value).norm() / value.norm() == pytest.approx(0.1, rel=1e-2)
    head = "head.linear.weight"
    assert not torch.equal(seen[1][head], seen[3][head])
    perturbed(landscape, "last", [0.1], draws=1)
    assert torch.equal(seen[1][head], seen[-1][head])


def test_every_plot_names_the_metric_and_the_points():
    metric, parts = Metric("accuracy", "accuracy", higher_is_better=True), {"train": 0.9, "held out": 0.8}
    axes = plots.plot_line(pd.DataFrame({"position": [0.0, 1.0], **parts}), "best", "averaged", metric).axes[
        0
    ]
    assert axes.get_ylabel() == "accuracy"
    assert [label.get_text() for label in axes.texts] == ["best epoch", "averaged"]
    grid = pd.DataFrame([{"x": x, "y": y, "train": x + y, "held out": x * y} for x in (0, 1) for y in (0, 1)])
    grid.attrs["points"] = {"averaged": (0, 0), "step-000004": (0, 1), "step-000020": (1, 0)}
    grid.attrs["trajectory"] = {"step-000004": (0, 1), "step-000010": (0.4, 0.4), "step-000020": (1, 0)}
    panels = plots.plot_plane(grid, metric).axes
    assert [panel.get_title(loc="left") for panel in panels[:2]] == [
        "accuracy on train texts",
        "accuracy on held-out texts",
    ]
    labels = panels[0].get_legend_handles_labels()[1]
    assert labels == ["all snapshots, in their order", "averaged", "step 4", "step 20"]
    assert len(panels) == 3, "one colour bar for both panels"
    draws = pd.DataFrame(
        [
            {"point": "last", "size": size, "draw": draw, "train": 0.9 - size, "held out": 0.8}
            for draw in (0, 1)
            for size in (0.0, 0.1)
        ]
    )
    axes = plots.plot_flatness(draws, metric).axes[0]
    assert axes.get_ylabel() == "change of accuracy"
    assert axes.lines[-1].get_ydata() == pytest.approx([0.0, -0.1])
    averages = pd.DataFrame({"averaged": [1, 2], **parts})
    assert plots.plot_growing_average(averages, metric).axes[0].get_ylabel() == "accuracy"
    plt.close("all")


@pytest.fixture
def models(tiny, tiny_table):
    """The averaged model of a fold with a pooling."""

    def train(pooling):
        folder = fit_fold(tiny(pooling=pooling, run=pooling, lr=5e-2), tiny_table)
        return {0: artifacts.load_model(folder / "averaged")[0]}

    yield train
    plt.close("all")


@pytest.mark.parametrize("pooling", ["cls_layers", "mean_layers"])
def test_the_shares_of_a_layer_pooling_are_drawn_with_those_before_training(pooling, models):
    trained = models(pooling)
    axes = plots.plot_layer_pooling(trained).axes[0]
    start = np.exp([-3.0, -3.0, 0.0])
    start /= start.sum()
    moved = trained[0].pooling.layer_weights.softmax(0).detach().numpy() - start
    assert axes.lines[1].get_ydata() == pytest.approx(100 * moved, rel=1e-3, abs=1e-4)
    assert np.abs(moved).max() > 1e-3, "training moved them"
    labels = [label.get_text().split("\n")[0] for label in axes.get_xticklabels()]
    assert labels == ["embeddings", "layer 0", "layer 1"], "as parameter groups are named"


@pytest.mark.parametrize("pooling", ["cls", "attention"])
def test_a_pooling_of_one_layer_has_no_shares_to_draw(pooling, models):
    assert plots.plot_layer_pooling(models(pooling)) is None


def test_formats_of_weights_are_compared_with_intervals(tiny, tiny_table):
    folders = {name: fit_fold(tiny(run=name, weight_format=name), tiny_table) for name in ("fp32", "bfp8")}
    run = open_run(tiny(run="fp32"))
    table = plots.compare_formats(folders, run.task, run.predictions.set_index("id")["group"])
    assert table[["format", "weights"]].to_numpy().tolist() == [
        ["fp32", "last"], ["fp32", "averaged"], ["bfp8", "last"], ["bfp8", "averaged"]
    ]  # fmt: skip
    result = artifacts.read_result(folders["bfp8"])["scores"]["averaged"]
    assert table["score"].iloc[-1] == pytest.approx(result["rmse"])
    assert (table["low"] < table["high"]).all()
    axes = plots.plot_low_precision(table, run.task.metric).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["weights in fp32", "weights in bfp8"]
    plt.close("all")


@pytest.mark.parametrize(
    ("rounded", "conclusion"),
    [
        ((0.6, 0.45), "they did no harm"),
        ((0.8, 0.55), "averaging recovered part of what rounding cost"),
        ((0.8, 0.8), "averaging recovered nothing of what rounding cost"),
    ],
)
def test_the_verdict_on_low_precision_follows_the_numbers(rounded, conclusion):
    exact, rounded = (pd.Series(pair, index=["last", "averaged"]) for pair in ((0.7, 0.5), rounded))
    sentence = plots.low_precision_verdict(exact, rounded, Metric("rmse", "RMSE"))
    change = rounded - exact
    expected = f"change the last RMSE by {change['last']:+.4f}, the averaged by {change['averaged']:+.4f}"
    assert expected in sentence
    assert conclusion in sentence
    higher = Metric("accuracy", "accuracy", higher_is_better=True)
    assert conclusion in plots.low_precision_verdict(1 - exact, 1 - rounded, higher)
