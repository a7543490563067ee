"""The same folds trained in several ways, and compared row by row: what the tours are made of."""

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from utils.config import Config
from utils.machine.precision import choose
from utils.machine.runtime import say
from utils.runs.run import Run, finished_folds, open_run, train, train_in_process
from utils.tasks.metrics import bootstrap_interval, paired_test


def train_variants(config: Config, variants: dict[str, dict], folds: Iterable[int]) -> dict[str, Run]:
    """A run per variant, each in a folder of its own beside the others; finished folds are left as they are.

    Folds share this process, which saves the time of starting one, unless Apex needs one for each.

    Args:
        variants: the settings that each one changes, by its name.
    """
    in_turn = train_in_process if choose(config.precision).name.startswith("apex") else train
    runs = {}
    for name, changes in variants.items():
        slug = re.sub(r"\W+", "-", name.lower()).strip("-")
        own = Config.make(**{**config.to_dict(), "run": f"{config.run_name}-{slug}", **changes})
        for fold in folds:
            if fold not in finished_folds(own):
                say(f"{name}: fold {fold} is trained now.")
                in_turn(replace(own, fold=fold))
        runs[name] = open_run(own)
    return runs


def compare_variants(runs: dict[str, Run], weights: str = "averaged") -> pd.DataFrame:
    """Each variant's metric over all held-out rows, and how it differs from the first's, on the same rows.

    Args:
        runs: of the same task, data and folds, from ``train_variants``.
        weights: whose predictions: last, best or averaged.

    Returns:
        Columns variant, score, low and high (the 95 % bootstrap interval by group), gain (over the first,
        positive where better), gain_low, gain_high, and p, by the errors of each row.
    """
    first, *_ = runs.values()
    task, groups, rows = first.task, first.predictions["group"].to_numpy(), []
    for name, run in runs.items():
        values = run.values(weights)
        low, high = task.interval(run.targets, values, groups)
        row = {"variant": name, "score": task.score(run.targets, values), "low": low, "high": high}
        rows.append(row if run is first else row | _difference(run, first, weights, groups))
    return pd.DataFrame(rows)


def _difference(run: Run, first: Run, weights: str, groups: np.ndarray) -> dict:
    task, ours, theirs = first.task, run.values(weights), first.values(weights)

    def gain(rows: np.ndarray) -> float:
        scores = (task.score(first.targets[rows], values[rows]) for values in (ours, theirs))
        return task.metric.gain(*scores)

    low, high = bootstrap_interval(gain, groups)
    p = paired_test(run.errors(weights), first.errors(weights), groups)
    return {"gain": gain(np.arange(len(groups))), "gain_low": low, "gain_high": high, "p": p}
