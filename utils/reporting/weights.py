"""Plots of a fold's weights: the metric around them, the layers they pool, the bits they are held in."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.interpolate import RectBivariateSpline

from utils.modeling.model import TextModel
from utils.modeling.pooling import Pooling
from utils.reporting.style import COLOURS, GREY, NAMES, ORANGE, PALETTE, PARTS, short_name
from utils.runs import artifacts
from utils.tasks import Task
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
    title = f"Along the straight line from {short_name(start)} (0) to {short_name(end)} (1)"
    axes.set(xlabel="position on the line", ylabel=metric.axis)
    axes.set_title(title, pad=18)
    axes.legend()
    return figure


def plot_plane(scores: pd.DataFrame, metric: Metric):
    """What ``landscape.plane`` returns: a panel each for training and held-out texts, on one scale."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True)
    colours = "viridis" if metric.higher_is_better else "viridis_r"  # light is good
    measured = scores[list(PARTS)].to_numpy()
    levels = np.linspace(measured.min(), measured.max() + 1e-9, 17)
    trajectory = np.array(list(scores.attrs["trajectory"].values()))
    for axes, part in zip(panels, PARTS, strict=True):
        grid, heights = _smooth(scores.pivot(index="y", columns="x", values=part))
        surface = axes.contourf(*grid, heights.clip(levels[0], levels[-1]), levels=levels, cmap=colours)
        axes.contour(*grid, heights, levels=levels, colors="white", linewidths=0.4, alpha=0.5)
        axes.plot(*trajectory.T, ".-", color="black", linewidth=0.8, label="all snapshots, in their order")
        for (point, (x, y)), marker in zip(scores.attrs["points"].items(), "*os", strict=True):
            look = {"color": ORANGE if point == "averaged" else "white", "markeredgecolor": "black"}
            size = 13 if marker == "*" else 8
            axes.plot(x, y, marker, markersize=size, label=short_name(point), **look)
        title = textwrap.fill(f"{metric.label} on {part.replace(' ', '-')} texts", 36)
        axes.set(title=title, xlabel="distance in weights")
        axes.set_aspect("equal", adjustable="box")
        axes.grid(visible=False)
    figure.colorbar(surface, ax=panels, shrink=0.85, label=metric.axis, format="%.2f")
    panels[0].set(ylabel="distance in weights")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _smooth(table: pd.DataFrame, points: int = 121):
    """A cubic spline through what was measured on a grid: its own grid, and its heights."""
    x, y, degree = table.columns.to_numpy(), table.index.to_numpy(), min(3, len(table) - 1)
    fine = np.linspace(x[0], x[-1], points), np.linspace(y[0], y[-1], points)
    spline = RectBivariateSpline(y, x, table.to_numpy(), kx=degree, ky=degree)
    return fine, spline(fine[1], fine[0])


def plot_flatness(scores: pd.DataFrame, metric: Metric):
    """What ``landscape.perturbed`` returns for several points: how far each score moves from its start.

    A thin line is a draw, a thick one their mean.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
    changes = changes_by_size(scores)
    for axes, part in zip(panels, PARTS, strict=True):
        for point, rows in changes.groupby("point", sort=False):
            by_draw = rows.pivot_table(index="size", columns="draw", values=part)
            axes.plot(by_draw.index, by_draw, color=COLOURS[point], linewidth=0.7, alpha=0.5)
            look = {"color": COLOURS[point], "linewidth": 2, "label": NAMES[point]}
            axes.plot(by_draw.index, by_draw.mean(axis=1), "o-", **look)
        axes.set(title=f"On {part.replace(' ', '-')} texts", xlabel="step, as a share of each tensor's norm")
    panels[0].set(ylabel=f"change of {metric.label}")
    panels[1].legend(fontsize=8)
    return figure


def changes_by_size(scores: pd.DataFrame) -> pd.DataFrame:
    """``landscape.perturbed``'s scores less what each point scores before any step."""
    start = scores[scores["size"] == 0].groupby("point", sort=False)[list(PARTS)].first()
    changes = scores[list(PARTS)] - start.loc[scores["point"]].to_numpy()
    return scores.assign(**{part: changes[part] for part in PARTS})


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
    """How far training moved each layer's share, by fold; None where only one layer is pooled."""
    shares = pooled_shares(models)
    if shares is None:
        return None
    figure, axes = plt.subplots(figsize=(6.5, 3))
    points = 100 * shares.drop(columns="before training").sub(shares["before training"], axis=0)
    axes.axhline(0, color=GREY, linewidth=1)
    for i, fold in enumerate(points):
        x = np.arange(len(points)) + (i - (points.shape[1] - 1) / 2) * 0.5 / points.shape[1]
        look = {"color": PALETTE[i % len(PALETTE)], "linestyle": "none", "label": fold}
        axes.plot(x, points[fold], "o", **look)
    ticks = [f"{layer}\n{share:.1%}" for layer, share in shares["before training"].items()]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axes.set(title="How training moved each layer's share", xlabel="layer, and its share before training")
    axes.set_ylabel("change, percentage points")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def pooled_shares(models: dict[int, TextModel]) -> pd.DataFrame | None:
    """The share of each layer (down) in each fold's pooled vector, and before training; None of one layer."""
    shares = {f"fold {fold}": layer_shares(model, model.pooling) for fold, model in models.items()}
    if all(values.max() > 1 - 1e-6 for values in shares.values()):
        return None
    shares |= {"before training": starting_shares(next(iter(models.values())))}
    names = ["embeddings", *(f"layer {number}" for number in range(len(shares["before training"]) - 1))]
    return pd.DataFrame(shares, index=names)


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
    """What ``compare_formats`` returns: the metric of last and averaged weights with 95 % intervals."""
    figure, axes = plt.subplots(figsize=(7, 3.2))
    formats = list(scores["format"].unique())
    for i, (weights, rows) in enumerate(scores.groupby("weights", sort=False)):
        x = [formats.index(name) + (i - 0.5) * 0.16 for name in rows["format"]]
        spread = np.clip([rows["score"] - rows["low"], rows["high"] - rows["score"]], 0, None)
        look = {"fmt": "o", "capsize": 3, "color": COLOURS[weights], "label": NAMES[weights]}
        axes.errorbar(x, rows["score"], yerr=spread, **look)
    axes.set_xticks(range(len(formats)), [f"weights in {name}" for name in formats])
    axes.set_xlim(-0.5, len(formats) - 0.5)
    title = f"Held-out {metric.label} with 95 % bootstrap intervals, one fold and seed"
    axes.set(title=title, ylabel=metric.axis)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def compare_formats(folders: dict[str, Path], task: Task, groups: pd.Series) -> pd.DataFrame:
    """The metric of last and averaged weights, with its interval, for each format that weights were held in.

    Args:
        folders: a fold trained in each format, by the format's name.
        groups: of the rows, by id; those of one group are drawn together.
    """
    rows = []
    for name, folder in folders.items():
        predictions = artifacts.read_predictions(folder)
        targets = task.values(predictions, "target")
        for weights in ("last", "averaged"):
            if task.has(predictions, weights):
                values = task.values(predictions, weights)
                low, high = task.interval(targets, values, groups.loc[predictions["id"]].to_numpy())
                score = {"score": task.score(targets, values), "low": low, "high": high}
                rows.append({"format": name, "weights": weights, **score})
    return pd.DataFrame(rows)


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
