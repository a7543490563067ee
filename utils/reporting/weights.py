"""Plots of a fold's weights: the metric around them, the layers they pool, the bits they are held in."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import NullLocator

from utils.modeling.model import TextModel
from utils.modeling.pooling import Pooling
from utils.reporting.style import COLOURS, GREY, NAMES, ORANGE, PALETTE, PARTS, short_name
from utils.tasks.metrics import Metric

# --- the landscape -----------------------------------------------------------------------------------------


def plot_line(scores: pd.DataFrame, start: str, end: str, metric: Metric):
    """What ``landscape.line`` returns: the metric between two points, on training and held-out texts."""
    figure, axes = plt.subplots(figsize=(6.5, 3.2))
    for part, colour in PARTS.items():
        axes.plot(scores["position"], scores[part], "o-", color=colour, label=part)
    label = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "fontsize": 9}
    for x, weights in ((0, start), (1, end)):
        axes.axvline(x, color=GREY, linewidth=1, linestyle="--")
        axes.annotate(short_name(weights), (x, 1.0), color="#444444", **label)
    axes.set(xlabel="position on the line", ylabel=metric.axis)
    axes.legend()
    return figure


def plot_plane(scores: pd.DataFrame, metric: Metric):
    """What ``landscape.plane`` returns: a panel each for training and held-out texts."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    grid = [np.unique(scores[axis]) for axis in ("x", "y")]
    colours = "viridis" if metric.higher_is_better else "viridis_r"  # light is good
    for axes, part in zip(panels, PARTS, strict=True):
        heights = scores.pivot(index="y", columns="x", values=part).to_numpy()
        surface = axes.contourf(*grid, heights, levels=14, cmap=colours)
        axes.contour(*grid, heights, levels=14, colors="white", linewidths=0.4, alpha=0.5)
        for (point, (x, y)), marker in zip(scores.attrs["points"].items(), "*os", strict=True):
            look = {"color": ORANGE if point == "averaged" else "white", "markeredgecolor": "black"}
            size = 13 if marker == "*" else 8
            axes.plot(x, y, marker, markersize=size, label=short_name(point), **look)
        title = textwrap.fill(f"{metric.label} on {part} texts", 36)
        axes.set(title=title, xlabel="distance in weights")
        axes.set_aspect("equal", adjustable="box")
        axes.grid(visible=False)
        figure.colorbar(surface, ax=axes, shrink=0.85)
    panels[0].set(ylabel="distance in weights")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def plot_flatness(scores: pd.DataFrame, metric: Metric):
    """What ``landscape.perturbed`` returns for several points: mean and range over the draws, by size."""
    figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.2), sharey=True)
    for axes, part in zip(panels, PARTS, strict=True):
        for point, rows in scores.groupby("point", sort=False):
            by_size = rows.groupby("size")[part].agg(["mean", "min", "max"])
            axes.plot(by_size.index, by_size["mean"], "o-", color=COLOURS[point], label=NAMES[point])
            axes.fill_between(by_size.index, by_size["min"], by_size["max"], color=COLOURS[point], alpha=0.15)
        axes.set(title=f"On {part} texts", xlabel="step, as a share of each tensor's norm")
    panels[0].set(ylabel=metric.axis)
    panels[1].legend(fontsize=8)
    return figure


def plot_growing_average(scores: pd.DataFrame, metric: Metric):
    """What ``landscape.growing_average`` returns: the metric of the mean of the first 1, 2, ... snapshots."""
    figure, axes = plt.subplots(figsize=(5.5, 3))
    for part, colour in PARTS.items():
        axes.plot(scores["averaged"], scores[part], "o-", color=colour, label=part)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title="The mean of the first snapshots", xlabel="snapshots averaged", ylabel=metric.axis)
    axes.legend()
    return figure


# --- layers and low precision ------------------------------------------------------------------------------


def plot_layer_pooling(models: dict[int, TextModel]):
    """The learnt share of each layer in the pooled vector, by fold; None where only one layer is pooled."""
    shares = {fold: layer_shares(model, model.pooling) for fold, model in models.items()}
    if all(values.max() > 1 - 1e-6 for values in shares.values()):
        return None
    figure, axes = plt.subplots(figsize=(6.5, 2.8))
    for i, (fold, values) in enumerate(shares.items()):
        x = np.arange(len(values)) + (i - (len(shares) - 1) / 2) * 0.8 / len(shares)
        colour = PALETTE[i % len(PALETTE)]
        axes.bar(x, values, width=0.75 / len(shares), label=f"fold {fold}", color=colour)
    start = starting_shares(next(iter(models.values())))
    axes.plot(range(len(start)), start, "_", color="black", markersize=22, label="before training")
    axes.set_xticks(range(len(start)), ["embeddings", *range(1, len(start))])
    axes.set(title="How much each layer counts", xlabel="layer", ylabel="share", yscale="log")
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], ["2 %", "5 %", "10 %", "20 %", "50 %", "100 %"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@torch.no_grad()
def layer_shares(model: TextModel, pooling: Pooling) -> np.ndarray:
    """The share of each layer in what ``pooling`` makes of the model's states, (layers,), for a single token.

    In a pooling that weights layers as such, the shares are those of any text.
    """
    state, mask = torch.zeros(1, 1, model.config.encoder.hidden_size), torch.ones(1, 1)
    extras = {name: torch.zeros(1, 1) for name in pooling.extras}
    return pooling.weights((state,) * pooling.n_layers, mask, **extras)[0].sum(dim=-1).numpy()


def starting_shares(model: TextModel) -> np.ndarray:
    """The share of each layer before training, (layers,)."""
    fresh = type(model.pooling)(model.config.encoder.hidden_size, model.pooling.n_layers)
    fresh.initialize()
    return layer_shares(model, fresh)


def plot_low_precision(scores: pd.DataFrame, metric: Metric):
    """The metric of last and averaged weights (columns) for each format of the weights (rows)."""
    figure, axes = plt.subplots(figsize=(6, 3))
    for i, weights in enumerate(scores):
        x = np.arange(len(scores)) + (i - (len(scores.columns) - 1) / 2) * 0.36
        axes.bar(x, scores[weights], width=0.34, color=COLOURS[weights], label=NAMES[weights])
    axes.set_xticks(range(len(scores)), scores.index)
    axes.set(title="Weights held in few bits, averaged in float32", ylabel=f"held-out {metric.label}")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def low_precision_verdict(exact: pd.Series, rounded: pd.Series, metric: Metric) -> str:
    """What 8-bit weights did to the last and averaged scores, in a sentence.

    Args:
        exact, rounded: the scores of "last" and "averaged" weights that were held in 32 and in 8 bits.
    """
    change = rounded - exact
    loss = {weights: metric.gain(exact[weights], rounded[weights]) for weights in ("last", "averaged")}
    if loss["last"] <= 0:
        conclusion = "they did no harm that averaging could have repaired"
    elif loss["averaged"] < loss["last"]:
        conclusion = "averaging recovered part of what rounding cost"
    else:
        conclusion = "averaging recovered nothing of what rounding cost"
    return (
        f"8-bit weights change the last {metric.label} by {change['last']:+.4f}, the averaged by "
        f"{change['averaged']:+.4f}: on this fold, {conclusion}. One fold and one seed prove nothing."
    )
