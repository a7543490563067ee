"""Pictures of what a model makes of words: texts coloured word by word, attention, maps, edits."""

import difflib
import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from utils.config import GROUPED, Config
from utils.reporting.style import BLUE, GREY, ORANGE, literal, styled

#: Blue raises a score, orange lowers it. Both are pale near zero, so that black letters stay legible.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#F0A06A", "#FFFFFF", "#6FB3DE"])
UNSIGNED = LinearSegmentedColormap.from_list("unsigned", ["#FFFFFF", "#5DBB94"])
_FONT, _SIZE = FontProperties(size=8), 8
_LINE, _SPACE = 1.75 * _SIZE, 0.45 * _SIZE  # height of a line and width of a space, in points
_DPI = 88  # at matplotlib's usual resolution, these pictures would make a notebook larger than 1 MB


def plot_words(
    panels: dict[str, tuple[list[str], np.ndarray, bool]], explained: str = "score", width: float = 9.5
):
    """Texts side by side, each word on a background of its colour.

    Args:
        panels: title: (words, values, whether they are signed). The largest absolute value of a panel gets
            the deepest colour.
        explained: what blue raises; it stands above the panels unless it is the score.
        width: of the whole, in inches.
    """
    column = (width - 0.35 * len(panels)) / len(panels) * 72  # points
    layouts = {title: _layout(words, column) for title, (words, _, _) in panels.items()}
    n_lines = max((line for layout in layouts.values() for line, _, _ in layout), default=0) + 1
    height = n_lines * _LINE
    size = (width, height / 72 + (0.4 if explained == "score" else 0.7))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, dpi=_DPI)
    if explained != "score":
        title = literal(f"What raises (blue) and lowers (orange) the {explained}")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    for axis, (title, (words, values, signed)) in zip(axes[0], panels.items(), strict=True):
        shares = np.asarray(values) / max(np.abs(values).max(initial=0.0), 1e-12)
        for word, share, (line, start, length) in zip(words, shares, layouts[title], strict=True):
            colour = SIGNED((share + 1) / 2) if signed else UNSIGNED(abs(share))
            _draw_word(axis, word, colour, start, height - (line + 1) * _LINE, length)
        axis.set(xlim=(-2, column + 2), ylim=(0, height), title=literal(title))
        axis.axis("off")
    return figure


def _layout(words: list[str], width: float) -> list[tuple[int, float, float]]:
    """For each word its line, where it starts and how long it is, in points."""
    layout, line, start = [], 0, 0.0
    for word in words:
        length = TextToPath().get_text_width_height_descent(word, _FONT, False)[0]
        if start and start + length > width:
            line, start = line + 1, 0.0
        layout.append((line, start, length))
        start += length + _SPACE
    return layout


def _draw_word(axis, word: str, colour, x: float, y: float, length: float) -> None:
    axis.add_patch(plt.Rectangle((x - 1, y), length + 2, 0.86 * _LINE, color=colour, linewidth=0))
    axis.text(x, y + _SPACE, word, fontproperties=_FONT, color="black", parse_math=False)


def plot_attention(tokens: list[str], attention: np.ndarray | None):
    """Every head of every layer as a small square: a row per attending token, a column per attended token.

    Args:
        attention: (layers, heads, tokens, tokens), or None for an encoder without; there is no picture then.
    """
    if attention is None:
        print("This encoder gives no attention between all pairs of tokens, so there is no picture of it.")
        return None
    layers, heads = attention.shape[:2]
    size = (9.5, 9.5 * layers / heads + 0.5)
    figure, axes = plt.subplots(layers, heads, figsize=size, squeeze=False, dpi=_DPI)
    for (layer, head), axis in np.ndenumerate(axes):
        axis.imshow(attention[layer, head] ** 0.5, cmap="Blues", vmin=0, vmax=1)  # the root shows small ones
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(True)
        axis.spines[:].set_color("#CCCCCC")
        if layer == 0:
            axis.set_title(f"{head}", fontsize=8, fontweight="normal", loc="center")
        if head == 0:
            axis.set_ylabel(f"layer {layer}", fontsize=8)
    title = f"Attention of {layers} × {heads} heads over {len(tokens)} tokens"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def plot_heads(tokens: list[str], attention: np.ndarray | None, chosen: list[tuple[int, int]]):
    """Some heads, (layer, head) from 0, large enough to read."""
    if attention is None:
        return None
    side, labels = max(3.0, 0.2 * len(tokens) + 1.0), list(map(literal, tokens))
    figure, axes = plt.subplots(1, len(chosen), figsize=(side * len(chosen), side), squeeze=False, dpi=_DPI)
    for axis, (layer, head) in zip(axes[0], chosen, strict=True):
        image = axis.imshow(attention[layer, head], cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=8)
        axis.set_yticks(range(len(tokens)), labels, fontsize=8)
        axis.grid(visible=False)
        title = f"layer {layer}, head {head}"
        axis.set(title=title, xlabel="attended token", ylabel="attending token")
    figure.colorbar(image, ax=axes[0].tolist(), label="share of attention", shrink=0.8)
    return figure


def telling_heads(tokens: list[str], attention: np.ndarray | None, count: int = 3) -> list[tuple[int, int]]:
    """The heads that attend most to single words, not to special tokens, punctuation or everything."""
    if attention is None:
        return []
    words = [i for i, token in enumerate(tokens) if token.isalpha()]
    focus = attention[:, :, words][:, :, :, words].max(axis=-1).mean(axis=-1)  # (layers, heads)
    order = np.argsort(-focus, axis=None)[:count]
    layers, heads = np.unravel_index(order, focus.shape)
    return list(zip(layers.tolist(), heads.tolist(), strict=True))


def plot_maps(
    maps: dict[str, np.ndarray],
    target: np.ndarray,
    error: np.ndarray,
    names: tuple[str, str] = ("target", "prediction minus target"),
):
    """The texts' embeddings in two dimensions, a row per method, coloured by target and by error.

    Args:
        maps: method: points, (texts, 2 or more).
        target, error: (texts,), the error as prediction minus target.
        names: what the two are called.
    """
    figure, panels = plt.subplots(len(maps), 2, figsize=(9.5, 3.6 * len(maps)), squeeze=False, dpi=_DPI)
    limit = np.abs(error).max()
    colourings = {
        names[0]: (target, {"cmap": "viridis"}),
        names[1]: (error, {"cmap": "PuOr", "vmin": -limit, "vmax": limit}),
    }
    for row, (method, points) in zip(panels, maps.items(), strict=True):
        for axis, (name, (values, colours)) in zip(row, colourings.items(), strict=True):
            x, y = points[:, :2].T
            scatter = axis.scatter(x, y, c=values, s=36, edgecolor="#555555", linewidth=0.4, **colours)
            figure.colorbar(scatter, ax=axis, label=literal(name))
            axis.set(title=literal(f"{method}, by {name}"), xlabel=f"{method} 1", ylabel=f"{method} 2")
    return figure


def word_effects(texts: list[tuple[list[str], np.ndarray]], at_least: int = 5) -> pd.DataFrame:
    """The mean effect of each word that occurs often enough, and its standard error.

    Args:
        texts: of each its words and their values.

    Returns:
        Columns word (lower case, without punctuation), count, mean, error; sorted by mean.
    """
    rows = [
        (re.sub(r"^\W+|\W+$", "", word).lower(), value)
        for words, values in texts
        for word, value in zip(words, values, strict=True)
    ]
    values = pd.DataFrame(rows, columns=["word", "value"]).query("word != ''").groupby("word")["value"]
    effects = values.agg(count="size", mean="mean", error="sem").reset_index()
    return effects[effects["count"] >= at_least].sort_values("mean", ignore_index=True)


def plot_effects(effects: pd.DataFrame, explained: str = "score", each: int = 12):
    """The words that lower and raise what is explained most, with standard errors."""
    chosen = pd.concat([effects.head(each), effects.tail(each)]).drop_duplicates("word")
    figure, axis = plt.subplots(figsize=(7.5, 0.22 * len(chosen) + 0.9))
    names = [f"{literal(row.word)} ({row.count})" for row in chosen.itertuples()]
    colours = np.where(chosen["mean"] < 0, ORANGE, BLUE)
    bars = {"ecolor": GREY, "elinewidth": 1}
    axis.barh(names, chosen["mean"], xerr=chosen["error"], color=colours, error_kw=bars)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.tick_params(axis="y", labelsize=8)
    axis.grid(axis="y", visible=False)
    axis.set(
        title="Words by their mean effect (times seen)",
        xlabel=literal(f"mean attribution to the {explained}"),
    )
    return figure


def contrast(rows: list[dict], values: np.ndarray, config: Config) -> tuple[dict, dict]:
    """The rows (as LIT has them) with the highest and lowest value, of one group if folds keep groups."""
    group = config.group_column if config.fold_by in GROUPED else ""
    groups, numbers = pd.Series([row["data"].get(group) for row in rows]), pd.Series(values)
    if groups.notna().any() and groups.duplicated().any():
        spread = numbers.groupby(groups).agg(np.ptp)
        numbers = numbers[groups == spread.idxmax()]
    return rows[numbers.idxmax()], rows[numbers.idxmin()]


def edits_table(edits: list[dict], before: str):
    """A row per edit: its generator, what it took out and put in, the score before and after.

    Args:
        edits: dicts with "by", "text", "score before", "score after".
        before: the text before.
    """
    rows = []
    for edit in edits:
        out, new = (
            textwrap.shorten(words, 70, placeholder=" …") for words in _difference(before, edit["text"])
        )
        scores = {name: edit[name] for name in ("score before", "score after")}
        change = edit["score after"] - edit["score before"]
        rows.append({"by": edit["by"], "out": out, "in": new, **scores, "change": change})
    formats = {"score before": "{:.2f}", "score after": "{:.2f}", "change": "{:+.2f}"}
    table = styled(pd.DataFrame(rows)).format(formats).hide(axis="index")
    return table.set_properties(["out", "in"], **{"text-align": "left"})


def _difference(before: str, after: str) -> tuple[str, str]:
    """The words that an edit took out and put in."""
    old, new = before.split(), after.split()
    removed, added = [], []
    for action, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if action != "equal":
            removed.append(" ".join(old[i:j]))
            added.append(" ".join(new[k:m]))
    return " … ".join(filter(None, removed)), " … ".join(filter(None, added))
