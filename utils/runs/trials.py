"""The same training with several seeds, as trials: what each came to, evaluation by evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from utils.config import Config
from utils.runs.run import Run, open_run

#: Runs of one variant that differ in their seed, by the variant's name.
Trials = Mapping[str, Sequence[Run]]


def open_trials(config: Config, seeds: Iterable[int]) -> list[Run]:
    """The runs that ``python -m batch -p seed 1,2,3`` leaves, one for each seed."""
    name = config.run_name
    return [open_run(replace(config, seed=seed, run=f"{name}-seed-{seed}")) for seed in seeds]


def trial_scores(trials: Trials, weights: str = "averaged") -> pd.DataFrame:
    """Columns variant, trial (its seed), and every score over all held-out rows of the trial.

    The seed also decides the folds, unless they are the table's own; the spread is that of both.

    Args:
        weights: whose predictions: last, best or averaged.
    """
    rows = []
    for variant, runs in trials.items():
        for run in runs:
            scores = run.task.scores(run.targets, run.values(weights))
            rows.append({"variant": variant, "trial": run.config.seed} | scores)
    return pd.DataFrame(rows)


def trial_histories(trials: Trials) -> pd.DataFrame:
    """Columns variant, trial, fold, epoch, last and averaged: the metric at each evaluation, by weights."""
    parts = []
    for variant, runs in trials.items():
        for run in runs:
            metric = run.task.metric.name
            names = {metric: "last", f"averaged_{metric}": "averaged"}
            for fold, folder in run.folders.items():
                history = pd.read_csv(folder / "history.csv")[["epoch", *names]].rename(columns=names)
                parts.append(history.assign(variant=variant, trial=run.config.seed, fold=fold))
    return pd.concat(parts, ignore_index=True)
