"""Tables and plots across the folds of a run: scores, errors, and how far the folds agree."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from utils.reporting.style import (
    COLOURS,
    GREY,
    NAMES,
    Scores,
    literal,
    metrics_of,
    quotations,
    score_label,
    shown_scores,
    undefined_note,
)
from utils.reporting.views import make_view
from utils.runs.artifacts import WEIGHTS, read_result
from utils.runs.run import Run
from utils.tasks import Task
from utils.tasks.metrics import Metric

# --- weights compared --------------------------------------------------------------------------------------


#: Columns of ``compare_weights`` that are no further scores.
_OWN_COLUMNS = ["fold", "weights", "score", "low", "high", "error", "p", "gain", "gain_low", "gain_high"]


def weights_table(comparison: pd.DataFrame, run: Run) -> Scores:
    """A row per fold and weights: the metric with its interval, other scores, p against the averaged weights.

    Below each fold's weights are its baselines. Over all folds there are none: they were not scored together.
    """
    rows = pd.DataFrame([*comparison.to_dict("records"), *_baselines(run)])
    order = {fold: number for number, fold in enumerate(comparison["fold"].unique())}
    rows = rows.sort_values("fold", key=lambda folds: folds.map(order), kind="stable", ignore_index=True)
    metric, metrics = run.task.metric, metrics_of(type(run.task))
    others = comparison.columns.difference(_OWN_COLUMNS, sort=False)
    columns = {
        metric.label: _formatted(rows["score"]),
        "95 % interval": [_interval(low, high) for low, high in zip(rows["low"], rows["high"], strict=True)],
    }
    for name in shown_scores(others, metrics):
        columns[score_label(name, metrics)] = _formatted(rows[name])
    columns["p against averaged"] = _formatted(rows["p"], "{:.3f}", missing="")
    table = Scores(columns)
    tested = f"p is of a paired test of each text's {run.task.error}."
    table.note = "\n".join(filter(None, [undefined_note(rows[[*others]], metrics), tested]))
    names = rows["weights"].map(lambda weights: NAMES.get(weights, weights))
    table.index = pd.MultiIndex.from_arrays([rows["fold"], names], names=["fold", "weights"])
    return table


def _baselines(run: Run) -> list[dict]:
    """The baselines of each fold, as rows of ``compare_weights``."""
    return [
        {"fold": fold, "weights": f"baseline: {name}", "score": scores[run.task.metric.name], **scores}
        for fold, folder in run.folders.items()
        for name, scores in read_result(folder)["baselines"].items()
    ]


def _formatted(numbers: pd.Series, pattern: str = "{:.4f}", missing: str = "–") -> pd.Series:
    return numbers.map(pattern.format, na_action="ignore").fillna(missing)


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.3f} to {high:.3f}"


def plot_weights(comparison: pd.DataFrame, metric: Metric):
    """The metric of last, best and averaged weights, and what averaging gained over the same rows.

    By fold and over all, with 95 % bootstrap intervals. Where nothing was averaged there is no second panel.
    """
    gained = comparison["gain"].notna().any()
    folds = list(comparison["fold"].unique())
    size = (9.5, 0.55 * len(folds) + 1.9)
    figure, panels = plt.subplots(1, 2 if gained else 1, figsize=size, sharey=True, squeeze=False)
    left, right = panels[0, 0], panels[0, -1]
    _draw_intervals(left, comparison, "score", "low", "high")
    left.set(title=f"Held-out {metric.label}", xlabel=metric.axis)
    if gained:
        right.axvline(0, color=GREY, linewidth=1, linestyle="--")
        _draw_intervals(right, comparison.dropna(subset="gain"), "gain", "gain_low", "gain_high")
        right.set(title="What averaging gained over each", xlabel=f"{metric.label}: right of 0, it is better")
    left.set_yticks(range(len(folds)), [f"fold {fold}" if fold != "all" else "all folds" for fold in folds])
    left.set_ylim(len(folds) - 0.5, -0.5)
    handles = left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _draw_intervals(axes, comparison: pd.DataFrame, value: str, low: str, high: str) -> None:
    """A point with its interval for each fold (down) and weights (beside each other)."""
    folds = list(comparison["fold"].unique())
    names = [weights for weights in WEIGHTS if weights in set(comparison["weights"])]
    for i, weights in enumerate(names):
        rows = comparison[comparison["weights"] == weights]
        y = np.array([folds.index(fold) for fold in rows["fold"]]) + (i - (len(names) - 1) / 2) * 0.2
        spread = np.clip([rows[value] - rows[low], rows[high] - rows[value]], 0, None)
        look = {"fmt": "o", "capsize": 3, "color": COLOURS[weights], "label": NAMES[weights]}
        axes.errorbar(rows[value], y, xerr=spread, **look)
    axes.grid(axis="y", visible=False)


# --- errors ------------------------------------------------------------------------------------------------


def errors_table(run: Run, lengths: pd.Series, by: str = "") -> pd.DataFrame:
    """The held-out texts with each weights' error (mean over the columns), and what it may depend on.

    Args:
        lengths: tokens of each text, by id.
        by: a column of the table, such as the licence or topic.
    """
    rows = run.table.set_index(run.config.id_column).loc[run.predictions["id"]]
    table = pd.DataFrame({"id": run.predictions["id"], "fold": run.predictions["fold"]})
    table["target"] = make_view(run.task).described(run.targets)
    for weights in run.weights:
        table[weights] = np.nanmean(run.errors(weights), axis=1)
    table["length"] = table["id"].map(lengths)
    table["text"] = rows[run.config.text_column].to_numpy()
    if by:
        table[by] = rows[by].replace("", "none given").astype(str).to_numpy()
    return table


def plot_errors(run: Run, errors: pd.DataFrame, by: str = ""):
    """The errors by length, by what is true and by category; residuals, or what is taken for what.

    Args:
        errors: from ``errors_table``, which was given the same ``by``.
    """
    view = make_view(run.task)
    figure, panels = plt.subplots(2, 2, figsize=(9.5, 7))
    fifths = pd.qcut(errors["length"].rank(method="first"), 5, labels=False)
    lengths = errors["length"].groupby(fifths).transform("max")
    view.draw_grouped(panels[0, 0], view.grouped_errors(run, lengths), "Length, in tokens up to")
    title, by_target = view.target_errors(run, errors["target"])
    view.draw_grouped(panels[0, 1], by_target, title)
    if by:
        shown, title = _shown_categories(errors, by, run.weights[-1])
        labels = errors[by].map(lambda value: textwrap.shorten(value, 18, placeholder="…"))
        groups = view.grouped_errors(run, labels.where(errors[by].isin(shown)))
        view.draw_grouped(panels[1, 0], groups, title)
    else:
        panels[1, 0].remove()
    view.draw_misses(panels[1, 1], run)
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _shown_categories(errors: pd.DataFrame, by: str, weights: str, most: int = 6) -> tuple[list[str], str]:
    """The most frequent categories, of equally frequent ones those with the largest errors; and a title."""
    sizes = errors.groupby(by)[weights].agg(["size", "mean"])
    sizes = sizes.sort_values(["size", "mean"], ascending=False)
    shown, name = sizes.index[:most].tolist(), literal(by)
    if len(sizes) <= most:
        return shown, name
    tied = sizes["size"].iloc[most - 1] == sizes["size"].iloc[most]
    chosen = "with the largest errors" if tied else "most frequent"
    return shown, f"{name}: the {most} {chosen}, of {len(sizes)}"


def disagreements(run: Run, errors: pd.DataFrame, n: int = 4) -> HTML:
    """The texts on which last and averaged weights differ most.

    Args:
        errors: from ``errors_table``.
    """
    values = {"target": run.targets, "last": run.values("last"), "averaged": run.values("averaged")}
    difference = np.abs(values["averaged"] - values["last"]).mean(axis=1)
    quoted = []
    for i in np.argsort(-difference)[:n]:
        row = errors.iloc[i]
        sentence = run.task.sample({name: array[i] for name, array in values.items()})
        text = textwrap.shorten(row["text"], 300, placeholder=" …")
        quoted.append((row["id"], f" (fold {row['fold']}): {sentence}", text))
    return quotations(quoted)


# --- the submission ----------------------------------------------------------------------------------------


def plot_agreement(predictions: np.ndarray, task: Task, folds: list[int]):
    """How far the folds' models agree on the test set.

    Args:
        predictions: (folds, rows, columns).
    """
    return make_view(task).plot_agreement(predictions, folds)
