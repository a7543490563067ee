"""What the reports draw of a task whose targets are numbers: the view of any task without one of its own."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils.reporting.style import BLUE, COLOURS, GREY, NAMES, PALETTE, literal, shortened, target_names
from utils.runs.run import Run
from utils.tasks import Task

FEW = 12  # different values that are drawn one by one, not in bins


def _gap(values: np.ndarray) -> float:
    """The smallest distance between different values; 1 where there is none."""
    return float(np.diff(np.unique(values)).min(initial=np.inf)) if len(np.unique(values)) > 1 else 1.0


class View:
    """Numbers: histograms, predicted against true, residuals."""

    def __init__(self, task: Task):
        self.task, self.names = task, target_names(task)
        self.measure = task.metric  # what ``error_of`` gives

    # --- the targets ----------------------------------------------------------------------------------------

    def fold_columns(self, table: pd.DataFrame) -> dict[str, pd.Series]:
        """What ``folds_table`` says of each fold's targets."""
        columns = {}
        for name, values in zip(self.names, self.task.targets(table).T, strict=True):
            targets = pd.Series(values, index=table.index).groupby(table["fold"])
            columns |= {f"mean {name}": targets.mean().round(3), f"s.d. {name}": targets.std().round(3)}
        return columns

    def draw_targets(self, axes, table: pd.DataFrame) -> None:
        several = len(self.names) > 1
        for name, values in zip(self.names, self.task.targets(table).T, strict=True):
            known = values[~np.isnan(values)]
            if not several and len(np.unique(known)) <= FEW:  # bins would be a comb
                axes.bar(*np.unique(known, return_counts=True), width=_gap(known) * 0.8)
            else:
                axes.hist(known, bins=30, alpha=0.6 if several else 1.0, label=literal(name))
        axes.set(title="Targets", xlabel="target, in its own units", ylabel="texts")
        axes.yaxis.get_major_locator().set_params(integer=True)
        if several:
            axes.legend(fontsize=8)

    def described(self, targets: np.ndarray) -> pd.Series:
        """One value per row for a table of errors, by which ``target_errors`` may group: the mean."""
        return pd.Series(np.nanmean(targets, axis=1))

    # --- the predictions of a fold --------------------------------------------------------------------------

    def plot_predictions(self, targets: np.ndarray, predicted: np.ndarray, weights: str):
        """Predicted against true, a panel per target; None unless the two pair one to one."""
        if targets.shape != predicted.shape:
            return None
        n_columns = min(3, len(self.names))
        n_rows = -(-len(self.names) // n_columns)
        size = (5.4, 5) if len(self.names) == 1 else (2.8 * n_columns, 2.8 * n_rows)
        figure, panels = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
        for axes, name, x, y in zip(panels.flat, self.names, targets.T, predicted.T, strict=False):
            ends = [min(np.nanmin(x), y.min()), max(np.nanmax(x), y.max())]
            axes.plot(ends, ends, color=GREY, linewidth=1, label="perfect")
            axes.scatter(x, y, s=14, alpha=0.5, color=BLUE, edgecolor="none")
            title = literal(name) if len(self.names) > 1 else f"Held-out texts, {NAMES[weights]} weights"
            axes.set(title=title, xlabel="true, in the target's units", ylabel="predicted")
            axes.set_aspect("equal", adjustable="datalim")
        panels[0, 0].legend(fontsize=8, loc="upper left")
        for axes in panels.flat[len(self.names) :]:
            axes.remove()
        return figure

    # --- the errors of a run --------------------------------------------------------------------------------

    def error_of(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """How far some rows are off: the metric."""
        return self.task.score(targets, predictions)

    def grouped_errors(self, run: Run, groups: pd.Series) -> pd.DataFrame:
        """The error of each group of rows (down) and weights (across); rows without a group are left out."""
        names = groups.dropna().sort_values().unique()
        members = [np.flatnonzero(groups == name) for name in names]
        errors = {}
        for weights in run.weights:
            targets, predictions = run.targets, run.values(weights)
            errors[weights] = [self.error_of(targets[rows], predictions[rows]) for rows in members]
        return pd.DataFrame(errors, index=list(names))

    def target_errors(self, run: Run, described: pd.Series) -> tuple[str, pd.DataFrame]:
        """A title, and the errors by what is true."""
        if described.nunique() <= FEW:
            return "Target", self.grouped_errors(run, described.round(6))
        tenths = pd.qcut(described, 10, duplicates="drop")  # equal targets stay together
        ends = described.groupby(tenths, observed=True).transform("max").round(3)
        return "Target, in tenths of the texts up to", self.grouped_errors(run, ends)

    def draw_misses(self, axes, run: Run) -> None:
        """Predicted minus true against true, unless the two do not pair one to one."""
        weights = run.weights[-1]
        targets, predictions = run.targets, run.values(weights)
        if targets.shape != predictions.shape:
            axes.remove()
            return
        residuals = np.nanmean(predictions - targets, axis=1)
        axes.axhline(0, color=GREY, linewidth=1)
        axes.scatter(np.nanmean(targets, axis=1), residuals, s=12, alpha=0.5, color=BLUE, edgecolor="none")
        axes.set(title=f"Residuals, {NAMES[weights]} weights", xlabel="target", ylabel="predicted − target")

    def draw_grouped(self, axes, errors: pd.DataFrame, title: str) -> None:
        """Bars of ``grouped_errors``."""
        for i, weights in enumerate(errors):
            x = np.arange(len(errors)) + (i - (len(errors.columns) - 1) / 2) * 0.27
            axes.bar(x, errors[weights], width=0.25, color=COLOURS[weights], label=NAMES[weights])
        names = shortened(errors.index, 18)
        rotation = 90 if len(names) > 10 else 25
        tilted = rotation if sum(map(len, names)) > 40 else 0
        axes.set_xticks(range(len(names)), names, fontsize=9, rotation=tilted)
        axes.set(title=title, ylabel=textwrap.fill(self.measure.label, 22))
        axes.grid(axis="x", visible=False)

    # --- the test set ---------------------------------------------------------------------------------------

    def plot_agreement(self, predictions: np.ndarray, folds: list[int]):
        """Each fold against their mean (two, against each other), and their spread per text.

        Of several targets the mean is drawn.
        """
        values_by_fold = predictions.mean(axis=2)
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8))
        ends = [values_by_fold.min(), values_by_fold.max()]
        left.plot(ends, ends, color=GREY, linewidth=1, label="the same")
        if len(folds) == 2:  # either is as far from their mean as the other
            left.scatter(*values_by_fold, s=16, alpha=0.7, color=BLUE, edgecolor="none")
            title = {"title": "One fold against the other", "xlabel": f"fold {folds[0]}"}
            left.set(**title, ylabel=f"fold {folds[1]}")
        else:
            mean = values_by_fold.mean(axis=0)
            for i, (fold, values) in enumerate(zip(folds, values_by_fold, strict=True)):
                look = {"color": PALETTE[i % len(PALETTE)], "edgecolor": "none", "label": f"fold {fold}"}
                left.scatter(mean, values, s=16, alpha=0.7, **look)
            left.set(title="Each fold against the mean", xlabel="mean of the folds", ylabel="one fold")
        left.legend(fontsize=8)
        draw_spread(right, values_by_fold)
        right.set_xlabel("standard deviation, in the target's units")
        return figure


def draw_spread(axes, predictions: np.ndarray) -> None:
    """The standard deviation of each text's predictions, (folds, texts)."""
    spread = predictions.std(axis=0, ddof=1) if len(predictions) > 1 else np.zeros(predictions.shape[1])
    axes.hist(spread, bins=min(15, max(5, round(len(spread) ** 0.5))), color=BLUE)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.set(title="Spread of the folds on each text", xlabel="standard deviation", ylabel="texts")
