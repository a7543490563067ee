"""Drawings of classes and their probabilities, each on axes that it is given."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from scipy.stats import binomtest

from utils.reporting.style import BLUE, GREEN, GREY, ORANGE, shortened
from utils.tasks.class_scores import confusion

MOST_CLASSES = 20  # that a plot or a table shows
_MOST_NUMBERS = 8  # classes with which a confusion matrix has its counts written in it
_SHARES = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", BLUE])


def most_frequent(counts: np.ndarray) -> np.ndarray:
    """The numbers of the most frequent classes, in the order of the classes."""
    return np.sort(np.argsort(-counts, kind="stable")[:MOST_CLASSES])


def draw_counts(axes, names: Sequence[str], counts: np.ndarray, shares: np.ndarray) -> None:
    """Bars of how many texts have each label, with their share of the texts."""
    bars = axes.barh(shortened(names), counts, color=BLUE)
    axes.bar_label(bars, [f"{count:.0f} ({share:.0%})" for count, share in zip(counts, shares, strict=True)],
                   fontsize=8, padding=3)  # fmt: skip
    axes.set(xlabel="texts", xlim=(0, 1.25 * counts.max()))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def draw_stacked(axes, names: Sequence[str], counts: dict[str, np.ndarray]) -> None:
    """A bar per name, made of the counts, whose numbers are written in it."""
    left = np.zeros(len(names))
    for (label, values), colour in zip(counts.items(), (BLUE, GREY, ORANGE), strict=False):
        bars = axes.barh(shortened(names), values, left=left, color=colour, label=label)
        axes.bar_label(
            bars, [f"{n}" if n else "" for n in values], label_type="center", color="white", fontsize=8
        )
        left += values
    axes.set(xlabel="texts")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def draw_confusion(
    axes,
    codes: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str],
    title: str,
    before: np.ndarray | None = None,
) -> None:
    """How many texts of each class, down, are predicted as each, across, coloured by the share of the row.

    The rarest of many classes are pooled.

    Args:
        codes, predicted: (rows,).
        before: (rows,), what the last weights predicted: what changed is written in brackets.
    """
    shown = most_frequent(np.bincount(codes, minlength=len(names)))
    place = np.full(len(names), len(shown))
    place[shown] = np.arange(len(shown))
    names = [names[i] for i in shown] + ["others"] * (len(shown) < len(names))
    table = confusion(place[codes], place[predicted], len(names))
    change = table - (table if before is None else confusion(place[codes], place[before], len(names)))
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=_SHARES, vmin=0, vmax=1)
    written = np.argwhere(table + abs(change)) if len(table) <= _MOST_NUMBERS else []
    for row, column in written:
        changed = f"\n({change[row, column]:+d})" if change[row, column] else ""
        look = {"fontsize": 8, "color": "white" if shares[row, column] > 0.55 else "black"}
        axes.text(column, row, f"{table[row, column]}{changed}", ha="center", va="center", **look)
    upright, size = 90 if len(names) > 3 and max(map(len, names)) > 3 else 0, 8 if len(names) <= 12 else 6
    axes.set_xticks(range(len(names)), shortened(names), rotation=upright, fontsize=size)
    axes.set_yticks(range(len(names)), shortened(names), fontsize=size)
    title += " (against last)" if before is not None and len(table) <= _MOST_NUMBERS else ""
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.grid(visible=False)


def draw_grades(axes, codes: np.ndarray, grades: np.ndarray, names: Sequence[str]) -> None:
    """Expected grades against the true ones, both counted from 0, and their mean for each true grade."""
    axes.plot([0, len(names) - 1], [0, len(names) - 1], color=GREY, linewidth=1, label="perfect")
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(codes))  # or equal grades hide each other
    axes.scatter(codes + jitter, grades, s=12, alpha=0.5, color=BLUE, edgecolor="none")
    means = pd.Series(grades).groupby(codes).mean()
    axes.plot(means.index, means, "_", color=ORANGE, markersize=16, markeredgewidth=2.5, label="mean")
    ticks = slice(0, len(names), 1 + len(names) // 12)
    axes.set_xticks(range(len(names))[ticks], shortened(names)[ticks], fontsize=8)
    axes.set_yticks(range(len(names))[ticks], shortened(names)[ticks], fontsize=8)
    axes.set(title="Expected grade", xlabel="true", ylabel="expected")
    axes.legend(fontsize=8, loc="upper left")


def draw_true_probabilities(axes, shares: np.ndarray, right: np.ndarray) -> None:
    """A histogram of the probabilities that the true labels were given, by whether these were predicted."""
    look = {"stacked": True, "color": [BLUE, ORANGE], "label": ["right", "wrong"]}
    axes.hist([shares[right], shares[~right]], bins=np.linspace(0, 1, 21), **look)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(title="Probability of the true label", xlabel="probability", ylabel="texts", xlim=(0, 1))
    axes.legend(fontsize=8)


# --- calibration -------------------------------------------------------------------------------------------


def calibration(shares: np.ndarray, outcomes: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """A row per tenth of the probabilities that occurs.

    Args:
        shares: (rows,), probabilities.
        outcomes: (rows,), whether what was given that probability came true.

    Returns:
        Columns count, probability (the mean), share (of outcomes that came true) and variance (the mean of
        p (1 - p)). The index is the bin's number.
    """
    bins = np.minimum((shares * n_bins).astype(int), n_bins - 1)
    columns = {"probability": shares, "share": outcomes.astype(float), "variance": shares * (1 - shares)}
    by_bin = pd.DataFrame(columns).groupby(bins)
    return by_bin.mean().assign(count=by_bin.size())


def calibration_error(bins: pd.DataFrame) -> tuple[float, float]:
    """The expected calibration error of ``calibration``'s bins, and what it would be of true probabilities.

    The first is the mean distance of share and probability. With few texts it is more than 0 by chance alone:
    by the second, that of a normal share with the bin's own variance.
    """
    weights = bins["count"] / bins["count"].sum()
    by_chance = np.sqrt(2 / np.pi * bins["variance"] / bins["count"])
    return float(weights @ (bins["share"] - bins["probability"]).abs()), float(weights @ by_chance)


def draw_reliability(axes, shares: np.ndarray, outcomes: np.ndarray, name: str) -> None:
    """How often what was given a probability came true, with 95 % intervals, and how many texts that was.

    ``name``: of what the probabilities are.
    """
    bins = calibration(shares, outcomes)
    counts = axes.twinx()
    bars = counts.bar((bins.index + 0.5) / 10, bins["count"], width=0.09, color=GREY, alpha=0.3)
    counts.bar_label(bars, fontsize=7, color="#555555")
    counts.set_ylim(0, 6.5 * bins["count"].max())  # below the axis of the shares, which begins at -0.3
    counts.axis("off")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    came_true = (bins["share"] * bins["count"]).round().astype(int)
    pairs = zip(came_true, bins["count"], strict=True)
    limits = np.array([binomtest(k, n).proportion_ci(method="wilson") for k, n in pairs]).T
    spread = np.clip([bins["share"] - limits[0], limits[1] - bins["share"]], 0, None)
    look = {"fmt": "o", "color": GREEN, "capsize": 2, "markersize": 5}
    axes.errorbar(bins["probability"], bins["share"], yerr=spread, **look)
    error, by_chance = calibration_error(bins)
    axes.set(xlabel=f"probability of {shortened([name], 20)[0]}", ylabel="share that is true")
    axes.set(xlim=(0, 1), ylim=(-0.3, 1.03), yticks=np.linspace(0, 1, 6))
    axes.set_title(f"Calibration error {error:.3f}\n({by_chance:.3f} by chance alone)")


# --- folds -------------------------------------------------------------------------------------------------


def draw_votes(axes, votes: np.ndarray, n_folds: int, what: str) -> None:
    """How many of ``what`` so many folds agree with, from those numbers of folds, (labels,)."""
    counts = np.bincount(votes, minlength=n_folds + 1)
    bars = axes.bar(range(n_folds + 1), counts, color=BLUE)
    axes.bar_label(bars, [f"{count}" if count else "" for count in counts], fontsize=8)
    axes.set_xticks(range(n_folds + 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(title="Folds that give the label of their mean", xlabel="folds", ylabel=what)
    axes.grid(axis="x", visible=False)
