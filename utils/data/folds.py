"""Folds: which rows are held out together."""

import typing

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from utils.config import GROUPED, Config, InputError
from utils.data import copies
from utils.data.stratify import spread_labels
from utils.data.table import check_columns

#: What folds spread evenly: a class or bin per row, or a column of 0 and 1 per label.
Strata: typing.TypeAlias = pd.Series | pd.DataFrame


def assign_folds(
    table: pd.DataFrame, config: Config, strata: Strata | None = None, repeats_texts: bool = False
) -> pd.DataFrame:
    """``table`` with a column "fold", 0 to n_folds-1: the fold in which each row is held out.

    "kfold" shuffles the rows (the published notebook's split); "stratified" spreads ``strata`` evenly;
    "group" keeps rows with the same ``group_column`` together, a row with an empty group standing alone;
    "stratified_group" does both; "column" takes the table's own column. All others also keep copies of a text
    together.

    ``repeats_texts``: rows share a text by design, and that alone makes them no copies.
    """
    if config.fold_by == "column":
        return table.assign(fold=_own_folds(table, config))
    if len(table) < config.n_folds:
        raise InputError(
            f"{len(table)} rows cannot fill n_folds={config.n_folds}; lower n_folds or add rows."
        )
    groups = groups_of(table, config, repeats_texts)
    _check_groups(table, groups, config)
    if strata is not None:
        _check_strata(strata, config)
    folds = _folds(groups, config, strata)
    if "fold" in table and (table["fold"].astype(str) != folds.astype(str)).any():
        raise InputError(
            'the table has a column "fold" of its own; fold_by=column uses it, or rename it in the file.'
        )
    return table.assign(fold=folds)


def _folds(groups: pd.Series, config: Config, strata: Strata | None) -> np.ndarray:
    """The fold of each row, (rows,)."""
    if isinstance(strata, pd.DataFrame):
        return spread_labels(strata.to_numpy(), groups, config.n_folds, config.seed)
    folds = np.empty(len(groups), dtype=int)
    for number, (_, held_out) in enumerate(_splits(groups, config, strata)):
        folds[held_out] = number
    return folds


def _splits(groups: pd.Series, config: Config, strata: pd.Series | None):
    """Pairs of training and held-out positions, a pair per fold. Without copies they are as ever."""
    options = {"n_splits": config.n_folds, "shuffle": True, "random_state": config.seed}
    if config.fold_by == "group":
        numbers = np.unique(groups, return_inverse=True)[1]  # as they sort; of strings it takes much longer
        return GroupKFold(**options).split(groups, groups=numbers)
    if strata is not None and groups.is_unique:
        return StratifiedKFold(**options).split(groups, strata)
    if strata is not None:
        return StratifiedGroupKFold(**options).split(groups, strata, groups)
    if groups.is_unique:
        return KFold(**options).split(groups)
    numbers = groups.factorize()[0]
    shuffled = np.random.default_rng(config.seed).permutation(numbers.max() + 1)[numbers]
    return GroupKFold(config.n_folds).split(groups, groups=shuffled)  # unshuffled, it evens out the rows


def groups_of(table: pd.DataFrame, config: Config, repeats_texts: bool = False) -> pd.Series:
    """What belongs together, as strings: rows of one group, or each row alone if folds are not by group.

    Copies of a text belong together as far as the Config asks for it, and so does what they join.
    """
    groups = _groups_without_copies(table, config)
    near = config.near_copies == "group"
    if config.fold_by == "column" or not (near or (config.exact_copies == "group" and not repeats_texts)):
        return groups
    texts, numbers = table[config.text_column], groups.factorize()[0]
    copy = len(table) + copies.exact_copies(texts)
    pairs = [np.stack([numbers, copy], axis=1), *([copy[copies.near_copies(texts)]] if near else [])]
    clusters = copies.join(2 * len(table), np.concatenate(pairs))
    return groups.groupby(clusters[numbers]).transform("first")


def _groups_without_copies(table: pd.DataFrame, config: Config) -> pd.Series:
    alone = "row " + table[config.id_column]
    if config.fold_by not in GROUPED:
        return alone
    groups = table[config.group_column].astype(str)
    return groups.where(groups.str.strip() != "", alone)


def _check_groups(table: pd.DataFrame, groups: pd.Series, config: Config) -> None:
    """Raise InputError for too few groups, or where copies join more rows than a fold holds."""
    by_copies = _groups_without_copies(table, config).groupby(groups).transform("nunique") > 1
    sizes = groups.groupby(groups).transform("size").where(by_copies, 0).to_numpy()
    fold_size = -(-len(table) // config.n_folds)
    setting = "near_copies" if config.near_copies == "group" else "exact_copies"
    if sizes.max() > fold_size:
        cluster = table[(groups == groups.iloc[sizes.argmax()]).to_numpy()]
        first, second = map(repr, cluster[config.id_column].iloc[:2])
        raise InputError(
            f"copies of texts join {len(cluster)} rows, such as {first} and {second} "
            f"({cluster[config.text_column].iloc[0][:40]!r}), and a fold has {fold_size}; "
            f"remove copies, lower n_folds, or set {setting}=split."
        )
    if (n_groups := groups.nunique()) < config.n_folds:
        by_group = config.fold_by in GROUPED
        what = (
            f"column {config.group_column!r} has {n_groups} groups"
            if by_group
            else f"{n_groups} texts differ"
        )
        remedy = "choose another fold_by" if by_group else f"set {setting}=split"
        raise InputError(f"{what}, too few for n_folds={config.n_folds}; lower n_folds or {remedy}.")


def _check_strata(strata: Strata, config: Config) -> None:
    """Raise InputError for a class or label in fewer rows than folds. (Bins of a number have enough.)"""
    classes = strata if isinstance(strata, pd.DataFrame) else pd.get_dummies(strata)
    counts = classes.sum()
    if (rows := int(counts.min())) < config.n_folds:
        raise InputError(
            f"class {str(counts.idxmin())!r} has {rows} rows, too few to spread over "
            f"n_folds={config.n_folds}; lower n_folds, choose a fold_by that is not stratified, or "
            "merge the class with another."
        )


def _own_folds(table: pd.DataFrame, config: Config) -> pd.Series:
    """The table's column "fold" as numbers from 0 to n_folds-1, each of which occurs."""
    check_columns(table, ["fold"], "the table")
    folds = pd.to_numeric(table["fold"], errors="coerce")
    if set(folds) != set(range(config.n_folds)):
        labels = ", ".join(sorted(set(table["fold"].astype(str)))[:10])
        raise InputError(
            f'column "fold" holds {labels}; with fold_by=column and n_folds={config.n_folds} it must hold '
            f"the numbers 0 to {config.n_folds - 1}, each at least once: change the column, or n_folds."
        )
    return folds.astype(int)


def quantile_bins(target: pd.Series, n_folds: int) -> pd.Series:
    """Bins of a number to stratify by: Sturges' rule, but no more than leave ``n_folds`` rows in each.

    Rows whose number is missing are spread over the middle.
    """
    target = target.fillna(target.median())
    bins = max(1, min(int(1 + np.log2(len(target))), len(target) // n_folds))
    return pd.qcut(target.rank(method="first"), bins, labels=False)
