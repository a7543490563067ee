"""The sections of RESULTS.md, each from the measurements of one JSON file and the name of its plot."""

import math
import statistics

from benchmarks import plots, quality
from benchmarks.contestants import NAMES
from benchmarks.growth import exponent
from benchmarks.parts import OPTIMIZERS
from utils.config import Config

CONDITIONS = (
    "All but the published loop train on exactly the same batches, grouped by length and padded to a "
    "multiple of 8, without dropout in the encoder. On a CPU the Trainer and Lightning use torch's "
    "attention, their default. Lightning uses AdamW without fusing, since it does not clip the gradients "
    "of a fused one. No averaging falls into the timed steps, neither ours nor Lightning's. Ours is the "
    "bare loop of steps; what a fold does besides is listed below the table. Padding does not count as "
    "tokens."
)


# --- training speed ----------------------------------------------------------------------------------------


def throughput_section(measurements: dict, plot: str) -> str:
    """The contestants in each setting, and where our time goes."""
    heading = section_head("Training speed compared with the alternatives", measurements)
    text = [f"{heading} Lightning {measurements['versions']['lightning']}.", CONDITIONS]
    for setting in measurements["settings"]:
        turns = setting["turns"]
        text.append(
            f"**{setting['encoder']}, {setting['batch']} texts of at most {setting['length']} tokens, "
            f"{setting['precision']}** (the published loop: fp32). Data: {setting['data']}, "
            f"{setting['mean_length']:.0f} tokens per text. {setting['steps']} steps; medians of "
            f"{len(turns)} turns, with the range of the speed-up within a turn in parentheses."
        )
        columns = ["", "tokens/s", "texts/s", "share of the matrix rate", "peak memory, GiB"]
        rows = [contestant_row(setting, name) for name in NAMES]
        text.append(table([*columns, "time to the first step, s", "speed-up of ours"], rows))
        limits = {
            name: statistics.median(turn["limits"][name] for turn in turns) for name in turns[0]["limits"]
        }
        rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in limits.items())
        text.append(f"The matrix rate is that of one large product: {rates}. {phases(setting)}".strip())
    return "\n\n".join([*text, picture("Achieved rate and the machine's limit", plot)])


def contestant_row(setting: dict, name: str) -> list[str]:
    runs = [turn["runs"][name] for turn in setting["turns"] if turn["runs"][name]]
    if not runs:
        return [NAMES[name], "failed", *[""] * 5]
    keys = "tokens_per_second", "peak_gib", "to_first_step"
    speed, memory, start = (statistics.median(run[key] for run in runs) for key in keys)
    rate, limit = plots.achieved_rates(setting)[name]
    speeds = [f"{speed:,.0f}", f"{speed / setting['mean_length']:.1f}", f"{rate / limit:.0%}"]
    return [NAMES[name], *speeds, f"{memory:.1f}", f"{start:.1f}", speed_up(setting, name)]


def speed_up(setting: dict, name: str) -> str:
    """How many times as fast as the contestant ours is: the median over turns, and the range."""
    pairs = [(turn["runs"]["ours"], turn["runs"][name]) for turn in setting["turns"]]
    ratios = [
        ours["tokens_per_second"] / other["tokens_per_second"] for ours, other in pairs if ours and other
    ]
    if name == "ours" or not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"


def phases(setting: dict) -> str:
    """Where our time goes; empty if that could not be measured."""
    seconds = setting["phases"]
    if seconds is None:
        return ""
    names = ("forward", "backward", "clip", "optimizer")
    step = sum(seconds[name] for name in names)
    parts = ", ".join(f"{name} {1000 * seconds[name]:.0f} ms ({seconds[name] / step:.1%})" for name in names)
    runs = [turn["runs"]["ours"] for turn in setting["turns"] if turn["runs"]["ours"]]
    evaluation, ratio = seconds["evaluation, tokens/s"], ""
    if runs:
        speed = statistics.median(run["tokens_per_second"] for run in runs)
        ratio = f", {evaluation / speed:.1f} times the training rate"
    return (
        f"A step of ours: {parts}. Besides the steps: tokenising {1000 * seconds['tokenise']:.2f} ms per "
        f"text, once; evaluation {evaluation:,.0f} tokens/s{ratio}; averaging "
        f"{1000 * seconds['averaging']:.0f} ms; saving a checkpoint {seconds['saving a state']:.1f} s."
    )


# --- parts of a step ---------------------------------------------------------------------------------------


def parts_section(measurements: dict, plot: str) -> str:
    """Steps with one thing changed, and optimizers next to the time that their memory traffic takes."""
    runs = {name: runs for name, runs in measurements["runs"].items() if runs}
    steps = [step_row(measurements, name) for name in runs if name not in OPTIMIZERS]
    optimizers = [optimizer_row(name, runs[name]) for name in runs if name in OPTIMIZERS]
    paragraphs = [
        section_head(f"The parts of a step: {measurements['precision']}", measurements),
        f"Whole steps (forward, backward, clipping, fused AdamW) of MiniLM on {measurements['batch']} texts "
        f"of {measurements['length']} tokens each; medians of {measurements['repeats']} turns of seven "
        "steps, each in a process of its own. Training on a CPU uses attention by plain products in bf16 and "
        "torch's attention otherwise, so that row differs from 1.00 × by noise alone.",
        table(["", "ms", "share of the matrix rate", "peak memory, GiB", "relative time"], steps),
        "One step of each optimizer over MiniLM's 22.6 million weights, and the time that reading and "
        "writing weights, gradients and state once takes at the measured copy rate (reading is faster than "
        "writing, and an optimizer reads more than a copy does):",
        table(["", "ms", "memory traffic, ms", "ratio"], optimizers),
    ]
    return "\n\n".join(paragraphs)


def step_row(measurements: dict, name: str) -> list[str]:
    runs, as_trained = measurements["runs"][name], measurements["runs"]["as trained"]
    seconds = statistics.median(run["seconds"] for run in runs)
    share = measurements["flops"] / seconds / statistics.median(measurements["rates"])
    memory = statistics.median(run["peak_gib"] for run in runs)
    ratio = ""
    if as_trained:
        ratio = f"{seconds / statistics.median(run['seconds'] for run in as_trained):.2f} ×"
    return [name, f"{1000 * seconds:.0f}", f"{share:.0%}", f"{memory:.1f}", ratio]


def optimizer_row(name: str, runs: list[dict]) -> list[str]:
    seconds, traffic = (statistics.median(run[key] for run in runs) for key in ("seconds", "traffic_seconds"))
    return [name, f"{1000 * seconds:.1f}", f"{1000 * traffic:.1f}", f"{seconds / traffic:.2f} ×"]


# --- growth ------------------------------------------------------------------------------------------------


def growth_section(measurements: dict, plot: str) -> str:
    """Costs at the smallest and largest of each size, and the exponents."""
    rows = []
    for size, points in measurements["curves"].items():
        for cost in next(iter(points.values())):
            sizes, costs = plots.sizes_and_costs(points, cost)
            ends = [f"{costs[i]:.2g} at {sizes[i]:,.0f}" for i in (0, -1)]
            rows.append([size, cost, *ends, f"{exponent(sizes, costs):.2f}"])
    paragraphs = [
        section_head("How cost grows", measurements),
        "Rows: a whole fold with the `tiny` encoder (one epoch, 64 tokens), whose own work is so small that "
        "everything else shows. Length, batch and layers: steps of a model of MiniLM's shape (8 texts of 128 "
        "tokens, 6 layers, unless varied). One run per point. The exponent p of cost = c sizeᵖ is fitted to "
        "the larger half of the sizes.",
        table(["size", "cost", "smallest", "largest", "exponent"], rows),
        picture("Time and memory against rows, length, batch and layers", plot),
    ]
    return "\n\n".join(paragraphs)


# --- time to quality ---------------------------------------------------------------------------------------


def quality_section(measurements: dict, plot: str) -> str:
    """When ours reached the published recipe's best score, and what our fold spends besides training."""
    published, ours = measurements["published"], measurements["ours"]
    recipe, whole = Config.make("commonlit_original"), ours["whole"]
    spent = ", ".join(f"{name} {seconds / whole:.1%}" for name, seconds in ours["spent"].items())
    columns = ["published: best RMSE", "after, s", "ours reached it after, s", "speed-up of ours"]
    columns += ["ours: best RMSE", "published: best by the end of ours"]
    paragraphs = [
        section_head(f"Time to quality: {measurements['preset']}", measurements),
        f"Fold {measurements['fold']} of {published['rows']:,} rows, {published['held_out']} of them held "
        "out; one run of each, one seed, one after the other. Published: the published recipe, not tuned "
        f"for MiniLM, in fp32, the first {len(published['curve'])} of its {recipe.epochs:g} epochs; it "
        f"averages from epoch {recipe.swa_start:g} on. Ours: the preset in {ours['precision']}. Each "
        "evaluation counts with the better of raw and averaged weights; seconds count from loading the "
        "encoder to the evaluation.",
        table(columns, [quality_row(published["curve"], ours["curve"])]),
        f"Of our fold's {whole:.0f} s: {spent}.",
        picture("RMSE against seconds", plot),
    ]
    return "\n\n".join(paragraphs)


def quality_row(published: list[dict], ours: list[dict]) -> list[str]:
    """From the two curves."""
    (goal, seconds), (best, best_seconds) = quality.best(published), quality.best(ours)
    reached = quality.seconds_to(ours, goal)
    cells = [f"{reached:,.0f}", f"{seconds / reached:.1f} ×"] if reached < math.inf else ["never", ""]
    by_then = [row for row in published if row["seconds"] <= ours[-1]["seconds"]]
    published_by_then = f"{quality.best(by_then)[0]:.4f}" if by_then else "not evaluated yet"
    return [
        f"{goal:.4f}",
        f"{seconds:,.0f}",
        *cells,
        f"{best:.4f} after {best_seconds:,.0f} s",
        published_by_then,
    ]


# --- helpers -----------------------------------------------------------------------------------------------


def section_head(title: str, measurements: dict) -> str:
    """Heading, command, machine, versions and date."""
    versions = measurements["versions"]
    return (
        f"## {title}\n\n`{measurements['command']}` on {measurements['machine']}; torch {versions['torch']}, "
        f"transformers {versions['transformers']}, Python {versions['python']}; {measurements['date']}."
    )


def picture(description: str, name: str) -> str:
    return f"![{description}]({name}.png)"


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
