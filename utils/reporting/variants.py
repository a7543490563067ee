"""Tables, plots and sentences for the tours, which train the same folds in several ways."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from utils.modeling.classification import ClassLoss
from utils.reporting.style import BLUE, GREY, ORANGE, PALETTE, literal
from utils.tasks.metrics import Metric


def variants_table(comparison: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """``compare_variants`` for reading: the metric, and the gain over the first variant with its p."""
    columns = {
        metric.label: comparison["score"].map("{:.4f}".format),
        "95 % interval": _intervals(comparison, "low", "high"),
    }
    if "gain" in comparison:
        columns |= {
            "gain over the first": comparison["gain"].map("{:+.4f}".format, na_action="ignore").fillna(""),
            "95 % interval of the gain": _intervals(comparison, "gain_low", "gain_high"),
            "p, by the errors of rows": comparison["p"].map("{:.3f}".format, na_action="ignore").fillna(""),
        }
    return pd.DataFrame(columns).set_axis(comparison["variant"].tolist(), axis="index")


def grades_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """``compare_grades`` for reading."""
    columns = {"QWK, rounded": comparison["rounded"].map("{:.3f}".format)}
    columns["95 % interval"] = _intervals(comparison, "low", "high")
    if "fitted" in comparison:
        columns["QWK, cuts fitted to the other folds"] = comparison["fitted"].map("{:.3f}".format)
        columns["its 95 % interval"] = _intervals(comparison, "fitted_low", "fitted_high")
    if "p" in comparison:
        columns["p against the first"] = comparison["p"].map("{:.3f}".format, na_action="ignore").fillna("")
    return pd.DataFrame(columns).set_axis(comparison["run"].tolist(), axis="index")


def cuts_table(comparison: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """``compare_cuts`` for reading."""
    gain = comparison["score"] - comparison["score"].iloc[0]
    columns = {
        metric.label: comparison["score"].map("{:.4f}".format),
        "change": gain.map("{:+.4f}".format),
        "95 % interval of the gain": _intervals(comparison, "low", "high"),
    }
    return pd.DataFrame(columns).set_axis(comparison["cuts"].tolist(), axis="index")


def _intervals(table: pd.DataFrame, low: str, high: str) -> list[str]:
    pairs = zip(table[low], table[high], strict=True)
    return ["" if np.isnan(pair).any() else f"{pair[0]:.3f} to {pair[1]:.3f}" for pair in pairs]


def plot_variants(comparison: pd.DataFrame, metric: Metric):
    """A forest plot: each variant's score with its interval, the first one's as a line to compare with."""
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(comparison) + 1.2))
    y = np.arange(len(comparison))[::-1]
    spread = [comparison["score"] - comparison["low"], comparison["high"] - comparison["score"]]
    axes.axvline(comparison["score"].iloc[0], color=GREY, linewidth=1, linestyle="--")
    axes.errorbar(comparison["score"], y, xerr=np.clip(spread, 0, None), fmt="o", capsize=3, color=BLUE)
    axes.set_yticks(y, map(literal, comparison["variant"]))
    axes.set_ylim(-0.6, len(comparison) - 0.4)
    axes.set(title=f"Held-out {metric.label}, with 95 % bootstrap intervals", xlabel=metric.axis)
    axes.grid(axis="y", visible=False)
    return figure


def plot_losses(losses: dict[str, ClassLoss]):
    """The loss of one text, and its slope, by the probability given to the true one of two classes.

    Args:
        losses: of two classes, by name.
    """
    figure, (left, right) = plt.subplots(1, 2)
    logits = torch.linspace(-5, 5, 201)[:, None].requires_grad_()
    probability = logits.sigmoid().detach()[:, 0]
    for (name, loss), colour in zip(losses.items(), PALETTE, strict=False):
        values = torch.stack([loss(logit[None], torch.ones(1, 1)) for logit in logits])
        (slopes,) = torch.autograd.grad(values.sum(), logits)
        left.plot(probability, values.detach(), color=colour, label=name)
        right.plot(probability, slopes[:, 0], color=colour)
    left.set(title="Loss of one text", xlabel="probability of the true class", ylabel="loss")
    right.set(title="Its slope at the logit", xlabel="probability of the true class", ylabel="slope")
    left.legend(fontsize=8)
    return figure


def plot_cuts(scores: np.ndarray, codes: np.ndarray, cuts: np.ndarray, labels: tuple[str, ...], usual):
    """Where the texts of each class lie on the line that cuts divide, with the usual cuts and fitted ones.

    Args:
        scores: of the texts, (rows,); codes: their true class numbers, (rows,).
        usual, cuts: each (classes - 1,).
    """
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(labels) + 1.4))
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(scores))
    axes.scatter(scores, codes + jitter, s=9, alpha=0.5, color=BLUE, edgecolor="none")
    for lines, colour, name in ((usual, GREY, "usual cuts"), (cuts, ORANGE, "fitted cuts")):
        for number, cut in enumerate(lines):
            axes.axvline(cut, color=colour, linewidth=1.5, label=name if number == 0 else None)
    axes.set_yticks(range(len(labels)), map(literal, labels))
    axes.set(title="Held-out texts by their true class", xlabel="score")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def difference_in_words(row: pd.Series, metric: Metric, first: str) -> str:
    """One variant against the first, in a sentence made from its numbers."""
    numbers = (
        f"{metric.label} {row['score']:.3f}, a gain of {row['gain']:+.3f} "
        f"(95 % interval {row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
    )
    if np.isnan(row["gain_low"]) or row["gain_low"] <= 0 <= row["gain_high"]:
        return f"**{row['variant']}** cannot be told from {first} here: {numbers}."
    return f"**{row['variant']}** is {'better' if row['gain'] > 0 else 'worse'} than {first}: {numbers}."


def cuts_in_words(comparison: pd.DataFrame, metric: Metric) -> str:
    """What fitting cuts was worth, honestly and not, in a sentence made from ``compare_cuts``."""
    usual, nested, flattering = (metric.gain(score, 0.0) for score in comparison["score"])
    low, high = comparison.loc[1, ["low", "high"]]
    chance = "which may be chance" if low <= 0 <= high else "more than chance would make"
    return (
        f"Fitted to the other folds, cuts change {metric.label} by {nested - usual:+.3f} (95 % interval "
        f"{low:+.3f} to {high:+.3f}, {chance}). Scored on the rows that they were fitted to, they would have "
        f"claimed {flattering - usual:+.3f}."
    )
