"""Folds: which rows are held out together."""

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

from utils.config import Config, InputError


def assign_folds(table: pd.DataFrame, config: Config, strata: pd.Series | None = None) -> pd.DataFrame:
    """``table`` with a column "fold", 0 to n_folds-1: the fold in which each row is held out.

    "kfold" shuffles the rows (the published notebook's split); "stratified" spreads ``strata`` evenly;
    "group" keeps rows with the same ``group_column`` together, a row with an empty group standing alone.
    """
    if len(table) < config.n_folds:
        raise InputError(
            f"{len(table)} rows cannot fill n_folds={config.n_folds}; lower n_folds or add rows."
        )
    options = {"n_splits": config.n_folds, "shuffle": True, "random_state": config.seed}
    if config.fold_by == "kfold":
        splits = KFold(**options).split(table)
    elif config.fold_by == "stratified":
        splits = StratifiedKFold(**options).split(table, strata)
    else:
        groups = groups_of(table, config)
        if groups.nunique() < config.n_folds:
            raise InputError(
                f"column {config.group_column!r} has {groups.nunique()} groups, too few for "
                f"n_folds={config.n_folds}; lower n_folds or choose another fold_by."
            )
        splits = GroupKFold(**options).split(table, groups=groups)
    folds = np.empty(len(table), dtype=int)
    for number, (_, held_out) in enumerate(splits):
        folds[held_out] = number
    return table.assign(fold=folds)


def groups_of(table: pd.DataFrame, config: Config) -> pd.Series:
    """What belongs together, as strings: rows of one group, or each row alone if folds are not by group."""
    alone = "row " + table[config.id_column]
    if config.fold_by != "group":
        return alone
    groups = table[config.group_column].astype(str)
    return groups.where(groups.str.strip() != "", alone)


def quantile_bins(target: pd.Series, n_folds: int) -> pd.Series:
    """Bins of a number to stratify by: Sturges' rule, but no more than leave ``n_folds`` rows in each."""
    bins = max(1, min(int(1 + np.log2(len(target))), len(target) // n_folds))
    return pd.qcut(target.rank(method="first"), bins, labels=False)
