"""Tables and plots of one fold, in one style: readable at GitHub's width, on light and dark pages, by every eye.

``python -m utils.report NOTEBOOK FOLDER`` tells where an executed notebook and its fold's results lie.
"""

import inspect
import json
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown

from utils import runtime
from utils.checkpoint import KINDS, read_result
from utils.config import Config
from utils.environment import Check

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
NAMES = {"last": "last", "best": "best epoch (chosen on this fold)", "swa": "averaged"}


def use_style() -> None:
    """Set matplotlib's defaults for every plot of the suite."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 110, "figure.figsize": (8, 3.2),
            "figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False,
            "axes.grid": True, "grid.color": "#E5E5E5", "axes.axisbelow": True, "axes.titlesize": 11,
            "axes.titleweight": "bold", "axes.titlelocation": "left", "font.size": 10, "legend.frameon": False,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, GREY]),
        }
    )  # fmt: skip


def save(figure: plt.Figure | None, path: Path) -> None:
    """Write a plot as a PNG beside the results, if there is one; the notebook shows it all the same."""
    if figure is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def source(function) -> Markdown:
    """A function's own source, to be read in the notebook."""
    return Markdown(f"```python\n{textwrap.dedent(inspect.getsource(function))}```")


# --- tables ------------------------------------------------------------------------------------------------------


def environment_table(checks: list[Check]):
    """A row a check: what was looked at, what was found, whether it works, and the remedy where it does not."""
    marks = {"works": "✓\u00a0works", "absent": "–\u00a0absent", "broken": "✗\u00a0broken"}
    rows = [
        (check.name, check.found, marks[check.state], check.remedy if check.state != "works" else "")
        for check in checks
    ]
    return _prose(pd.DataFrame(rows, columns=["", "found", "state", "remedy"]).set_index("").rename_axis(None))


def sources_table(sources: dict[str, str]):
    """A row a data source: where it lies, or how it would be fetched."""
    return _prose(pd.Series(sources, name="state").to_frame())


def precisions_table(runs: pd.DataFrame):
    """A row a precision that ``compare_precisions`` tried: speed, memory, last loss, distance from the first's."""
    tried, losses = runs.groupby("precision", sort=False).last(), _losses(runs)
    plainest = losses.columns[0]
    table = pd.DataFrame(
        {
            "samples/s": tried["samples_per_second"],
            f"× {plainest}": tried["samples_per_second"] / tried["samples_per_second"][plainest],
            "peak memory, GiB": tried["peak_memory"] / 2**30,
            "last loss": losses.iloc[-1],
            f"largest distance from {plainest}": losses.sub(losses[plainest], axis=0).abs().max(),
            "problem": tried["problem"],
        },
        index=tried.index,
    )
    formats = dict(zip(table.columns, ["{:.1f}", "{:.2f}", "{:.2f}", "{:.4f}", "{:.4f}", "{}"], strict=True))
    table = table if table["problem"].any() else table.drop(columns="problem")
    return _prose(table.rename_axis(None)).format({name: formats[name] for name in table}, na_rep="")


def _losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The losses of ``compare_precisions``: a row a step, a column a precision that worked, in the order tried."""
    losses = runs[runs["problem"] == ""].pivot(index="step", columns="precision", values="loss")
    return losses[[name for name in runs["precision"].unique() if name in losses]]


def _prose(table: pd.DataFrame):
    """A table of sentences: whole, and aligned to the left."""
    return table.style.set_properties(**{"text-align": "left"}).set_table_styles(
        [{"selector": "th", "props": [("text-align", "left")]}]
    )


def groups_table(groups: list[dict]) -> pd.DataFrame:
    """A row a parameter group: name, number of tensors and weights, peak rate, weight decay."""
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
    return pd.DataFrame(rows).style.format(formats).hide(axis="index")


def folds_table(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """A row a fold: how many rows it holds out, how many groups, and what their targets are like."""
    by_fold = table.groupby("fold")
    columns = {"rows": by_fold.size()}
    if config.group_column in table:
        columns[f"different {config.group_column}"] = by_fold[config.group_column].nunique()
    for name in config.target_columns:
        columns |= {f"mean {name}": by_fold[name].mean().round(3), f"s.d. {name}": by_fold[name].std().round(3)}
    return pd.DataFrame(columns)


def scores_table(folder: Path) -> pd.DataFrame:
    """The closing table of a fold: last, best and averaged weights side by side; RMSE in the target's units."""
    scores = read_result(folder)["scores"]
    table = pd.DataFrame({NAMES[kind]: scores[kind] for kind in KINDS if kind in scores}).T
    return table.rename(columns={"rmse": "RMSE", "batch_rmse": "mean RMSE of batches of 4"}).round(4)


def worst_predictions(table: pd.DataFrame, predictions: pd.DataFrame, config: Config, n: int = 5) -> Markdown:
    """The texts whose predictions by the fold's default weights are furthest off, as text."""
    kind = "swa" if any(column.endswith("swa") for column in predictions) else "last"
    prefixes = [f"{name} " for name in config.target_columns] if len(config.target_columns) > 1 else [""]
    off = sum((predictions[f"{prefix}{kind}"] - predictions[f"{prefix}target"]).abs() for prefix in prefixes)
    texts = table.set_index(config.id_column)[config.text_column]
    blocks = []
    for _, row in predictions.loc[off.nlargest(n).index].iterrows():
        values = ", ".join(
            f"{prefix or 'target '}{row[f'{prefix}target']:.2f}, predicted {row[f'{prefix}{kind}']:.2f}"
            for prefix in prefixes
        )
        blocks.append(f"**{row['id']}**: {values}\n> {textwrap.shorten(texts[row['id']], 400, placeholder=' …')}")
    return Markdown("\n\n".join(blocks))


# --- plots -------------------------------------------------------------------------------------------------------


def plot_data(table: pd.DataFrame, lengths: list[int], config: Config):
    """Histograms of the targets and of the texts' lengths in tokens, with what ``max_length`` cuts off."""
    figure, (left, right) = plt.subplots(1, 2)
    lengths = np.asarray(lengths)
    for name in config.target_columns:
        left.hist(table[name], bins=30, alpha=0.6 if len(config.target_columns) > 1 else 1.0, label=name)
    left.set(title="Targets", xlabel="target's units", ylabel="texts")
    if len(config.target_columns) > 1:
        left.legend(fontsize=8)
    right.hist(lengths, bins=30, color=BLUE)
    right.axvline(config.max_length, color=ORANGE, linewidth=2)
    for axes in (left, right):
        axes.yaxis.get_major_locator().set_params(integer=True)
    lost = np.clip(lengths - config.max_length, 0, None).sum() / lengths.sum()
    cut = (lengths > config.max_length).mean()
    title = f"{cut:.0%} of texts are cut at {config.max_length}, {lost:.1%} of tokens lost"
    right.set(title=title, xlabel="tokens", ylabel="texts")
    return figure


def plot_rates(plan: list[dict[str, float]], config: Config, steps_per_epoch: int):
    """The learning rate of every group over the run; groups that share their rates share a line."""
    rates = pd.DataFrame(plan)
    rates.index = rates.index / steps_per_epoch
    rates = rates[[name for name in rates if not name.endswith("(no decay)") or name[:-11] not in rates]]
    figure, axes = plt.subplots()
    colours = plt.cm.viridis(np.linspace(0.0, 0.85, rates.shape[1]))
    for name, colour in zip(rates, colours, strict=True):
        axes.plot(rates.index, rates[name], color=colour, label=name)
    axes.set(title="Learning rate of each group", xlabel="epoch", ylabel="learning rate", yscale="log")
    floor = rates.to_numpy()[rates.to_numpy() > 0].min()
    axes.set_ylim(bottom=max(floor, rates.to_numpy().max() / 1e5))
    if config.averaging != "none":
        label = f"{config.averaging.upper()} phase"
        axes.axvspan(config.swa_start, rates.index[-1], color=GREY, alpha=0.12, label=label)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_history(history: pd.DataFrame):
    """RMSE of raw and averaged weights at every evaluation, and the training loss."""
    figure, (left, right) = plt.subplots(1, 2, width_ratios=(2, 1))
    left.plot(history["epoch"], history["rmse"], "o-", color=BLUE, label="raw")
    if history["swa_rmse"].notna().any():
        left.plot(history["epoch"], history["swa_rmse"], "s-", color=ORANGE, label="averaged")
    left.set(title="Held-out RMSE", xlabel="epoch", ylabel="RMSE (target's units)")
    left.legend()
    right.plot(history["epoch"], history["train_loss"], "o-", color=GREEN)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    right.set(title="Training loss", xlabel="epoch", ylabel="loss (standardised units)")
    return figure


def plot_predictions(predictions: pd.DataFrame, config: Config):
    """Predicted against true by the fold's default weights, a panel a target."""
    several = len(config.target_columns) > 1
    columns = min(3, len(config.target_columns))
    rows = -(-len(config.target_columns) // columns)
    size = (4.2, 4) if not several else (2.8 * columns, 2.8 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, name in zip(panels.flat, config.target_columns, strict=False):
        prefix = f"{name} " if several else ""
        kind = "swa" if f"{prefix}swa" in predictions else "last"
        true, found = predictions[f"{prefix}target"], predictions[f"{prefix}{kind}"]
        ends = [min(true.min(), found.min()), max(true.max(), found.max())]
        axes.plot(ends, ends, color=GREY, linewidth=1, label="perfect")
        axes.scatter(true, found, s=14, alpha=0.5, color=BLUE, edgecolor="none")
        title = name if several else f"Held-out texts, {NAMES[kind]} weights"
        axes.set(title=title, xlabel="true", ylabel="predicted")
        axes.set_aspect("equal", adjustable="datalim")
    for axes in panels.flat[len(config.target_columns) :]:
        axes.remove()
    return figure


def plot_precisions(runs: pd.DataFrame):
    """The training loss in each precision, and how far it is from the plainest's, step by step."""
    losses = _losses(runs)
    plainest, *others = losses.columns
    figure, (left, right) = plt.subplots(1, 2)
    looks = {
        name: {"linestyle": style, "color": colour, "label": name}
        for name, style, colour in zip(losses, ["-", "--", "-.", ":"], [BLUE, ORANGE, GREEN, PURPLE], strict=False)
    }  # the lines lie upon each other
    for name in losses:
        left.plot(losses.index, losses[name], linewidth=2, **looks[name])
    left.set(title="Training loss", xlabel="step", ylabel="loss (standardised units)")
    left.legend()
    for name in others:
        right.plot(losses.index, (losses[name] - losses[plainest]).abs(), **looks[name])
    right.set(title=f"Distance from {plainest}", xlabel="step", ylabel="difference of losses", yscale="log")
    if others:
        right.legend()
    else:
        right.remove()
    return figure


# --- the end of `make run` ---------------------------------------------------------------------------------------


def tell(notebook: Path, folder: Path) -> None:
    """Print where the executed notebook, the checkpoints and the scores of a fold lie, and the scores."""
    result = read_result(folder)
    about = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    print(f"\nexecuted notebook  {runtime.shown(notebook)}")
    for kind in result["scores"]:
        print(f"{kind + ' weights':18} {runtime.shown(Path(folder) / kind)}")
    print(
        f"scores             {runtime.shown(Path(folder) / 'result.json')}, predictions.csv and history.csv beside it"
    )
    print(f"\n{scores_table(folder)[['RMSE', 'pearson', 'spearman', 'r2']].to_string()}")
    print(f"\n{about['precision']['name']} on {about['device']}, {result['seconds']:.0f} s for training and evaluation")


if __name__ == "__main__":
    tell(Path(sys.argv[1]), Path(sys.argv[2]))
