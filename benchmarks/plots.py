"""The plots of RESULTS.md, and the numbers that plots and tables share."""

import statistics

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from benchmarks.contestants import NAMES
from benchmarks.growth import exponent
from utils.reporting import style

LIGHT, MEDIUM = "#E5E5E5", "#A5A5A5"


# --- training speed ----------------------------------------------------------------------------------------


def achieved_rates(setting: dict) -> dict[str, tuple[float, float]]:
    """Median FLOP/s of each contestant on real tokens, and the median matrix rate of its precision."""
    rates = {}
    for name in NAMES:
        precision = "fp32" if name == "published" else setting["precision"]
        turns = [turn for turn in setting["turns"] if turn["runs"][name]]
        if turns:
            speed = statistics.median(turn["runs"][name]["tokens_per_second"] for turn in turns)
            limit = statistics.median(turn["limits"][precision] for turn in turns)
            rates[name] = speed * setting["flops_per_token"], limit
    return rates


def plot_throughput(measurements: dict) -> plt.Figure:
    """A bar per contestant for its achieved rate, on a light one for the matrix rate."""
    bars = []
    for setting in measurements["settings"]:
        suffix = f", {setting['encoder']} {setting['batch']} × {setting['length']} {setting['precision']}"
        suffix *= len(measurements["settings"]) > 1
        bars += [(NAMES[name] + suffix, *rates) for name, rates in achieved_rates(setting).items()]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.45 * len(bars)))
    for y, (name, rate, limit) in enumerate(bars):
        axes.barh(y, limit / 1e9, color=LIGHT)
        axes.barh(y, rate / 1e9, color=style.BLUE if name.startswith("ours") else MEDIUM)
        axes.annotate(f" {rate / limit:.0%} of {limit / 1e9:,.0f}", (rate / 1e9, y), va="center")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title="Products of the model on real tokens", xlabel="GFLOP/s; light: one large matrix product")
    return figure


# --- growth ------------------------------------------------------------------------------------------------


def sizes_and_costs(points: dict, cost: str) -> tuple[list[float], list[float]]:
    """The sizes and one of the costs, without memory too small to measure."""
    pairs = [(float(size), point[cost]) for size, point in points.items() if point[cost] > 1e-6]
    sizes, costs = zip(*pairs, strict=True)
    return list(sizes), list(costs)


def plot_growth(measurements: dict) -> plt.Figure:
    """Seconds above, GiB below, a column for each size, all axes logarithmic."""
    curves = measurements["curves"]
    figure, axes = plt.subplots(2, len(curves), figsize=(11, 5.4), sharex="col")
    for column, (size, points) in enumerate(curves.items()):
        plot_costs(axes[:, column], points)
        axes[1, column].set_xlabel(size)
    axes[0, 0].set(ylabel="seconds", title="Time")
    axes[1, 0].set(ylabel="GiB", title="Memory")
    return figure


def plot_costs(column, points: dict) -> None:
    """Every cost against one size, on a column of two axes: seconds and GiB."""
    for cost in next(iter(points.values())):
        name, unit = cost.rsplit(", ", 1)
        sizes, costs = sizes_and_costs(points, cost)
        label = f"{name}: {exponent(sizes, costs):.2f}"
        column[int(unit == "GiB")].loglog(sizes, costs, "o-", markersize=3, label=label)
    ticks = [float(key) for key in points][:: 2 if len(points) > 5 else 1]
    for axes in column:
        axes.legend(fontsize=8, loc="upper left", title="exponent", title_fontsize=8, alignment="left")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])


# --- time to quality ---------------------------------------------------------------------------------------


def plot_quality(measurements: dict) -> plt.Figure:
    """RMSE against seconds, of raw and averaged weights, published and ours."""
    figure, axes = plt.subplots()
    for name, colour in (("published", style.GREY), ("ours", style.BLUE)):
        curve = measurements[name]["curve"]
        raw = [(row["seconds"], row["rmse"]) for row in curve]
        axes.plot(*zip(*raw, strict=True), "o-", markersize=3, color=colour, label=f"{name}, raw")
        averaged = [(row["seconds"], row["swa_rmse"]) for row in curve if "swa_rmse" in row]
        if averaged:
            label = f"{name}, averaged"
            axes.plot(*zip(*averaged, strict=True), "s--", markersize=3, color=colour, label=label)
    title = f"{measurements['preset']}: RMSE on fold {measurements['fold']}"
    axes.set(title=title, xlabel="seconds", xscale="log", ylabel="RMSE")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8)
    return figure
