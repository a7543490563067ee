"""RESULTS.md and its plots, made of the JSON files that the benchmarks wrote: python -m benchmarks.results"""

import json
import math
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

from benchmarks import growth, quality
from benchmarks.common import HERE
from benchmarks.contestants import NAMES
from benchmarks.parts import OPTIMIZERS
from utils import report
from utils.config import Config

INTRODUCTION = """# Measured

Written by `python -m benchmarks.results` from the JSON files beside it, which `make bench` writes. Training speed and
the parts of a step were taken side by side, in turns; shared machines are noisy, and absolute numbers move by a tenth
and more from hour to hour. How batches of folds scale: [docs/scaling.md](../docs/scaling.md)."""

THE_SAME = (
    "All but the published loop train on the very same batches, made by length and padded to a multiple of 8, without "
    "dropout in the encoder; on a CPU the Trainer and Lightning have torch's attention, their default; Lightning has "
    "AdamW in several kernels, as it clips none of a fused one's gradients. No average falls into the steps that are "
    "timed, neither ours nor Lightning's. Ours is the bare loop of steps: what a fold does around it is listed below "
    "the table. Padding is not counted as tokens."
)


def throughput(found: dict, plot: str) -> str:
    """The contestants in each setting, and where our time goes."""
    text = [about("Training speed against what else one would use", found), THE_SAME]
    text[0] += f" Lightning {found['versions']['lightning']}."
    for setting in found["settings"]:
        text.append(
            f"**{setting['encoder']}, {setting['batch']} texts of at most {setting['length']} tokens, "
            f"{setting['precision']}** (the published loop: fp32). Data: {setting['data']}, "
            f"{setting['mean_length']:.0f} tokens a text. {setting['steps']} steps; medians of {len(setting['turns'])} "
            "turns, in brackets the least and the most of the ratio within a turn."
        )
        achieved = rates_of(setting)
        rows = []
        for name in NAMES:
            runs = [turn["runs"][name] for turn in setting["turns"] if turn["runs"][name]]
            if not runs:
                rows.append([NAMES[name], "failed", *[""] * 5])
                continue
            keys = "tokens_per_second", "peak_gib", "to_first_step"
            speed, memory, start = (statistics.median(run[key] for run in runs) for key in keys)
            rate, limit = achieved[name]
            rows.append([
                NAMES[name], f"{speed:,.0f}", f"{speed / setting['mean_length']:.1f}", f"{rate / limit:.0%}",
                f"{memory:.1f}", f"{start:.1f}", ratio(setting, name),
            ])  # fmt: skip
        head = ["", "tokens/s", "texts/s", "share of the matrix rate", "peak memory, GiB", "to the first step, s"]
        text.append(table([*head, "ours is"], rows))
        limits = {name: statistics.median(turn["limits"][name] for turn in setting["turns"])
                  for name in setting["turns"][0]["limits"]}  # fmt: skip
        shown = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in limits.items())
        text.append(f"The matrix rate is that of one large product: {shown}. {phases(setting)}".strip())
    return "\n\n".join([*text, picture("Achieved rate against the machine's limit", plot)])


def ratio(setting: dict, name: str) -> str:
    """How many times the contestant's rate ours is: the median over turns, and the range."""
    ratios = [
        turn["runs"]["ours"]["tokens_per_second"] / turn["runs"][name]["tokens_per_second"]
        for turn in setting["turns"] if turn["runs"]["ours"] and turn["runs"][name]
    ]  # fmt: skip
    if name == "ours" or not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def phases(setting: dict) -> str:
    spent = setting["phases"]
    if spent is None:
        return ""
    names = ("forward", "backward", "clip", "optimizer")
    step = sum(spent[name] for name in names)
    parts = ", ".join(f"{name} {1000 * spent[name]:.0f} ms ({spent[name] / step:.1%})" for name in names)
    runs = [turn["runs"]["ours"] for turn in setting["turns"] if turn["runs"]["ours"]]
    times = ""
    if runs:
        speed = statistics.median(run["tokens_per_second"] for run in runs)
        times = f", {spent['evaluation, tokens/s'] / speed:.1f} times the training rate"
    return (
        f"A step of ours: {parts}. Beside steps: tokenising {1000 * spent['tokenise']:.2f} ms a text, once; evaluation "
        f"{spent['evaluation, tokens/s']:,.0f} tokens/s{times}; averaging {1000 * spent['averaging']:.0f} ms; saving a "
        f"state {spent['saving a state']:.1f} s."
    )


def rates_of(setting: dict) -> dict[str, tuple[float, float]]:
    """Medians of each contestant's FLOP/s on real tokens, and of its limit."""
    found = {}
    for name in NAMES:
        precision = "fp32" if name == "published" else setting["precision"]
        turns = [turn for turn in setting["turns"] if turn["runs"][name]]
        if turns:
            speed = statistics.median(turn["runs"][name]["tokens_per_second"] for turn in turns)
            limit = statistics.median(turn["limits"][precision] for turn in turns)
            found[name] = speed * setting["flops_per_token"], limit
    return found


def plot_throughput(found: dict) -> plt.Figure:
    """Bars of the achieved rates, each on a grey one as long as its limit."""
    bars = []
    for setting in found["settings"]:
        which = f", {setting['encoder']} {setting['batch']} × {setting['length']} {setting['precision']}"
        which *= len(found["settings"]) > 1
        bars += [(NAMES[name] + which, *rates) for name, rates in rates_of(setting).items()]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.45 * len(bars)))
    for place, (name, rate, limit) in enumerate(bars):
        axes.barh(place, limit / 1e9, color="#E5E5E5")
        axes.barh(place, rate / 1e9, color=report.BLUE if name.startswith("ours") else "#A5A5A5")
        axes.annotate(f" {rate / limit:.0%} of {limit / 1e9:,.0f}", (rate / 1e9, place), va="center")
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title="Products of the model on real tokens", xlabel="GFLOP/s; light: one large matrix product")
    return figure


def parts(found: dict, plot: str) -> str:
    """Steps with one thing changed, and optimizers beside what their traffic takes."""
    steps, optimizers = [], []
    for name, runs in ((name, runs) for name, runs in found["runs"].items() if runs):
        seconds = statistics.median(run["seconds"] for run in runs)
        if name in OPTIMIZERS:
            traffic = statistics.median(run["traffic_seconds"] for run in runs)
            cells = [f"{1000 * seconds:.1f}", f"{1000 * traffic:.1f}", f"{seconds / traffic:.2f} ×"]
            optimizers.append([name, *cells])
            continue
        share = found["flops"] / seconds / statistics.median(found["rates"])
        trained = [run["seconds"] for run in found["runs"]["as trained"]]
        times = f"{seconds / statistics.median(trained):.2f} ×" if trained else ""
        memory = statistics.median(run["peak_gib"] for run in runs)
        steps.append([name, f"{1000 * seconds:.0f}", f"{share:.0%}", f"{memory:.1f}", times])
    return "\n\n".join([
        about(f"The parts of a step: {found['precision']}", found),
        f"Whole steps (forward, backward, clipping, fused AdamW) of MiniLM on {found['batch']} texts of "
        f"{found['length']} tokens each; medians of {found['repeats']} turns of seven steps, each in its own process. "
        "In bf16 a CPU trains with attention by plain products, in all else with torch's: how far the row of the one "
        "trained with is from 1.00 × is noise.",
        table(["", "ms", "share of the matrix rate", "peak memory, GiB", "time"], steps),
        "The optimizers' step over MiniLM's 22.6 million weights, and what reading and writing weights, gradients and "
        "state once takes at the measured copy rate (reading, of which there is more here, is faster than writing):",
        table(["", "ms", "its traffic, ms", "time"], optimizers),
    ])  # fmt: skip


def grown(found: dict, plot: str) -> str:
    """Costs at the least and the most of each size, and the exponents."""
    rows = []
    for size, points in found["curves"].items():
        for cost in next(iter(points.values())):
            sizes, costs = curve(points, cost)
            ends = [f"{costs[i]:.2g} at {sizes[i]:,.0f}" for i in (0, -1)]
            rows.append([size, cost, *ends, f"{growth.exponent(sizes, costs):.2f}"])
    return "\n\n".join([
        about("How cost grows", found),
        "Rows: a whole fold of the `tiny` encoder (one epoch, 64 tokens), so that what is not the encoder's own work "
        "shows. Length, batch and layers: steps of MiniLM's shape (8 texts of 128 tokens, 6 layers, where not varied). "
        "One run a point. The exponent p of cost = c sizeᵖ is fitted to the larger half of the sizes.",
        table(["grows", "cost", "least", "most", "exponent"], rows),
        picture("Time and memory against rows, length, batch and layers", plot),
    ])  # fmt: skip


def curve(points: dict, cost: str) -> tuple[list[float], list[float]]:
    """Sizes and costs; a memory too small to be told from none is left out."""
    pairs = [(float(size), point[cost]) for size, point in points.items() if point[cost] > 1e-6]
    sizes, costs = zip(*pairs, strict=True)
    return list(sizes), list(costs)


def plot_growth(found: dict) -> plt.Figure:
    """Seconds above, GiB below, a column for each size, all axes logarithmic."""
    figure, axes = plt.subplots(2, len(found["curves"]), figsize=(11, 5.4), sharex="col")
    for column, (size, points) in enumerate(found["curves"].items()):
        ticks = [float(key) for key in points][:: 2 if len(points) > 5 else 1]
        for cost in next(iter(points.values())):
            name, unit = cost.rsplit(", ", 1)
            sizes, costs = curve(points, cost)
            axis = axes[int(unit == "GiB"), column]
            axis.loglog(sizes, costs, "o-", markersize=3, label=f"{name}: {growth.exponent(sizes, costs):.2f}")
        for axis in axes[:, column]:
            axis.legend(fontsize=8, loc="upper left", title="exponent", title_fontsize=8, alignment="left")
            low, high = axis.get_ylim()
            axis.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes[1, column].set_xlabel(size)
    axes[0, 0].set(ylabel="seconds", title="Time")
    axes[1, 0].set(ylabel="GiB", title="Memory")
    return figure


def reached(found: dict, plot: str) -> str:
    """When each recipe reached the published one's best, and what a fold of ours spends beside training."""
    published, own, recipe = found["published"], found["ours"], Config.make("commonlit_original")
    (goal, seconds), (best, until) = quality.best(published["curve"]), quality.best(own["curve"])
    took, end = quality.seconds_to(own["curve"], goal), own["curve"][-1]["seconds"]
    by_then = [row for row in published["curve"] if row["seconds"] <= end]
    reaching = (f"{took:,.0f}", f"{seconds / took:.1f} ×") if took < math.inf else ("never", "")
    cells = [
        f"{goal:.4f}", f"{seconds:,.0f}", *reaching,
        f"{best:.4f} after {until:,.0f} s", f"{quality.best(by_then)[0]:.4f}" if by_then else "not evaluated yet",
    ]  # fmt: skip
    spent = ", ".join(f"{name} {value / own['whole']:.1%}" for name, value in own["spent"].items())
    return "\n\n".join([
        about(f"Time to quality: {found['preset']}", found),
        f"Fold {found['fold']} of {published['rows']:,} rows, {published['held_out']} of them held out; one run of "
        "each, one seed, one after the other. Published: its recipe, not tuned for MiniLM, in fp32, the first "
        f"{len(published['curve'])} of its {recipe.epochs:g} epochs; it averages from epoch {recipe.swa_start:g} on. "
        f"Ours: the preset in {own['precision']}. Raw or averaged weights, whichever are better at an evaluation; "
        "seconds from loading the encoder to the evaluation that found the score.",
        table(["published: best RMSE", "its seconds", "ours, s", "ours is", "ours: best RMSE",
               "published: best when ours ended"], [cells]),
        f"Of our fold's {own['whole']:.0f} s: {spent}.",
        picture("RMSE against seconds", plot),
    ])  # fmt: skip


def plot_quality(found: dict) -> plt.Figure:
    figure, axes = plt.subplots()
    for name, colour in (("published", report.GREY), ("ours", report.BLUE)):
        points = found[name]["curve"]
        raw = [(row["seconds"], row["rmse"]) for row in points]
        axes.plot(*zip(*raw, strict=True), "o-", markersize=3, color=colour, label=f"{name}, raw")
        averaged = [(row["seconds"], row["swa_rmse"]) for row in points if "swa_rmse" in row]
        if averaged:
            axes.plot(*zip(*averaged, strict=True), "s--", markersize=3, color=colour, label=f"{name}, averaged")
    title = f"{found['preset']}: RMSE on fold {found['fold']}"
    axes.set(title=title, xlabel="seconds", xscale="log", ylabel="RMSE")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8)
    return figure


def about(title: str, found: dict) -> str:
    """A section's head: command, machine, versions and date."""
    versions = found["versions"]
    return (
        f"## {title}\n\n`{found['command']}` on {found['machine']}; torch {versions['torch']}, "
        f"transformers {versions['transformers']}, Python {versions['python']}; {found['date']}."
    )


def picture(words: str, name: str) -> str:
    return f"![{words}]({name}.png)"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


#: What to write of a file and what to plot, by the beginning of its name, in the order of the page.
SECTIONS = {
    "throughput": (throughput, plot_throughput), "parts": (parts, None), "growth": (grown, plot_growth),
    "quality": (reached, plot_quality),
}  # fmt: skip


def results(folder: Path) -> list[tuple[str, dict]]:
    """The names and contents of the files there are, in the order of the page."""
    paths = [path for start in SECTIONS for path in sorted(folder.glob(f"{start}*.json"))]
    return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def page(folder: Path) -> str:
    """RESULTS.md."""
    text = [INTRODUCTION]
    for name, found in results(folder):
        text.append(SECTIONS[name.split("-")[0]][0](found, name))
    return "\n\n".join(text) + "\n"


def main() -> None:
    report.use_style()
    for name, found in results(HERE):
        if plot := SECTIONS[name.split("-")[0]][1]:
            report.save(plot(found), HERE / f"{name}.png")
    (HERE / "RESULTS.md").write_text(page(HERE), encoding="utf-8")


if __name__ == "__main__":
    main()
