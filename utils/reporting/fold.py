"""Tables and plots of one fold: its texts, its groups of weights, its training, its scores."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from utils.machine.runtime import display_path
from utils.reporting.style import (
    BLUE,
    GREEN,
    NAMES,
    ORANGE,
    Scores,
    metrics_of,
    quotations,
    score_label,
    shown_scores,
    styled,
    undefined_note,
)
from utils.reporting.views import make_view
from utils.runs.artifacts import WEIGHTS, read_metadata, read_result
from utils.tasks import TASKS, Task
from utils.tasks.metrics import Metric

# --- tables ------------------------------------------------------------------------------------------------


def groups_table(groups: list[dict]):
    """A row per parameter group: name, number of tensors and weights, peak learning rate, weight decay."""
    rows = [
        {
            "group": group["name"],
            "tensors": len(group["params"]),
            "weights": sum(parameter.numel() for parameter in group["params"]),
            "peak learning rate": group["lr"],
            "weight decay": group["weight_decay"],
        }
        for group in groups
    ]
    formats = {"weights": "{:,}", "peak learning rate": "{:.2e}", "weight decay": "{:g}"}
    return styled(pd.DataFrame(rows)).format(formats).hide(axis="index")


def folds_table(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """A row per fold: how many rows and groups it holds out, and what their targets are like."""
    by_fold, group_column = table.groupby("fold"), task.config.group_column
    columns = {"rows": by_fold.size()}
    if group_column in table:
        columns[f"different {group_column}"] = by_fold[group_column].nunique()
    return pd.DataFrame(columns | make_view(task).fold_columns(table))


def scores_table(folder: Path) -> Scores:
    """The scores of last, best and averaged weights, and below them those of the baselines."""
    result, name = read_result(folder), read_metadata(folder)["config"]["task"]
    tasks = [TASKS[name]] if name in TASKS else TASKS.values()
    metrics = [Metric(**result["metric"]), *(metric for task in tasks for metric in metrics_of(task))]
    scores = result["scores"]
    rows = {NAMES[weights]: scores[weights] for weights in WEIGHTS if weights in scores}
    rows |= {f"baseline: {name}": of_baseline for name, of_baseline in result["baselines"].items()}
    table = pd.DataFrame.from_dict(rows, orient="index").astype(float).round(4)
    table = table[shown_scores(table, metrics)]
    shown = Scores(table.rename(columns=lambda name: score_label(name, metrics)))
    shown.note = undefined_note(table, metrics)
    return shown


def worst_predictions(table: pd.DataFrame, predictions: pd.DataFrame, task: Task, n: int = 5) -> HTML:
    """The texts with the largest errors of the default weights."""
    weights = default_weights(predictions, task)
    targets, predicted = task.values(predictions, "target"), task.values(predictions, weights)
    texts = task.quoted_texts(table.set_index(task.config.id_column))
    worst = np.argsort(-np.nanmean(task.errors(targets, predicted), axis=1), kind="stable")[:n]
    quoted = []
    for row in worst:
        name = predictions["id"].iloc[row]
        sentence = task.sample({"target": targets[row], "predicted": predicted[row]})
        quoted.append((name, f": {sentence}", textwrap.shorten(texts[name], 400, placeholder=" …")))
    return quotations(quoted)


def default_weights(predictions: pd.DataFrame, task: Task) -> str:
    """The weights that the suite uses unless told otherwise."""
    return "averaged" if task.has(predictions, "averaged") else "last"


def files_tree(folder: Path) -> str:
    """The files of a fold by folder, with their sizes."""
    lines = [f"{display_path(folder)}/"]
    for path in sorted(folder.rglob("*"), key=lambda path: (path.parent != folder, path)):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            kib = path.stat().st_size / 2**10
            size = f"{kib / 2**10:.1f} MiB" if kib >= 100 else f"{kib:.1f} KiB"
            lines.append(f"  {name:<36}{size:>12}")
    return "\n".join(lines)


# --- plots -------------------------------------------------------------------------------------------------


def plot_data(table: pd.DataFrame, lengths: list[int], task: Task):
    """The targets, and a histogram of the texts' lengths in tokens, with what ``max_length`` cuts off."""
    figure, (left, right) = plt.subplots(1, 2)
    make_view(task).draw_targets(left, table)
    n_tokens, longest = np.asarray(lengths), task.config.max_length
    right.hist(n_tokens, bins=30, color=BLUE)
    right.axvline(longest, color=ORANGE, linewidth=2, label=f"max_length, {longest}")
    right.legend(fontsize=8)
    right.yaxis.get_major_locator().set_params(integer=True)
    lost = np.clip(n_tokens - longest, 0, None).sum() / n_tokens.sum()
    cut = (n_tokens > longest).mean()
    title = f"{cut:.0%} of texts are cut at {longest},\n{lost:.1%} of tokens lost"
    right.set(title=title, xlabel="tokens", ylabel="texts")
    return figure


def plot_history(history: pd.DataFrame, metric: Metric):
    """The metric of raw and averaged weights at every evaluation, and the training loss."""
    figure, (left, right) = plt.subplots(1, 2, width_ratios=(2, 1))
    averaged = history[f"averaged_{metric.name}"]
    left.plot(history["epoch"], history[metric.name], "o-", color=BLUE, label="raw")
    if averaged.notna().any():
        left.plot(history["epoch"], averaged, "s-", color=ORANGE, label="averaged")
    left.set(title=f"Held-out {metric.label}", xlabel="epoch", ylabel=metric.axis)
    left.legend()
    right.plot(history["epoch"], history["train_loss"], "o-", color=GREEN)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    right.set(title="Training loss", xlabel="epoch", ylabel="loss")
    return figure


def plot_predictions(predictions: pd.DataFrame, task: Task):
    """What the default weights predict against what is true; None where the two cannot be drawn together."""
    weights = default_weights(predictions, task)
    targets, predicted = task.values(predictions, "target"), task.values(predictions, weights)
    return make_view(task).plot_predictions(targets, predicted, weights)


# --- the end of `make run` ---------------------------------------------------------------------------------


def print_summary(notebook: Path, folder: Path) -> None:
    """Print where a fold's executed notebook, weights and scores are, and the scores themselves."""
    result, metadata = read_result(folder), read_metadata(folder)
    print(f"\nexecuted notebook  {display_path(notebook)}")
    for weights in result["scores"]:
        print(f"{weights + ' weights':18} {display_path(Path(folder) / weights)}")
    path = display_path(Path(folder) / "result.json")
    print(f"scores             {path}, with predictions.csv and history.csv in the same folder")
    table = scores_table(folder)
    print(f"\n{table.to_string(na_rep='–')}")
    if table.note:
        print(f"\n{table.note}")
    if parts := result.get("parameters_of"):  # a version before this one did not count them
        counted = ", ".join(f"{name} {number:,}" for name, number in parts.items())
        trained = f"{result['trainable_parameters']:,} of them trained"
        print(f"\n{result['parameters']:,} parameters ({counted}), {trained}")
    precision, seconds = metadata["precision"]["name"], result["seconds"]
    print(f"\n{precision} on {metadata['device']}, {seconds:.0f} s for training and evaluation")
