"""The section of RESULTS.md on what the GPU check found, and its plot."""

import statistics
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks import plots, whole_fold
from benchmarks.contestants import NAMES
from benchmarks.gpu import compiled
from benchmarks.gpu.record import outcome
from benchmarks.gpu.summary import against_better, median, ratio, read, speed, tests_summary, title
from benchmarks.gpu.waits import summarize
from benchmarks.sections import picture, section_head, table
from utils.reporting import style

NOTHING = (
    "## On a GPU\n\n`benchmarks/gpu_check.sh` has not run on a GPU yet. "
    "[docs/gpu_check.md](../docs/gpu_check.md) says what it checks and how to run it."
)


def section(folder: Path) -> str:
    """The section of RESULTS.md."""
    results = read(folder)
    if not results:
        return NOTHING
    texts = {"correct": correct_text, "fast": fast_text, "waits": waits_text}
    texts |= {"compile": compile_text, "apex": apex_text}
    parts = [texts.get(result["part"], tests_text)(result, name) for name, result in results.items()]
    return "\n\n".join(parts)


def head(title: str, result: dict) -> str:
    """Heading and origin, and what must be known before the numbers are read."""
    text = section_head(f"On a GPU: {title}", result)
    if result["dry_run"]:
        text += " **A dry run with tiny shapes on a CPU: it shows that the check runs, nothing else.**"
    if not result["finished"]:
        text += f" It was cut off after {result['seconds']:.0f} s; what it had measured by then is here."
    return text


# --- the parts ---------------------------------------------------------------------------------------------


def correct_text(result: dict, name: str) -> str:
    """A row per check, and the scores of both devices."""
    paragraphs = [head("is it correct?", result), checks_table(result)]
    if scores := result.get("rmse"):
        rows = [[what, *(f"{score:.4f}" for score in pair)] for what, pair in scores.items()]
        paragraphs.append(table(["trained", "RMSE here", "RMSE on the CPU in fp32"], rows))
    return "\n\n".join(paragraphs)


def checks_table(result: dict) -> str:
    rows = []
    for entry in result.get("checks", []):
        word, _, rest = outcome(entry).partition(": ")
        rows.append([entry["name"], word, rest.removeprefix(entry["name"]).strip(": ")])
    return table(["check", "result", "found"], rows)


def fast_text(result: dict, name: str) -> str:
    """A row per setting, the demo's fold, what was not measured, and the plot."""
    settings = result.get("settings", [])
    paragraphs = [
        head("is it fast?", result),
        "Tokens per second, and in parentheses the share of the rate of one large matrix product in the same "
        "precision. Each contestant is a process of its own, on the same texts, in turns; medians count. All "
        "texts are longer than the limit, so that nothing is padded. The published loop knows float32 alone: "
        "it is measured once for each shape.",
    ]
    columns = ["setting", *NAMES.values(), "peak memory: ours, least of the others, GiB"]
    columns += ["ours is faster than published", "than the better of Trainer and Lightning"]
    paragraphs.append(table(columns, [setting_row(setting) for setting in settings]))
    errors = [f"{title(s)}: {NAMES[who]}: {why}" for s in settings for who, why in s["errors"].items()]
    if errors:
        paragraphs.append("Not measured: " + "; ".join(sorted(errors)) + ".")
    if missing := result.get("not_measured"):
        paragraphs.append(f"Not measured, since the time was over: {', '.join(missing)}.")
    if "demo" in result:
        paragraphs.append(demo_text(result["demo"]))
    return "\n\n".join([*paragraphs, picture("Share of the matrix rate", name)])


def setting_row(setting: dict) -> list[str]:
    rates = plots.achieved_rates(setting)
    cells = []
    for name in NAMES:
        share = f" ({rates[name][0] / rates[name][1]:.0%})" if name in rates else ""
        cells.append(f"{speed(setting, name):,.0f}{share}" if name in rates else "not measured")
    peaks = {name: peak for name in NAMES if (peak := median(setting, name, "peak_gib"))}
    others = [peak for name, peak in peaks.items() if name != "ours"]
    memory = f"{peaks.get('ours', 0):.1f}, {min(others, default=0):.1f}"
    return [title(setting), *cells, memory, ratio(setting, "published"), against_better(setting)]


def demo_text(demo: dict) -> str:
    if "error" in demo:
        return f"A whole fold of the {demo['preset']} preset: {demo['error']}."
    spent = ", ".join(f"{name} {seconds / demo['whole']:.0%}" for name, seconds in demo["spent"].items())
    return (
        f"A whole fold of the {demo['preset']} preset, evaluations and saving included, in "
        f"{demo['precision']}: {demo['whole']:.1f} s, of which {spent}." + folds_text(demo)
    )


def folds_text(demo: dict) -> str:
    """The seconds of a whole fold by each contestant of benchmarks.whole_fold, as far as measured."""
    folds = {whole_fold.NAMES[name]: runs for name, runs in demo.get("folds", {}).items() if runs}
    if not folds:
        return ""
    listed = ", ".join(f"{name} {statistics.median(runs):.1f} s" for name, runs in folds.items())
    turns = max(map(len, folds.values()))
    return f" Like `benchmarks.whole_fold`, in a process that has begun before, medians of {turns}: {listed}."


def waits_text(result: dict, name: str) -> str:
    """For each case a line, and every call that waits with its source line."""
    paragraphs = [
        head("what does it wait for?", result),
        "Ten steps of each, after five that warm up, each with averaging and followed by the look for a loss "
        "that is no number. The times are of steps that nobody watches; the calls are those of a profiler's "
        "trace, with the innermost function outside torch and its first line, and what torch's own debug "
        "mode reports, with the line itself. An aten operation on a tensor of the CPU waits for nothing; "
        "the cuda calls are what counts.",
    ]
    for case, measured in result.get("cases", {}).items():
        paragraphs.append(f"**{case}**: {summarize(measured)}.")
        rows = [
            [seen_by, where.replace("|", "\\|"), f"{count:g}"]
            for seen_by in ("profiler", "debug_mode")
            for where, count in measured[seen_by].items()
        ]
        paragraphs.append(table(["seen by", "call or line", "times a step"], rows) if rows else "None waits.")
    paragraphs += [f"**{case}** failed: {why}." for case, why in result.get("errors", {}).items()]
    return "\n\n".join(paragraphs)


def compile_text(result: dict, name: str) -> str:
    """The checks, and a line per setting."""
    lines = [f"- {entry['setting']}: {compiled.describe(entry)}." for entry in result.get("speeds", [])]
    return "\n\n".join([head("torch.compile", result), checks_table(result), "\n".join(lines)])


def apex_text(result: dict, name: str) -> str:
    if result.get("why"):
        return f"{head('Apex', result)}\n\nNot run: {result['why']}."
    found = f"{result.get('build')}. {result.get('proof', '')}"
    return "\n\n".join([head("Apex", result), found, checks_table(result)])


def tests_text(result: dict, name: str) -> str:
    return f"{head('the suite’s own tests', result)}\n\n{tests_summary(result)}."


# --- a plot ------------------------------------------------------------------------------------------------


def plot_fast(result: dict) -> plt.Figure:
    """The share of the matrix rate: a panel per precision, a group of bars per shape."""
    settings = result.get("settings", [])
    precisions = list(dict.fromkeys(setting["precision"] for setting in settings))
    figure, axes = plt.subplots(
        max(len(precisions), 1), 1, figsize=(9, 1 + 2.4 * max(len(precisions), 1)), squeeze=False
    )
    for panel, precision in zip(axes[:, 0], precisions, strict=False):
        group = [setting for setting in settings if setting["precision"] == precision]
        for i, name in enumerate(NAMES):
            rates = [plots.achieved_rates(setting).get(name, (0.0, 1.0)) for setting in group]
            heights = [100 * rate / limit for rate, limit in rates]
            color = style.BLUE if name == "ours" else plt.get_cmap("Greys")(0.25 + 0.2 * i)
            places = [x + (i - 1.5) * 0.2 for x in range(len(group))]
            label = "published loop, fp32: % of fp32's rate" if name == "published" else NAMES[name]
            panel.bar(places, heights, 0.19, label=label, color=color)
        labels = [f"{setting['encoder']}\n{setting['batch']} × {setting['length']}" for setting in group]
        panel.set_xticks(range(len(group)), labels)
        panel.set(title=precision, ylabel="% of the matrix rate")
    if settings:
        axes[0, 0].legend(fontsize=8, ncols=4)
    return figure
