"""Notebook 01: what works on a machine, its data, its precisions compared; tables, plots and sentences."""

import matplotlib.pyplot as plt
import pandas as pd

from utils.reporting.environment import Check
from utils.reporting.sentences import listed
from utils.reporting.style import PALETTE, left_aligned


def checks_table(checks: list[Check]):
    """A row per check: what was found, whether it works, and the remedy where it does not."""
    marks = {"works": "✓\u00a0works", "absent": "–\u00a0absent", "broken": "✗\u00a0broken"}
    rows = [
        (check.name, check.finding, marks[check.status], check.remedy if check.status != "works" else "")
        for check in checks
    ]
    table = pd.DataFrame(rows, columns=["", "found", "status", "remedy"])
    return left_aligned(table.set_index("").rename_axis(None))


def sources_table(sources: dict[str, str]):
    """A row per data source: where it is, or how it would be downloaded."""
    return left_aligned(pd.Series(sources, name="status").to_frame())


def precisions_table(runs: pd.DataFrame):
    """What ``compare_precisions`` returns, in a row per precision: its speed, memory and losses."""
    by_precision, losses = runs.groupby("precision", sort=False).last(), _losses(runs)
    simplest = losses.columns[0]
    speed = by_precision["samples_per_second"]
    columns = {
        "samples/s": (speed, "{:.1f}"),
        f"× {simplest}": (speed / speed[simplest], "{:.2f}"),
        "peak memory, GiB": (by_precision["peak_memory"] / 2**30, "{:.2f}"),
        "last loss": (losses.iloc[-1], "{:.4f}"),
        f"largest distance from {simplest}": (losses.sub(losses[simplest], axis=0).abs().max(), "{:.4f}"),
    }
    if by_precision["problem"].any():
        columns["problem"] = by_precision["problem"], "{}"
    table = pd.DataFrame({name: values for name, (values, _) in columns.items()}, index=by_precision.index)
    formats = {name: pattern for name, (_, pattern) in columns.items()}
    return left_aligned(table.rename_axis(None)).format(formats, na_rep="")


def plot_precisions(runs: pd.DataFrame):
    """The training loss in each precision, and its distance from the simplest one's, step by step."""
    losses = _losses(runs)
    simplest, *others = losses.columns
    figure, (left, right) = plt.subplots(1, 2)
    looks = {
        name: {"linestyle": dashes, "color": colour, "label": name}
        for name, dashes, colour in zip(losses, ["-", "--", "-.", ":"], PALETTE, strict=False)
    }  # the lines lie on top of each other
    for name in losses:
        left.plot(losses.index, losses[name], linewidth=2, **looks[name])
    left.set(title="Training loss", xlabel="step", ylabel="loss")
    left.legend()
    for name in others:
        right.plot(losses.index, (losses[name] - losses[simplest]).abs(), **looks[name])
    right.set(title=f"Distance from {simplest}", xlabel="step", ylabel="difference of losses", yscale="log")
    if others:
        right.legend()
    else:
        right.remove()
    return figure


def _losses(runs: pd.DataFrame) -> pd.DataFrame:
    """The losses of ``compare_precisions``: a row per step, a column per precision that worked, in order."""
    losses = runs[runs["problem"] == ""].pivot(index="step", columns="precision", values="loss")
    return losses[[name for name in runs["precision"].unique() if name in losses]]


def machine_in_words(checks: list[Check]) -> str:
    """Whether everything works."""
    broken = [check.name for check in checks if check.status == "broken"]
    absent = [check.name for check in checks if check.status == "absent"]
    without = f" Absent, and not needed: {listed(absent)}." if absent else ""
    if broken:
        return f"**{listed(broken)}** must be mended first; the table gives the remedy.{without}"
    return f"Everything that the suite needs works here.{without}"


def precisions_in_words(runs: pd.DataFrame) -> str:
    """What lower precision was worth in speed, and whether it changed the training.

    Args:
        runs: from ``compare_precisions``.
    """
    worked = runs[runs["problem"] == ""].groupby("precision", sort=False)
    speeds, losses = worked["samples_per_second"].last(), worked["loss"].last()
    if len(speeds) < 2:
        return f"This machine trains in {speeds.index[0]} alone, so there was nothing to compare."
    simplest, fastest = speeds.index[0], speeds.idxmax()
    if fastest == simplest:
        return f"No lower precision was faster than {simplest} here."
    return (
        f"{fastest} was fastest, at {speeds[fastest] / speeds[simplest]:.2f} times the speed of {simplest}; "
        f"its last loss was {losses[fastest]:.4f}, and {losses[simplest]:.4f} in {simplest}."
    )
