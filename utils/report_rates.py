"""Pictures of the learning rate of every group over a run, from the real optimizer and schedules."""

from dataclasses import replace

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from utils import runtime
from utils.config import Config
from utils.model import TextRegressor
from utils.optim import count_steps, parameter_groups, planned_rates
from utils.report import GREY


def rates_of(model: TextRegressor, config: Config, n_rows: int) -> pd.DataFrame:
    """The rate of every group at every epoch of the plan, from the real optimizer and schedules."""
    steps_per_epoch, total_steps = count_steps(config, n_rows)
    plan = pd.DataFrame(planned_rates(parameter_groups(model, config), config, steps_per_epoch, total_steps))
    plan.index = pd.Index(plan.index / steps_per_epoch, name="epoch")
    return plan[[name for name in plan if not name.endswith("(no decay)") or name[:-11] not in plan]]


def plot_rate_panel(plans: dict[str, tuple[pd.DataFrame, Config]], columns: int = 3):
    """One small plot a plan, on common axes; the averaging phase is shaded, the groups go from dark (low) to light."""
    rows = -(-len(plans) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.4 * rows), sharey=True, squeeze=False)
    highest = max(plan.to_numpy().max() for plan, _ in plans.values())
    for axes, (title, (plan, config)) in zip(panels.flat, plans.items(), strict=False):
        for name, colour in zip(plan, plt.cm.viridis(np.linspace(0.0, 0.85, plan.shape[1])), strict=True):
            axes.plot(plan.index, plan[name], color=colour, linewidth=1.3, label=name)
        if config.averaging != "none":
            axes.axvspan(config.swa_start, plan.index[-1], color=GREY, alpha=0.12)
        axes.set(yscale="log", ylim=(highest / 2e4, highest * 1.6))
        axes.set_title(title, fontsize=9)
    for axes in panels.flat[len(plans) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("learning rate", fontsize=10)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure


def rate_sliders(model: TextRegressor, config: Config, n_rows: int) -> None:
    """Sliders that redraw the plan, in a live notebook; nobody could move them anywhere else."""
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
