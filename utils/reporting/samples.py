"""What the model said of the same few held-out rows while it trained, from the fold's samples.jsonl."""

from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from utils.machine import runtime
from utils.reporting.style import left_aligned
from utils.runs.artifacts import read_samples
from utils.tasks import Task

COLUMNS = 5  # steps that stand side by side where no slider can be moved


def show_samples(folder: Path, task: Task) -> None:
    """A table with a slider over the steps in a live notebook; elsewhere some steps side by side."""
    samples = read_samples(folder)
    if samples.empty:
        display(Markdown("*This fold was trained with `samples=0`, so there is nothing to show.*"))
    elif runtime.progress_wanted():
        steps = samples["step"].unique().tolist()
        slider = widgets.SelectionSlider(options=steps, value=steps[-1], description="step")
        widgets.interact(lambda step: display(_shown(at_step(samples, task, step))), step=slider)
    else:
        display(_shown(side_by_side(samples, task)))


def at_step(samples: pd.DataFrame, task: Task, step: int) -> pd.DataFrame:
    """A row per sample: what is true, what was predicted after ``step``, and the text."""
    rows = samples[samples["step"] == step].reset_index(drop=True)
    names = ["target", *(name for name in ("raw", "averaged") if task.has(rows, name))]
    values = {name: task.values(rows, name) for name in names}
    said = []
    for i in range(len(rows)):
        row = {name: array[i] for name, array in values.items()}
        target = task.sample({"target": row["target"]})
        predicted = task.sample(row).removeprefix(target).removeprefix(", ")
        said.append((target.removeprefix("target "), predicted))
    targets, predictions = zip(*said, strict=True)
    return pd.DataFrame({"id": rows["id"], "target": targets, "predicted": predictions, "text": rows["text"]})


def side_by_side(samples: pd.DataFrame, task: Task) -> pd.DataFrame:
    """A row per sample with what was predicted after the first step, the last, and some between."""
    steps = samples["step"].unique()
    picked = steps[np.unique(np.linspace(0, len(steps) - 1, COLUMNS).round().astype(int))]
    tables = {step: at_step(samples, task, step).set_index("id") for step in picked}
    last = tables[picked[-1]]
    columns = {f"step {step}": table["predicted"] for step, table in tables.items()}
    return last[["target"]].assign(**columns, text=last["text"]).fillna("").reset_index()


def _shown(table: pd.DataFrame):
    return left_aligned(table).hide(axis="index")
