"""Plots of the learning rate of every group over a run, from the real optimizer and schedules."""

from collections.abc import Sequence
from dataclasses import fields, replace

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from utils.config import Config
from utils.machine import runtime
from utils.modeling.model import TextModel
from utils.reporting.style import GREY
from utils.training.optim import parameter_groups
from utils.training.schedules import count_steps, drive, evaluates_after, planned_rates


def rates_of(model: TextModel, config: Config, n_rows: int, scores: Sequence[float] = ()) -> pd.DataFrame:
    """The rate of every group at each step of the plan, by epoch; groups with the same rates share a column.

    The table's ``attrs`` hold what else the plots show: "scores" by epoch, and "momentum" at each step where
    a cycle moves it.

    Args:
        n_rows: of the training set.
        scores: to be assumed at the evaluations in turn, lower ones better, for a plateau to follow.
    """
    steps = count_steps(config, n_rows)
    plan = pd.DataFrame(planned_rates(parameter_groups(model, config), config, *steps, scores))
    plan.index = pd.Index(plan.index / steps[0], name="epoch")
    shared = {f"{name} (no decay)" for name in plan}
    plan = plan[[name for name in plan if name not in shared]]
    evaluated = [step for step in range(1, steps[1] + 1) if evaluates_after(step, config, steps[0])]
    plan.attrs["scores"] = dict(zip((np.array(evaluated) / steps[0]).tolist(), scores, strict=False))
    if config.schedule == "one_cycle" and config.optimizer != "madgrad":
        group = {"name": "any", "lr": config.lr}
        driven = drive([group], config, *steps)
        plan.attrs["momentum"] = [rates.optimizer.param_groups[0]["momentum"] for rates in driven]
    return plan


def with_schedule(config: Config, schedule: str, **changes) -> Config:
    """The Config with another schedule, and without the settings that only other schedules read."""
    unread = {
        field.name: field.default
        for field in fields(Config)
        if (readers := field.metadata.get("schedules")) and schedule not in readers
    }
    return replace(config, **{**unread, **changes, "schedule": schedule})


def plot_rates(plan: pd.DataFrame, config: Config):
    """The learning rate of every group over the run; the averaging phase is shaded."""
    figure, axes = plt.subplots()
    _draw(axes, plan, config)
    axes.set(title="Learning rate of each group", xlabel="epoch", ylabel="learning rate", yscale="log")
    axes.set_ylim(bottom=_floor([plan]))
    left = 1.12 if len(figure.axes) > 1 else 1.0  # beside the right axis, if there is one
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(left, 0.5))
    return figure


def plot_rate_panel(plans: dict[str, tuple[pd.DataFrame, Config]], columns: int = 3):
    """A small plot per plan, all on the same axes."""
    rows = -(-len(plans) // columns)
    size = (3.1 * columns, 2.4 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    highest = max(plan.to_numpy().max() for plan, _ in plans.values())
    for axes, (title, (plan, config)) in zip(panels.flat, plans.items(), strict=False):
        _draw(axes, plan, config, linewidth=1.3)
        axes.set(yscale="log", ylim=(_floor([plan for plan, _ in plans.values()]), highest * 1.6))
        axes.set_title(title, fontsize=9)
    for axes in panels.flat[len(plans) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("learning rate", fontsize=10)
    figure.legend(handles=panels[0, 0].get_lines(), loc="outside right upper", fontsize=8)
    return figure


def _floor(plans: list[pd.DataFrame]) -> float:
    """The lowest rate that is drawn: a thirtieth of the lowest peak, or the groups would be one ribbon."""
    return min(plan.max().min() for plan in plans) / 30


def _draw(axes, plan: pd.DataFrame, config: Config, **options) -> None:
    """A line per group, from dark (the lowest layers) to light, and the averaging phase in grey."""
    for name, colour in zip(plan, plt.cm.viridis(np.linspace(0.0, 0.85, plan.shape[1])), strict=True):
        above_zero = plan[name].where(plan[name] > 0)  # a logarithmic axis has no zero
        axes.plot(plan.index, above_zero, color=colour, label=name, **options)
    if config.averaging != "none":
        label = f"{config.averaging.upper()} phase"
        axes.axvspan(config.swa_start, plan.index[-1], color=GREY, alpha=0.12, label=label)
    if "momentum" in plan.attrs:
        _draw_beside(axes, plan.index, plan.attrs["momentum"], "momentum")
    if config.schedule == "plateau" and (scores := plan.attrs["scores"]):
        _draw_beside(axes, list(scores), list(scores.values()), "score, assumed", marker=".")
    elif config.schedule == "plateau":
        note = "no scores assumed, so no plateau"
        axes.text(0.5, 0.05, note, transform=axes.transAxes, fontsize=8, ha="center")


def _draw_beside(axes, x, y, label: str, marker: str = "") -> None:
    """What moves the rates, or moves with them, on an axis of its own."""
    right = axes.twinx()
    right.plot(x, y, color="black", linestyle=":", marker=marker, linewidth=1, label=label)
    right.set_ylabel(label, fontsize=8)
    right.tick_params(labelsize=7)
    right.grid(visible=False)


def rate_sliders(model: TextModel, config: Config, n_rows: int) -> None:
    """Sliders that redraw the plan in a live notebook; elsewhere, where they cannot be moved, a sentence."""
    if not runtime.progress_wanted():
        display(Markdown("*Run this notebook in Jupyter, Colab or Kaggle's editor to move the sliders.*"))
        return

    def draw(**settings):
        chosen = with_schedule(config, **settings)
        plot_rates(rates_of(model, chosen, n_rows), chosen)
        plt.show()

    whole = {"style": {"description_width": "180px"}, "layout": {"width": "100%"}}

    def slider(name, least, most, step):
        value = getattr(config, name)
        return widgets.FloatSlider(value, min=least, max=most, step=step, description=name, **whole)

    def choice(name, names):
        return widgets.Dropdown(options=names, value=getattr(config, name), description=name, **whole)

    widgets.interact(
        draw,
        swa_start=slider("swa_start", 0, config.epochs - 0.25, 0.25),
        swa_anneal_epochs=slider("swa_anneal_epochs", 0, config.epochs, 0.25),
        swa_anneal=choice("swa_anneal", ["cos", "linear"]),
        swa_lr_factor=slider("swa_lr_factor", 0.05, 2, 0.05),
        warmup_ratio=slider("warmup_ratio", 0, 0.5, 0.02),
        schedule=choice("schedule", Config.__dataclass_fields__["schedule"].metadata["choices"]),
    )
