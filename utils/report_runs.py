"""Tables and plots across the folds of a run: what averaging did, what a submission rests on."""

import textwrap
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.ticker import NullLocator

from utils import checkpoint
from utils.folds import Run
from utils.model import TextRegressor
from utils.report import BLUE, GREEN, GREY, NAMES, ORANGE, PURPLE

COLOURS = {"last": BLUE, "best": GREEN, "swa": ORANGE}

# --- weights compared --------------------------------------------------------------------------------------------


def weights_table(comparison: pd.DataFrame):
    """A row a fold and kind of weights: RMSE with its interval, the other scores, and p against the averaged ones."""
    table = pd.DataFrame(
        {
            "RMSE": comparison["rmse"].map("{:.4f}".format),
            "95 % interval": [
                "" if np.isnan(low) else f"{low:.3f} to {high:.3f}"
                for low, high in zip(comparison["low"], comparison["high"], strict=True)
            ],
            "R²": comparison["r2"].map("{:.3f}".format),
            "Spearman": comparison["spearman"].map("{:.3f}".format),
            "mean RMSE of batches of 4": comparison["batch_rmse"].map("{:.4f}".format),
            "p against averaged": comparison["p"].map(lambda p: "" if np.isnan(p) else f"{p:.3f}"),
        }
    )
    table.index = pd.MultiIndex.from_arrays(
        [comparison["fold"], comparison["weights"].map(NAMES)], names=["fold", "weights"]
    )
    return table


def plot_weights(comparison: pd.DataFrame):
    """RMSE of last, best and averaged weights with 95 % bootstrap intervals, by fold and over all."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    folds = list(dict.fromkeys(comparison["fold"]))
    kinds = [kind for kind in checkpoint.KINDS if kind in set(comparison["weights"])]
    for i, kind in enumerate(kinds):
        rows = comparison[comparison["weights"] == kind]
        places = np.array([folds.index(fold) for fold in rows["fold"]]) + (i - (len(kinds) - 1) / 2) * 0.2
        spread = [rows["rmse"] - rows["low"], rows["high"] - rows["rmse"]]
        axes.errorbar(places, rows["rmse"], yerr=spread, fmt="o", color=COLOURS[kind], capsize=3, label=NAMES[kind])
    axes.set_xticks(range(len(folds)), [f"fold {fold}" if fold != "all" else "all folds" for fold in folds])
    axes.set(title="Held-out RMSE, with 95 % bootstrap intervals", ylabel="RMSE (target's units)")
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


# --- landscapes --------------------------------------------------------------------------------------------------


def plot_line(found: pd.DataFrame, start: str, end: str):
    """RMSE along the line between two points, on training and held-out texts."""
    figure, axes = plt.subplots(figsize=(6.5, 3.2))
    for part, colour in (("train", BLUE), ("held out", ORANGE)):
        axes.plot(found["position"], found[part], "o-", color=colour, label=part)
    for place, name in ((0, start), (1, end)):
        axes.axvline(place, color=GREY, linewidth=1, linestyle="--")
        axes.annotate(NAMES[name].split(" (")[0], (place, 1.0), xycoords=("data", "axes fraction"), ha="center",
                      va="bottom", fontsize=9, color="#444444")  # fmt: skip
    axes.set(xlabel="position on the line", ylabel="RMSE (target's units)")
    axes.legend()
    return figure


def plot_plane(found: pd.DataFrame):
    """RMSE in a plane of the space of weights, training and held-out texts side by side, with its three points."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    grid = [np.unique(found[axis]) for axis in ("x", "y")]
    for axes, part in zip(panels, ("train", "held out"), strict=True):
        heights = found.pivot(index="y", columns="x", values=part).to_numpy()
        drawn = axes.contourf(*grid, heights, levels=14, cmap="viridis_r")
        axes.contour(*grid, heights, levels=14, colors="white", linewidths=0.4, alpha=0.5)
        for (name, (x, y)), marker in zip(found.attrs["points"].items(), "*os", strict=True):
            label = (NAMES[name] if name in NAMES else f"step {int(name.removeprefix('step-'))}").split(" (")[0]
            axes.plot(x, y, marker, color=ORANGE if name == "swa" else "white", markeredgecolor="black",
                      markersize=13 if marker == "*" else 8, label=label)  # fmt: skip
        axes.set(title=f"RMSE on {part} texts", xlabel="distance in weights")
        axes.set_aspect("equal", adjustable="box")
        axes.grid(visible=False)
        figure.colorbar(drawn, ax=axes, shrink=0.85)
    panels[0].set(ylabel="distance in weights")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def plot_flatness(found: pd.DataFrame):
    """How much the RMSE rises under random perturbation of growing size: mean and range over the draws."""
    figure, panels = plt.subplots(1, 2, figsize=(8.5, 3.2), sharey=True)
    for axes, part in zip(panels, ("train", "held out"), strict=True):
        for point, rows in found.groupby("point", sort=False):
            by_size = rows.groupby("size")[part]
            axes.plot(by_size.mean().index, by_size.mean(), "o-", color=COLOURS[point], label=NAMES[point])
            axes.fill_between(by_size.min().index, by_size.min(), by_size.max(), color=COLOURS[point], alpha=0.15)
        axes.set(title=f"On {part} texts", xlabel="step, as a share of each tensor's norm")
    panels[0].set(ylabel="RMSE (target's units)")
    panels[1].legend(fontsize=8)
    return figure


def plot_growing_average(found: pd.DataFrame):
    """RMSE of the mean of the first 1, 2, ... snapshots."""
    figure, axes = plt.subplots(figsize=(5.5, 3))
    for part, colour in (("train", BLUE), ("held out", ORANGE)):
        axes.plot(found["averaged"], found[part], "o-", color=colour, label=part)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title="The mean of the first snapshots", xlabel="snapshots averaged", ylabel="RMSE (target's units)")
    axes.legend()
    return figure


# --- errors ------------------------------------------------------------------------------------------------------


def errors_table(run: Run, lengths: pd.Series, by: str = "") -> pd.DataFrame:
    """The texts with the error of each kind of weights (mean over the targets), and what it may depend on.

    Args:
        lengths: tokens of each text, by id.
        by: a column of the table, such as the licence or topic.
    """
    table = run.table.set_index(run.config.id_column)
    found = pd.DataFrame({"id": run.predictions["id"], "fold": run.predictions["fold"]})
    found["target"], found["predicted"] = run.values("target").mean(axis=1), run.values(run.kinds[-1]).mean(axis=1)
    for kind in run.kinds:
        found[kind] = run.squared_errors(kind).mean(axis=1)
    found["length"] = found["id"].map(lengths)
    found["text"] = found["id"].map(table[run.config.text_column])
    if by:
        found[by] = found["id"].map(table[by]).replace("", "none given").astype(str)
    return found


def plot_errors(errors: pd.DataFrame, kinds: list[str], by: str = ""):
    """RMSE by length, by the target's decile and by category; residuals against the target."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.2))
    fifths = pd.qcut(errors["length"].rank(method="first"), 5, labels=False)
    lengths = errors["length"].groupby(fifths).transform("max")
    deciles = pd.qcut(errors["target"].rank(method="first"), 10, labels=range(1, 11))
    _grouped(panels[0, 0], errors, kinds, lengths.rename(None), "Length, in tokens up to")
    _grouped(panels[0, 1], errors, kinds, deciles, "Decile of the target (1: lowest)")
    if by:
        common = errors[by].value_counts().index[:6]
        shown = errors[errors[by].isin(common)]
        labels = shown[by].map(lambda value: textwrap.shorten(value, 18, placeholder="…"))
        _grouped(panels[1, 0], shown, kinds, labels, f"{by}, the {len(common)} most frequent")
        panels[1, 0].tick_params(axis="x", rotation=25)
    else:
        panels[1, 0].remove()
    residuals = panels[1, 1]
    residuals.axhline(0, color=GREY, linewidth=1)
    residuals.scatter(errors["target"], errors["predicted"] - errors["target"], s=12, alpha=0.5, color=BLUE,
                      edgecolor="none")  # fmt: skip
    residuals.set(title=f"Residuals, {NAMES[kinds[-1]]} weights", xlabel="target", ylabel="predicted − target")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _grouped(axes, errors: pd.DataFrame, kinds: list[str], groups: pd.Series, title: str) -> None:
    """Bars of the RMSE of each group, side by side by kind."""
    rmse = np.sqrt(errors.groupby(groups, observed=True, sort=groups.dtype != object)[kinds].mean())
    for i, kind in enumerate(kinds):
        places = np.arange(len(rmse)) + (i - (len(kinds) - 1) / 2) * 0.27
        axes.bar(places, rmse[kind], width=0.25, color=COLOURS[kind], label=NAMES[kind])
    axes.set_xticks(range(len(rmse)), rmse.index, fontsize=8)
    axes.set(title=title, ylabel="RMSE")
    axes.grid(axis="x", visible=False)


def plot_layer_pooling(models: dict[int, TextRegressor]):
    """The learnt share of each layer in the pooled vector, by fold; None where the pooling has no such weights."""
    shares = {fold: model.layer_weights.softmax(0).tolist() for fold, model in models.items()
              if hasattr(model, "layer_weights")}  # fmt: skip
    if not shares:
        return None
    figure, axes = plt.subplots(figsize=(6.5, 2.8))
    for i, (fold, values) in enumerate(shares.items()):
        places = np.arange(len(values)) + (i - (len(shares) - 1) / 2) * 0.8 / len(shares)
        axes.bar(places, values, width=0.75 / len(shares), label=f"fold {fold}",
                 color=[BLUE, ORANGE, GREEN, PURPLE, GREY][i % 5])  # fmt: skip
    start = starting_shares(len(values))
    axes.plot(range(len(values)), start, "_", color="black", markersize=22, label="before training")
    axes.set_xticks(range(len(values)), ["embeddings", *range(1, len(values))])
    axes.set(title="How much each layer counts", xlabel="layer", ylabel="share", yscale="log")
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], ["2 %", "5 %", "10 %", "20 %", "50 %", "100 %"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def starting_shares(layers: int) -> np.ndarray:
    """The shares that the weights -3, ..., -3, 0 stand for."""
    powers = np.exp(np.r_[np.full(layers - 1, -3.0), 0.0])
    return powers / powers.sum()


def disagreements(run: Run, errors: pd.DataFrame, n: int = 4) -> Markdown:
    """The texts that last and averaged weights score most differently, as text."""
    gap = np.abs(run.values("swa") - run.values("last")).mean(axis=1)
    blocks = []
    for i in np.argsort(-gap)[:n]:
        values = {kind: run.values(kind)[i].mean() for kind in ("target", "last", "swa")}
        blocks.append(
            f"**{errors['id'].iloc[i]}** (fold {errors['fold'].iloc[i]}): target {values['target']:.2f}, last "
            f"{values['last']:.2f}, averaged {values['swa']:.2f}\n"
            f"> {textwrap.shorten(errors['text'].iloc[i], 300, placeholder=' …')}"
        )
    return Markdown("\n\n".join(blocks))


def plot_low_precision(scores: pd.DataFrame):
    """RMSE of last and averaged weights for each format that the weights were held in (a row each)."""
    figure, axes = plt.subplots(figsize=(6, 3))
    for i, kind in enumerate(("last", "swa")):
        axes.bar(np.arange(len(scores)) + (i - 0.5) * 0.36, scores[kind], width=0.34, color=COLOURS[kind],
                 label=NAMES[kind])  # fmt: skip
    axes.set_xticks(range(len(scores)), scores.index)
    axes.set(title="Weights held in few bits, averaged in float32", ylabel="held-out RMSE")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


# --- the submission ----------------------------------------------------------------------------------------------


def plot_agreement(scores: np.ndarray, folds: list[int]):
    """How far the folds' models agree on the test set, (folds, rows): each against their mean, and the spread."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
    mean = scores.mean(axis=0)
    ends = [scores.min(), scores.max()]
    left.plot(ends, ends, color=GREY, linewidth=1)
    for fold, values, colour in zip(folds, scores, cycle([BLUE, ORANGE, GREEN, PURPLE, GREY]), strict=False):
        left.scatter(mean, values, s=16, alpha=0.7, color=colour, edgecolor="none", label=f"fold {fold}")
    left.set(title="Each fold against the mean", xlabel="mean of the folds", ylabel="one fold")
    left.legend(fontsize=8)
    right.hist(scores.std(axis=0, ddof=1) if len(scores) > 1 else np.zeros(len(mean)), bins=15, color=BLUE)
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set(title="Spread of the folds on each text", xlabel="standard deviation", ylabel="texts")
    return figure
