"""Trials of the same training: how their scores run and spread, drawn and as a table for a paper."""

import matplotlib.pyplot as plt
import pandas as pd

from utils.reporting.style import PALETTE, literal, metrics_of, score_label, shown_scores
from utils.tasks import Task
from utils.tasks.metrics import Metric


def plot_trajectories(histories: pd.DataFrame, metric: Metric, weights: str = "last"):
    """The metric at each evaluation: a variant's mean over trials and folds, and the range of all of them.

    Args:
        histories: from ``trial_histories``; weights: last or averaged.
    """
    figure, axes = plt.subplots()
    for number, (variant, rows) in enumerate(histories.groupby("variant", sort=False)):
        colour, scores = PALETTE[number % len(PALETTE)], rows[weights]
        turn = rows.groupby(["trial", "fold"]).cumcount()  # folds of other sizes evaluate a little earlier
        epoch, by_turn = rows["epoch"].groupby(turn).mean(), scores.groupby(turn).agg(["mean", "min", "max"])
        axes.plot(epoch, by_turn["mean"], "o-", color=colour, label=literal(variant))
        axes.fill_between(epoch, by_turn["min"], by_turn["max"], color=colour, alpha=0.15)
    title = f"Held-out {metric.label} of the {weights} weights, mean and range"
    axes.set(title=title, xlabel="epoch", ylabel=metric.axis)
    axes.legend(fontsize=8)
    return figure


def plot_spread(scores: pd.DataFrame, metric: Metric):
    """Each variant's trials, as points on box plots and on violin plots.

    Args:
        scores: from ``trial_scores``.
    """
    by_variant = scores.groupby("variant", sort=False)[metric.name]
    names, values = zip(*((literal(variant), rows.to_numpy()) for variant, rows in by_variant), strict=True)
    places = range(1, len(names) + 1)
    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    left.boxplot(values, positions=places, showfliers=False)
    right.violinplot(values, positions=places, showmedians=True)
    for axes, title in ((left, "Quartiles"), (right, "Density")):
        for place, points, colour in zip(places, values, PALETTE * len(names), strict=False):
            axes.plot([place] * len(points), points, "o", color=colour, alpha=0.6)
        axes.set_xticks(places, names, rotation=20)
        axes.set(title=title)
    left.set(ylabel=metric.axis)
    return figure


def trials_table(scores: pd.DataFrame, task: type[Task]) -> pd.DataFrame:
    """A row per variant: how many trials it has, and the mean and standard deviation of every score.

    A single trial has no deviation. ``latex_table`` makes LaTeX of it.
    """
    metrics, by_variant = metrics_of(task), scores.groupby("variant", sort=False)
    table = pd.DataFrame({"trials": by_variant.size()})
    for name in shown_scores(scores.columns.drop(["variant", "trial"]), metrics):
        mean, deviation = by_variant[name].mean(), by_variant[name].std().map(" ± {:.4f}".format)
        table[score_label(name, metrics)] = mean.map("{:.4f}".format) + deviation.where(
            table["trials"] > 1, ""
        )
    return table.rename_axis(index=None)


def latex_table(table: pd.DataFrame, caption: str = "") -> str:
    """A table in LaTeX, for the package booktabs; whatever is special in LaTeX is escaped."""
    text = table.to_latex(escape=True, caption=caption or None, column_format="l" + "r" * table.shape[1])
    return text.replace("±", r"$\pm$")
