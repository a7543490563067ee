"""What is asked of a text: each task in a file of its own. Every module of this folder is imported here.

``make_task`` makes the task that a Config names. ``load_table`` and ``add_folds`` are here since a task
checks its own targets and says what its folds are stratified by.
"""

import importlib
import pkgutil

import pandas as pd

from utils.config import Config, InputError, check_choice
from utils.data.folds import assign_folds
from utils.data.reading import read_table
from utils.data.sources import find_table
from utils.data.table import check_table
from utils.machine.runtime import display_path
from utils.modeling.auxiliary import AuxiliaryLoss
from utils.modeling.losses import LOSSES
from utils.modeling.pooling import POOLINGS
from utils.tasks.automatic import name_from_targets
from utils.tasks.base import TASKS, Task
from utils.tasks.leaks import find_leaks

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["TASKS", "Task", "add_folds", "find_leaks", "load_table", "make_task"]


def make_task(config: Config, table: pd.DataFrame | None = None, train: pd.DataFrame | None = None) -> Task:
    """The task that ``config.task`` names.

    Args:
        table: the whole table, from which names of labels come.
        train: its training rows, from which scales and weights come.

    Raises InputError for an unknown task, loss, pooling or metric, and for a setting that does nothing.
    """
    check_choice("pooling", config.pooling, POOLINGS)
    name = name_from_targets(config) if config.task == "auto" else config.task
    check_choice("task", name, [*TASKS, "auto"])
    task = TASKS[name](config)
    check_pooling(task)
    check_loss(task)
    metrics = {metric.name: metric for metric in (task.metric, *task.metrics)}
    if config.metric:
        check_choice("metric", config.metric, metrics)
        task.metric = metrics[config.metric]
    if table is not None:
        task.see(table)
    if train is not None:
        task.fit(train)
        if share := POOLINGS[config.pooling].auxiliary:
            task.loss = AuxiliaryLoss(task.loss, getattr(config, share))
    return task


def check_pooling(task: Task) -> None:
    """Raise InputError for a pooling that the task has nothing for, and for a setting that does nothing."""
    config, pooling = task.config, POOLINGS[task.config.pooling]
    if pooling.per_token != task.per_token:
        fitting = [other for other, pooling in POOLINGS.items() if pooling.per_token == task.per_token]
        what = "each token" if task.per_token else "the whole text"
        raise InputError(
            f"pooling={config.pooling} does not fit task={task.name}, which asks about {what}; "
            f"set pooling={' or '.join(sorted(fitting))}."
        )
    if not {*pooling.extras} <= {*task.extras}:
        takers = [name for name, other in TASKS.items() if {*pooling.extras} <= {*other.extras}]
        raise InputError(
            f"pooling={config.pooling} needs each token's {' and '.join(pooling.extras)}, which "
            f"task={task.name} does not give; set task={' or '.join(takers)}, or choose another pooling."
        )
    takes = {name: {*other.options, other.auxiliary} - {""} for name, other in POOLINGS.items()}
    for option in sorted(set().union(*takes.values()) - takes[config.pooling]):
        if getattr(config, option) != getattr(Config, option):
            takers = [name for name, options in takes.items() if option in options]
            raise InputError(
                f"{option}={getattr(config, option)} does nothing with pooling={config.pooling}; set "
                f"pooling={' or '.join(takers)}."
            )


def check_loss(task: Task) -> None:
    """Raise InputError for a loss that is not the task's, and for a setting that its loss does not take."""
    config, family = (
        task.config,
        [name for name, loss in LOSSES.items() if issubclass(loss, task.loss_family)],
    )
    if family:
        check_choice("loss", config.loss, ["auto", *family])
    taken = LOSSES[task.loss_name].options if family else ()
    for option in sorted({option for loss in LOSSES.values() for option in loss.options} - {*taken}):
        value = getattr(config, option)
        if value != getattr(Config, option, ()):
            takers = [name for name in family if option in LOSSES[name].options]
            remedy = f"set loss={' or '.join(takers)}" if takers else "leave it out"
            raise InputError(f"{option}={value!r} does nothing with loss={task.loss_name}; {remedy}.")


def load_table(config: Config) -> pd.DataFrame:
    """Read ``config.data``; check it; clean the texts.

    Returns:
        A DataFrame with the file's columns and a fresh index: ids and texts as str, targets as the task has
        them. Raises InputError for anything that ``check_table`` or the task refuses, and for files that are
        not tables.
    """
    task, path = make_task(config), find_table(config.data)
    where = display_path(path)
    table = task.prepare(read_table(path), where)
    table = task.check(check_table(table, config, where), where)
    if 0 < config.max_rows < len(table):
        table = table.sample(config.max_rows, random_state=config.seed).sort_index().reset_index(drop=True)
    return table


def add_folds(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """``table`` with a column "fold", 0 to n_folds-1: the fold in which each row is held out.

    "kfold" shuffles the rows (the published notebook's split); "stratified" spreads the targets evenly;
    "group" keeps rows with the same ``group_column`` together, a row with an empty group standing alone;
    "stratified_group" does both; "column" takes the table's own. Copies of a text stay together as
    ``exact_copies`` and ``near_copies`` say.
    """
    task = make_task(config)
    strata = task.strata(table) if config.fold_by.startswith("stratified") else None
    return assign_folds(table, config, strata, task.repeats_texts, task.compared_texts(table))
