"""One style for all plots and listings, readable on light and dark pages and with any colour vision."""

import html
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterable
from numbers import Number
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, Image, Markdown

from utils.machine.runtime import ROOT
from utils.tasks import Task
from utils.tasks.metrics import Metric

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
PALETTE = [BLUE, ORANGE, GREEN, PURPLE, GREY]

#: How each kind of weights is labelled and coloured.
NAMES = {"last": "last", "best": "best epoch (chosen on this fold)", "averaged": "averaged"}
COLOURS = {"last": BLUE, "best": GREEN, "averaged": ORANGE}
#: And each part of the texts.
PARTS = {"train": BLUE, "held out": ORANGE}


def use_style() -> None:
    """Set matplotlib's defaults for every plot of the suite; dollar signs in tables begin no formula."""
    pd.options.display.html.use_mathjax = pd.options.styler.html.mathjax = False
    figure = {"figsize": (8, 3.2), "dpi": 110, "facecolor": "white", "constrained_layout.use": True}
    title = {"titlesize": 11, "titleweight": "bold", "titlelocation": "left"}
    axes = {"spines.top": False, "spines.right": False, "grid": True, "axisbelow": True, **title}
    plt.rcParams.update({f"figure.{name}": value for name, value in figure.items()})
    plt.rcParams.update({f"axes.{name}": value for name, value in axes.items()})
    plt.rcParams.update({"axes.prop_cycle": plt.cycler(color=PALETTE), "grid.color": "#E5E5E5"})
    plt.rcParams.update({"font.size": 10, "legend.frameon": False, "savefig.facecolor": "white"})


def save(figure: plt.Figure | None, path: Path) -> None:
    """Write a plot as a PNG, if there is one. The notebook shows it all the same."""
    if figure is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def drawing(name: str) -> Image:
    """A drawing of docs/pictures, which docs/drawings.py made; shown at 900 pixels, however fine it is."""
    return Image(filename=ROOT / "docs" / "pictures" / f"{name}.png", width=900)


def bullets(*sentences: str) -> Markdown:
    """Sentences as a list; those that are empty, since there was nothing to say, are left out."""
    return Markdown("\n".join(f"- {sentence}" for sentence in sentences if sentence))


def source(*objects) -> Markdown:
    """The source of functions, methods or classes, to be read in the notebook.

    The fence names no language: nbconvert's HTML would drop the monospace font with one.
    """
    listings = [textwrap.dedent(inspect.getsource(listed)) for listed in objects]
    return Markdown("```\n" + "\n\n".join(listings) + "```")


# Ids, texts and names come from anybody's table. The next three show them as they are, never as markup, a
# formula or a script. Plain DataFrames need nothing: pandas escapes them, but not what is styled.


def styled(table: pd.DataFrame):
    """A table to be styled, everything in it escaped: cells, labels and their names."""
    escaped = table.map(_escape).rename(index=_escape, columns=_escape)
    return escaped.rename_axis(index=_escape, columns=_escape).style


def _escape(value):
    return value if value is None or isinstance(value, Number) else html.escape(str(value))


def quotations(quoted: Iterable[tuple[str, str, str]]) -> HTML:
    """Texts, each under its name and a remark: (name, remark, text)."""
    blocks = [
        f"<p><b>{name}</b>{remark}</p><blockquote>{text}</blockquote>"
        for name, remark, text in (map(html.escape, texts) for texts in quoted)
    ]
    return HTML(f'<div class="tex2jax_ignore mathjax_ignore">{"".join(blocks)}</div>')


def literal(text: str) -> str:
    """A text for a plot, in which dollar signs would begin a formula."""
    return str(text).replace("$", r"\$")


def shortened(names: Iterable, width: int = 14) -> list[str]:
    """Names for a plot, none of them longer than ``width`` letters."""
    texts = [" ".join(str(name).split()) for name in names]
    return [literal(text if len(text) <= width else text[: width - 1].rstrip() + "…") for text in texts]


def left_aligned(table: pd.DataFrame):
    """A table of sentences: shown whole, and aligned to the left."""
    header = {"selector": "th", "props": [("text-align", "left")]}
    return styled(table).set_properties(**{"text-align": "left"}).set_table_styles([header])


def short_name(weights: str) -> str:
    """The name of some weights without its remark, or "step 20" for the snapshot "step-000020"."""
    if weights in NAMES:
        return NAMES[weights].split(" (")[0]
    return f"step {int(weights.removeprefix('step-'))}"


# Scores of any task, by the names that its metrics give them.

MOST_PARTS = 10  # scores of single classes or targets in a table


class Scores(pd.DataFrame):
    """A table of scores, in which "–" stands for what is undefined, with a note below it."""

    _metadata: ClassVar[list[str]] = ["note"]  # pandas keeps these attributes
    note: str

    def _repr_html_(self) -> str:
        notes = "".join(f"<br>{html.escape(line)}" for line in self.note.splitlines())
        note = f'<p class="tex2jax_ignore mathjax_ignore"><small>{notes.removeprefix("<br>")}</small></p>'
        return self.to_html(na_rep="–", notebook=True) + (note if notes else "")


def metrics_of(task: type[Task]) -> tuple[Metric, ...]:
    """All metrics of a task, those of single classes and targets included."""
    return (task.metric, *task.metrics, *task.part_metrics)


def score_label(name: str, metrics: Iterable[Metric]) -> str:
    """The heading of a column of scores: "macro F1" of "macro_f1", "F1 yes" of "f1 yes"."""
    metric, part = _metric_of(name, metrics)
    return f"{metric.label} {part}".strip() if metric else name.replace("_", " ")


def _metric_of(name: str, metrics: Iterable[Metric]) -> tuple[Metric | None, str]:
    """The metric that a score is of, and the class or target that it is of, if it is of one alone."""
    for metric in metrics:
        if name == metric.name or name.startswith(f"{metric.name} "):
            return metric, name.removeprefix(metric.name).strip()
    return None, ""


def shown_scores(names: Iterable[str], metrics: Iterable[Metric]) -> list[str]:
    """The scores that a table shows: those of single classes or targets only if they are few."""
    found = {name: _metric_of(name, metrics) for name in names}
    counts = Counter(metric for metric, part in found.values() if part)
    return [name for name, (metric, part) in found.items() if not part or counts[metric] <= MOST_PARTS]


def undefined_note(scores: pd.DataFrame, metrics: Iterable[Metric]) -> str:
    """What the scores (columns) that are NaN somewhere need to be defined; empty where none is."""
    by_need: dict[str, list[str]] = {}
    for name in scores.columns[scores.isna().any()]:
        metric, _ = _metric_of(name, metrics)
        need = (metric.needs if metric else "") or "other rows"
        by_need.setdefault(need, []).append(score_label(name, metrics))
    needs = [f"{', '.join(names)}: needs {need}" for need, names in by_need.items()]
    return f"– is undefined. {'; '.join(needs)}." if needs else ""


def target_names(task: Task) -> list[str]:
    """A name for each column of the task's targets."""
    return [name.removesuffix(" target") for name in task.columns("target")]
