"""Plots of the learning rate of every group over a run, from the real optimizer and schedules."""

from dataclasses import replace

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
from utils.training.schedules import count_steps, planned_rates


def rates_of(model: TextModel, config: Config, n_rows: int) -> pd.DataFrame:
    """The rate of every group at each step of the plan, by epoch; groups with the same rates share a column.

    Args:
        n_rows: of the training set.
    """
    steps_per_epoch, total_steps = count_steps(config, n_rows)
    plan = pd.DataFrame(planned_rates(parameter_groups(model, config), config, steps_per_epoch, total_steps))
    plan.index = pd.Index(plan.index / steps_per_epoch, name="epoch")
    shared = {f"{name} (no decay)" for name in plan}
    return plan[[name for name in plan if name not in shared]]


def plot_rates(plan: pd.DataFrame, config: Config):
    """The learning rate of every group over the run; the averaging phase is shaded."""
    figure, axes = plt.subplots()
    _draw(axes, plan, config)
    rates = plan.to_numpy()
    axes.set(title="Learning rate of each group", xlabel="epoch", ylabel="learning rate", yscale="log")
    axes.set_ylim(bottom=max(rates[rates > 0].min(), rates.max() / 1e5))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_rate_panel(plans: dict[str, tuple[pd.DataFrame, Config]], columns: int = 3):
    """A small plot per plan, all on the same axes."""
    rows = -(-len(plans) // columns)
    size = (3.1 * columns, 2.4 * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    highest = max(plan.to_numpy().max() for plan, _ in plans.values())
    for axes, (title, (plan, config)) in zip(panels.flat, plans.items(), strict=False):
        _draw(axes, plan, config, linewidth=1.3)
        axes.set(yscale="log", ylim=(highest / 2e4, highest * 1.6))
        axes.set_title(title, fontsize=9)
    for axes in panels.flat[len(plans) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("learning rate", fontsize=10)
    figure.legend(handles=panels[0, 0].get_lines(), loc="outside right upper", fontsize=8)
    return figure


def _draw(axes, plan: pd.DataFrame, config: Config, **options) -> None:
    """A line per group, from dark (the lowest layers) to light, and the averaging phase in grey."""
    for name, colour in zip(plan, plt.cm.viridis(np.linspace(0.0, 0.85, plan.shape[1])), strict=True):
        axes.plot(plan.index, plan[name], color=colour, label=name, **options)
    if config.averaging != "none":
        label = f"{config.averaging.upper()} phase"
        axes.axvspan(config.swa_start, plan.index[-1], color=GREY, alpha=0.12, label=label)


def rate_sliders(model: TextModel, config: Config, n_rows: int) -> None:
    """Sliders that redraw the plan in a live notebook; elsewhere, where they cannot be moved, a sentence."""
    if not runtime.progress_wanted():
        display(Markdown("*Run this notebook in Jupyter, Colab or Kaggle's editor to move the sliders.*"))
        return

    def draw(**settings):
        chosen = replace(config, **settings)
        plot_rate_panel({"the rates as set": (rates_of(model, chosen, n_rows), chosen)}, columns=1)
        plt.show()

    widgets.interact(
        draw,
        swa_start=widgets.FloatSlider(config.swa_start, min=0, max=config.epochs - 0.25, step=0.25),
        swa_anneal_epochs=widgets.FloatSlider(config.swa_anneal_epochs, min=0, max=config.epochs, step=0.25),
        swa_anneal=["cos", "linear"],
        swa_lr_factor=widgets.FloatSlider(config.swa_lr_factor, min=0.05, max=2, step=0.05),
        warmup_ratio=widgets.FloatSlider(config.warmup_ratio, min=0, max=0.5, step=0.02),
        schedule=["cosine", "linear", "constant"],
    )
