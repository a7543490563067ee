"""Draws what the notebooks explain: ``python docs/drawings.py`` writes docs/pictures/*.png.

Whatever looks like a measurement is one: SWA's trajectory is simulated here, rates and shares come from the
demo preset, the ranges of the formats from torch. The folds are made by scikit-learn. The README's picture
has its scores from docs/results.md and its texts from notebook 04.
"""

import base64
import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from sklearn.model_selection import GroupKFold, KFold

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from utils import Config  # noqa: E402
from utils.reporting.style import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, use_style  # noqa: E402

INK, PALE = "#333333", "#F3F4F6"
ARROW = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}


def canvas(width: float, height: float):
    """Axes in inches over the whole figure, without ticks."""
    figure = plt.figure(figsize=(width, height))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes, x, y, width, height, text, colour=GREY, size=9.5, **options) -> None:
    """A rounded box with its lower left corner at (x, y), and centred text; the first line is bold."""
    look = {"boxstyle": "round,pad=0,rounding_size=0.08", "linewidth": 1.4, "edgecolor": colour}
    axes.add_patch(FancyBboxPatch((x, y), width, height, facecolor=options.get("face", "white"), **look))
    title, _, rest = text.partition("\n")
    lines = rest.count("\n") + 1 if rest else 0
    step = size * 1.38 / 72
    top = y + height / 2 + step * lines / 2
    line = {"ha": "center", "va": "center", "color": INK}
    axes.text(x + width / 2, top, title, fontsize=size, weight="bold", **line)
    for number, words in enumerate(rest.split("\n") if rest else []):
        axes.text(x + width / 2, top - step * (number + 1), words, fontsize=size - 1, **line)


def arrow(axes, start, end, text="", where=(0, 0)) -> None:
    """An arrow, and a remark shifted by ``where`` from its middle."""
    axes.annotate("", xy=end, xytext=start, arrowprops=ARROW)
    if text:
        middle = (np.array(start) + end) / 2 + where
        axes.text(*middle, text, fontsize=8.5, color=INK, ha="center", va="center")


def heading(axes, x, y, text) -> None:
    axes.text(x, y, text, fontsize=11.5, weight="bold", color=INK, va="baseline")


def note(axes, x, y, text, size=9, **options) -> None:
    axes.text(x, y, text, fontsize=size, va="top", **({"color": INK, "linespacing": 1.45} | options))


# --- SWA ----------------------------------------------------------------------------------------------------

CURVATURE = np.array([0.55, 1.6])
STEPS, START, EVERY = 90, 40, 5


def simulate(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SGD with noisy gradients in a bowl: the positions, the rates, and the steps that were averaged."""
    noise = np.random.default_rng(seed)
    falling = 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    rates = np.where(np.arange(STEPS) < START, 0.28 * falling, 0.14)
    rates[START : START + 6] += (rates[START - 1] - 0.14) * np.linspace(1, 0, 6)
    rates[:6] *= np.arange(1, 7) / 6
    points = [np.array([-4.6, 1.9])]
    for rate in rates:
        points.append(points[-1] - rate * (CURVATURE * points[-1] + noise.normal(0, 2.4, 2)))
    return np.array(points), rates, np.arange(START + EVERY, STEPS + 1, EVERY)


def draw_trajectory(axes, points, averaged) -> None:
    grid = np.linspace(-5.2, 3.2, 200), np.linspace(-2.4, 2.6, 140)
    x, y = np.meshgrid(*grid)
    loss = (CURVATURE[0] * x**2 + CURVATURE[1] * y**2) / 2
    axes.contourf(*grid, loss**0.5, levels=12, cmap="Blues", alpha=0.55)
    axes.contour(*grid, loss**0.5, levels=12, colors="white", linewidths=0.7)
    axes.plot(*points[: START + 1].T, "-", color=GREY, linewidth=1.2, label="before averaging")
    axes.plot(*points[START:].T, "-", color=BLUE, linewidth=1.2, label="raw weights, SWA's rate")
    axes.plot(*points[averaged].T, "o", color=BLUE, markersize=6, label="weights that are averaged")
    mean = points[averaged].mean(axis=0)
    axes.plot(*mean, "*", color=ORANGE, markersize=20, markeredgecolor="black", label="their mean")
    axes.plot(*points[-1], "s", color="white", markersize=8, markeredgecolor="black", label="last weights")
    axes.plot(0, 0, "+", color="black", markersize=11, markeredgewidth=1.6, label="lowest loss")
    axes.set(xlim=(-5.2, 3.2), ylim=(-2.4, 2.6), xticks=[], yticks=[], xlabel="one weight", ylabel="another")
    axes.set_title("The raw weights wander; their mean lies inside")
    axes.grid(visible=False)
    axes.legend(
        fontsize=8.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.07),
        ncols=3,
        columnspacing=1.2,
        markerscale=0.8,
    )


def draw_strip(axes, rates, averaged) -> None:
    axes.plot(rates, color=INK, linewidth=1.6)
    axes.axvspan(START, STEPS, color=ORANGE, alpha=0.12)
    axes.plot(averaged - 1, rates[averaged - 1], "o", color=BLUE, markersize=5)
    axes.set(xlim=(0, STEPS), ylim=(0, 0.3), yticks=[], xticks=[0, START, STEPS])
    axes.set_xticklabels(["0", "swa_start", "end"])
    axes.set_title("Learning rate: falls, then stays up while weights are averaged", fontsize=9.5)
    axes.grid(visible=False)


def swa() -> plt.Figure:
    points, rates, averaged = simulate()
    figure = plt.figure(figsize=(10, 6.2))
    figure.set_layout_engine("none")
    draw_trajectory(figure.add_axes((0.05, 0.42, 0.50, 0.52)), points, averaged)
    draw_strip(figure.add_axes((0.05, 0.08, 0.50, 0.14)), rates, averaged)
    axes = figure.add_axes((0.58, 0.0, 0.42, 1.0))
    axes.set(xlim=(0, 4.2), ylim=(0, 6.2))
    axes.axis("off")
    heading(axes, 0.1, 5.79, "Two models in memory")
    box(axes, 0.1, 4.62, 1.6, 0.95, "raw  $w$\ntrained at\nevery step", BLUE)
    box(axes, 2.4, 4.62, 1.7, 0.95, "averaged  $\\bar{w}$\nnever trained;\nkept in float32", ORANGE)
    arrow(axes, (1.72, 5.1), (2.38, 5.1))
    heading(axes, 0.1, 4.24, "The running mean, after every interval")
    note(axes, 0.45, 4.0, r"$\bar{w} \;\leftarrow\; \bar{w} + \dfrac{w - \bar{w}}{n + 1}$", 15)
    note(
        axes, 0.1, 3.2,
        "$n$ counts what has been averaged so far.\nNo history is kept: the cost is one more\n"
        "copy of the weights and a few operations.",
    )  # fmt: skip
    heading(axes, 0.1, 2.22, "And batch norm?")
    note(
        axes,
        0.1,
        2.05,
        "Encoders of text have LayerNorm. It measures\neach token afresh, so there is nothing to redo.",
    )
    note(
        axes, 0.1, 1.5,
        "BatchNorm keeps running means and variances\nof activations. Those of the raw weights do\n"
        "not fit the averaged ones: update_bn() must\npass the training texts through once more.\n"
        "The suite does so if a model has BatchNorm.",
    )  # fmt: skip
    note(axes, 0.1, 0.3, "Simulated: SGD in a bowl, with noisy gradients.", 8, color="#666666")
    return figure


# --- layers -------------------------------------------------------------------------------------------------


def layers() -> plt.Figure:
    config, n_layers = Config.make("demo"), 6
    names = ["embeddings", *(f"layer {number}" for number in range(n_layers)), "head"]
    encoder = [config.lr * config.layer_decay ** (n_layers - i) for i in range(n_layers + 1)]
    rates = [*encoder, config.lr * config.head_lr_factor]
    shares = torch.tensor([-3.0] * n_layers + [0.0]).softmax(0).tolist()
    figure, axes = canvas(10, 5.2)
    heading(axes, 0.25, 4.87, "Layer-wise learning rates (LLRD)")
    heading(axes, 5.35, 4.87, "Weighted layer pooling")
    ys = [0.95 + 0.47 * i for i in range(n_layers + 1)] + [4.4]
    for i, (name, y) in enumerate(zip(names, ys, strict=True)):
        colour = ORANGE if name == "head" else BLUE
        box(axes, 0.25, y, 1.15, 0.35, name, colour, 8.5, face=PALE)
        along = 1.75 + 1.9 * np.log(rates[i] / min(rates)) / np.log(max(rates) / min(rates))
        axes.plot([1.6, along], [y + 0.175] * 2, color="#E5E5E5", linewidth=1, zorder=0)
        axes.plot(along, y + 0.175, "o", color=colour, markersize=9)
        axes.text(along + 0.14, y + 0.175, f"{rates[i]:.1e}", fontsize=8.5, va="center", color=INK)
        if i and name != "head":
            arrow(axes, (0.82, y - 0.12), (0.82, y))
    arrow(axes, (0.82, 4.12), (0.82, 4.4))
    note(
        axes, 0.25, 0.72,
        f"Peak rates of the demo, on a logarithmic scale. Each layer has {config.layer_decay:g}\n"
        f"times the rate of the one above; the head has {config.head_lr_factor:g} times the top layer's.",
        8.5,
    )  # fmt: skip
    for i, y in enumerate(ys[:-1]):
        for token in range(5):
            axes.add_patch(plt.Rectangle((5.35 + 0.26 * token, y + 0.06), 0.21, 0.23, color=BLUE, alpha=0.35))
        arrow(axes, (6.68, y + 0.175), (6.98, y + 0.175))
        axes.add_patch(plt.Rectangle((7.03, y + 0.06), 0.21, 0.23, color=BLUE))
        axes.text(7.36, y + 0.175, f"× {shares[i]:.1%}", fontsize=8.5, va="center", color=INK)
        arrow(axes, (7.98, y + 0.175), (8.65, 2.5))
    axes.add_patch(plt.Circle((8.85, 2.5), 0.2, facecolor="white", edgecolor=INK, linewidth=1.3))
    axes.text(8.85, 2.5, "Σ", fontsize=13, ha="center", va="center", color=INK)
    arrow(axes, (8.85, 2.71), (8.85, 3.28))
    box(axes, 8.4, 3.3, 1.35, 0.62, f"head\n{config.n_dropouts} dropout masks", ORANGE, 9, face=PALE)
    arrow(axes, (9.07, 3.94), (9.07, 4.3))
    axes.text(9.07, 4.42, "prediction", fontsize=9.5, weight="bold", ha="center", va="center", color=INK)
    labels = {"ha": "center", "fontsize": 8.5, "color": INK, "va": "center"}
    axes.text(5.97, 4.3, "tokens' vectors", **labels)
    axes.text(7.13, 4.3, "mean", **labels)
    note(axes, 5.35, 0.72, "The shares are a softmax, learnt with the model. Training starts from those\n"
         "shown: the weights are −3, and 0 for the last layer.", 8.5)  # fmt: skip
    return figure


# --- mixed precision ----------------------------------------------------------------------------------------


def precision() -> plt.Figure:
    figure, axes = canvas(10, 5.9)
    heading(axes, 0.25, 5.59, "One step in float16")
    box(axes, 0.25, 4.25, 1.75, 0.95, "weights\nfloat32\nwhat is kept and saved", BLUE, 9)
    box(axes, 2.75, 4.75, 2.15, 0.8, "matrix products\nfloat16: fast", ORANGE, 9)
    box(axes, 2.75, 3.85, 2.15, 0.8, "softmax, norms, loss\nfloat32: delicate sums", BLUE, 9)
    box(axes, 5.65, 4.25, 1.75, 0.95, "loss × S\nso that small gradients\nsurvive float16", GREEN, 9)
    box(axes, 8.1, 4.25, 1.65, 0.95, "gradients\nbackward in float16,\nthen divided by S", ORANGE, 9)
    arrow(axes, (2.02, 4.85), (2.73, 5.1), "cast", (-0.06, 0.16))
    arrow(axes, (2.02, 4.6), (2.73, 4.3))
    arrow(axes, (4.92, 5.1), (5.63, 4.85))
    arrow(axes, (4.92, 4.3), (5.63, 4.6))
    arrow(axes, (7.42, 4.72), (8.08, 4.72))
    box(axes, 5.65, 3.0, 1.75, 0.62, "overflow?\nskip the step, halve S", PURPLE, 9)
    box(axes, 0.25, 3.0, 2.6, 0.62, "optimizer's step\nin float32, on the float32 weights", BLUE, 9)
    axes.plot([8.92, 8.92], [4.23, 3.31], color="#555555", linewidth=1.3)
    arrow(axes, (8.92, 3.31), (7.42, 3.31))
    arrow(axes, (5.63, 3.31), (2.87, 3.31), "no: step; after 2,000 such, double S", (0, 0.15))
    arrow(axes, (1.12, 3.64), (1.12, 4.23))
    heading(axes, 0.25, 2.46, "What each format can hold")
    formats = [
        ("float32", torch.float32, "8 exponent + 23 fraction bits", "≈ 7 digits", BLUE),
        ("bfloat16", torch.bfloat16, "8 + 7", "2 to 3 digits; no scaling needed", GREEN),
        ("float16", torch.float16, "5 + 10", "3 to 4 digits; small gradients vanish", ORANGE),
    ]

    def place(value):
        return 5.6 + 4.1 * (np.log10(value) + 46) / 86

    for number, (name, dtype, bits, digits, colour) in enumerate(formats):
        y, info = 1.75 - 0.48 * number, torch.finfo(dtype)
        low, normal, high = (
            place(info.smallest_normal * info.eps),
            place(info.smallest_normal),
            place(info.max),
        )
        axes.text(0.25, y, name, fontsize=9.5, weight="bold", color=colour, va="center")
        axes.text(1.2, y, bits, fontsize=8.5, color=INK, va="center")
        axes.text(3.1, y, digits, fontsize=8.5, color=INK, va="center")
        axes.barh(y, high - normal, 0.24, left=normal, color=colour)
        axes.barh(y, normal - low, 0.24, left=low, color=colour, alpha=0.35)
    for power in (-45, -30, -15, 0, 15, 30):
        axes.plot([place(10.0**power)] * 2, [0.55, 2.0], color="#CCCCCC", linewidth=0.8, zorder=0)
        axes.text(place(10.0**power), 0.43, f"$10^{{{power}}}$", fontsize=8.5, ha="center", color=INK)
    note(axes, 5.6, 2.35, "pale: fewer digits (subnormal)", 8.5)
    note(
        axes, 0.25, 0.28,
        "bfloat16 has float32's range, so that S stays 1. Apex O1 and torch's autocast work as drawn; "
        "Apex O2 holds the model itself in float16, beside float32 copies.", 8.5,
    )  # fmt: skip
    return figure


# --- folds --------------------------------------------------------------------------------------------------


def folds() -> plt.Figure:
    groups = np.repeat(np.arange(5), 4)
    splits = {
        "KFold: texts at random": KFold(5, shuffle=True, random_state=2021).split(groups),
        "By group: whole topics": GroupKFold(5).split(groups, groups=groups),
    }
    figure, axes = canvas(10, 4.0)
    for left, (title, parts) in zip((0.25, 5.35), splits.items(), strict=True):
        heading(axes, left, 3.69, title)
        leaks = 0
        for fold, (train, held_out) in enumerate(parts):
            x = left + 0.9 * fold
            axes.text(x + 0.38, 3.33, f"fold {fold}", fontsize=9, ha="center", color=INK)
            for row, text in enumerate(sorted(held_out, key=lambda text: groups[text])):
                shared, y = fold == 0 and groups[text] in groups[train], 2.7 - 0.52 * row
                leaks += shared
                edge = {"edgecolor": "black" if shared else "white", "linewidth": 2.2 if shared else 0}
                look = {
                    "boxstyle": "round,pad=0,rounding_size=0.06",
                    "facecolor": PALETTE[groups[text]],
                    **edge,
                }
                axes.add_patch(FancyBboxPatch((x, y), 0.76, 0.4, **look))
                label = {"ha": "center", "va": "center", "color": "white", "fontsize": 9, "weight": "bold"}
                axes.text(x + 0.38, y + 0.2, f"topic {'ABCDE'[groups[text]]}", **label)
        axes.plot([left + 0.83] * 2, [1.05, 3.5], color=INK, linewidth=1, linestyle="--")
        verdict = (
            "No topic is on both sides. The score says how well\nthe model reads what it has never seen."
        )
        if leaks:
            verdict = f"{leaks} of fold 0's 4 texts (outlined) have a topic that the model\nhas trained on: "
            verdict += "it may know the topic, not the task."
        note(axes, left, 0.88, verdict, 9)
    note(
        axes,
        0.25,
        0.28,
        "Fold 0 is held out, left of the dashed line; the model trains on folds 1 to 4.",
        8.5,
        color="#666666",
    )
    return figure


# --- the suite ----------------------------------------------------------------------------------------------


def flow() -> plt.Figure:
    figure, axes = canvas(10, 4.5)
    box(axes, 0.25, 2.9, 1.7, 1.1, "your table\nCSV, Excel, JSON;\nid, text, targets", GREEN)
    box(axes, 0.25, 1.2, 1.7, 1.1, "settings\npreset, and what\nyou change", GREEN)
    box(axes, 2.6, 2.05, 1.7, 1.1, "checked\nrow by row, then\nsplit into folds", BLUE)
    arrow(axes, (1.97, 3.4), (2.58, 2.85))
    arrow(axes, (1.97, 1.8), (2.58, 2.35))
    for number in range(5):
        box(axes, 4.95, 3.65 - 0.75 * number, 1.75, 0.55, f"fold {number}", BLUE, face=PALE)
        y = 3.92 - 0.75 * number
        arrow(axes, (4.32, 2.84 - 0.12 * number), (4.93, y))
        arrow(axes, (6.72, y), (7.33, 3.1 - 0.25 * number))
    note(axes, 5.82, 0.42, "trained by notebook 02,\none process each", 8.5, ha="center")
    box(
        axes,
        7.35,
        1.75,
        2.4,
        1.7,
        "output/<run>/fold-<k>\nweights: last, best,\naveraged (SWA);\npredictions, scores,\n"
        "settings, history",
        ORANGE,
    )
    arrow(axes, (8.55, 3.47), (8.55, 3.78))
    box(axes, 7.35, 3.8, 2.4, 0.5, "03 did averaging help?", PURPLE)
    arrow(axes, (7.9, 1.73), (7.9, 1.3))
    arrow(axes, (9.16, 1.73), (9.16, 1.3))
    box(axes, 7.35, 0.6, 1.1, 0.68, "04 LIT\nwhat it read", PURPLE, 9)
    box(axes, 8.57, 0.6, 1.18, 0.68, "06 submission\ntest.csv", PURPLE, 9)
    note(axes, 0.25, 0.42, "Later notebooks read the folds' folders and nothing else.", 8.5, color="#666666")
    return figure


# --- the front door -----------------------------------------------------------------------------------------


def clear_scores() -> dict[str, list[str]]:
    """The table of docs/results.md: fold, and the cells of last, best and averaged weights."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    rows = [[cell.strip(" *") for cell in line] for line in lines]
    return {row[0].split(",")[0]: row[1:] for row in rows if re.match(r"\d|all", row[0])}


def committed_words() -> np.ndarray:
    """The easiest and the hardest text of notebook 04, as it was executed last."""
    notebook = nbformat.read(ROOT / "notebooks" / "04_lit_interpretation.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "easy-hard.png" in cell.source]
    (output,) = [output.data for output in cell.outputs if "image/png" in output.get("data", {})]
    return plt.imread(io.BytesIO(base64.b64decode(output["image/png"])))


def draw_clear(axes) -> None:
    rows = clear_scores()
    looks = zip(("last", "best epoch", "averaged"), (BLUE, GREEN, ORANGE), strict=True)
    for i, (name, colour) in enumerate(looks):
        for y, (fold, cells) in enumerate(rows.items()):
            score, *ends = map(float, re.findall(r"\d\.\d+", cells[i]))
            at, size, label = y + 0.2 * (i - 1), 9 if fold == "all" else 6, name if y == 0 else None
            axes.plot(score, at, "o", color=colour, markersize=size, label=label)
            if ends:
                axes.plot(ends, [at, at], color=colour, linewidth=1.6)
    axes.set_yticks(range(len(rows)), [f"fold {fold}" if fold != "all" else "all folds" for fold in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="RMSE, lower is better (lines: 95 % intervals)")
    axes.set_title("CLEAR, five folds: averaged weights (SWA) against the last and the best epoch's")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def hero() -> plt.Figure:
    figure = plt.figure(figsize=(9.5, 6.0))
    figure.set_layout_engine("none")
    draw_clear(figure.add_axes((0.08, 0.52, 0.76, 0.42)))
    axes = figure.add_axes((0.01, 0.0, 0.98, 0.38))
    axes.imshow(committed_words(), interpolation="lanczos")
    axes.axis("off")
    axes.set_title("What the demo's model read: blue words raised a score, orange ones lowered it", pad=10)
    return figure


def save(figure: plt.Figure, path: Path) -> None:
    """A small opaque PNG of at most 256 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130 if path.stem == "hero" else 160)
    image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(path, optimize=True, dpi=(160, 160))


DRAWINGS = (swa, layers, precision, folds, flow, hero)

if __name__ == "__main__":
    use_style()
    for draw in DRAWINGS:
        save(draw(), ROOT / "docs" / "pictures" / f"{draw.__name__}.png")
