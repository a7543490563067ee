"""Texts and targets: checking a table, folds, tokens, batches of similar length."""

import hashlib
import math
import re
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from utils import runtime
from utils.config import Config, InputError, nearest
from utils.sources import find_table, read_table

# --- the table ----------------------------------------------------------------------------------------


def load_table(config: Config) -> pd.DataFrame:
    """Read ``config.data``; check it; clean the texts.

    Returns:
        A DataFrame with the file's columns and a fresh index: ids and texts as str, targets as float64.
        Raises InputError for anything ``check_table`` refuses, and for files that are not UTF-8 or not a table.
    """
    path = find_table(config.data)
    table = check_table(read_table(path), config, where=runtime.shown(path))
    if 0 < config.max_rows < len(table):
        table = table.sample(config.max_rows, random_state=config.seed).sort_index().reset_index(drop=True)
    return table


def clean_text(text: str) -> str:
    """``text`` with every run of white space, newlines included, as one space: deleting newlines would glue words."""
    return re.sub(r"\s+", " ", text).strip()


def check_table(table: pd.DataFrame, config: Config, where: str = "the table", targets: bool = True) -> pd.DataFrame:
    """``table`` with checked ids, cleaned texts and numeric targets.

    Args:
        targets: False for a test set, which has none.

    Raises InputError, naming the first row at fault, for a missing or duplicated column, an empty or non-string
    text, a target that is no finite number, a missing or duplicated id, or a table without rows.
    """
    columns = [config.id_column, config.text_column, *(config.target_columns if targets else ())]
    if config.fold_by == "group" and targets:
        columns.append(config.group_column)
    for column in columns:
        if column not in table.columns:
            raise InputError(f"{where} has no column {column!r}; {nearest(column, table.columns)}")
        if list(table.columns).count(column) > 1:
            raise InputError(f"{where} has the column {column!r} more than once; keep one.")
    if table.empty:
        raise InputError(f"{where} has a header but no rows.")
    table = table.reset_index(drop=True)

    def refuse(bad: pd.Series, column: str, problem: str) -> None:
        if bad.any():
            row = int(bad.to_numpy().argmax())
            value = str(table[column].iloc[row])[:40]
            more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
            raise InputError(f"{where}: column {column!r} {problem} in row {row + 1}{more}: {value!r}.")

    texts, ids = table[config.text_column], table[config.id_column]
    refuse(~texts.map(lambda text: isinstance(text, str)), config.text_column, "holds something that is not text")
    refuse(texts.map(clean_text) == "", config.text_column, "holds an empty text")
    refuse(ids.isna() | (ids.astype(str).str.strip() == ""), config.id_column, "holds an empty id")
    refuse(ids.astype(str).duplicated(), config.id_column, "repeats an id")
    table[config.text_column] = texts.map(clean_text)
    table[config.id_column] = ids.astype(str)
    for column in config.target_columns if targets else ():
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        refuse(~(numbers.abs() <= np.finfo(np.float32).max), column, "holds no finite number")
        table[column] = numbers
    return table


def fingerprint(table: pd.DataFrame, config: Config) -> str:
    """A hash of the ids, texts, targets and folds that a model is trained on, to tell whether two runs saw the same."""
    columns = [config.id_column, config.text_column, *config.target_columns, "fold"]
    return hashlib.sha256(pd.util.hash_pandas_object(table[columns], index=False).to_numpy()).hexdigest()[:16]


# --- folds -------------------------------------------------------------------------------------------------------


def add_folds(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """``table`` with a column "fold", 0 to n_folds-1: the fold in which each row is held out.

    "kfold" shuffles the rows (the published notebook's split); "stratified" spreads the bins of the first target
    evenly; "group" keeps rows with the same ``group_column`` together, a row with an empty group standing alone.
    """
    if len(table) < config.n_folds:
        raise InputError(f"{len(table)} rows cannot fill n_folds={config.n_folds}; lower n_folds or add rows.")
    options = {"n_splits": config.n_folds, "shuffle": True, "random_state": config.seed}
    labels = None
    if config.fold_by == "kfold":
        splits = KFold(**options).split(table)
    elif config.fold_by == "stratified":
        target = table[config.target_columns[0]]
        # Sturges' rule for the number of bins, but no more than leave n_folds rows in each.
        bins = max(1, min(int(1 + np.log2(len(table))), len(table) // config.n_folds))
        labels = pd.qcut(target.rank(method="first"), bins, labels=False)
        splits = StratifiedKFold(**options).split(table, labels)
    else:
        labels = groups_of(table, config)
        if labels.nunique() < config.n_folds:
            raise InputError(
                f"column {config.group_column!r} has {labels.nunique()} groups, too few for n_folds={config.n_folds}; "
                "lower n_folds or choose another fold_by."
            )
        splits = GroupKFold(**options).split(table, groups=labels)
    folds = np.empty(len(table), dtype=int)
    for number, (_, held_out) in enumerate(splits):
        folds[held_out] = number
    return table.assign(fold=folds)


def groups_of(table: pd.DataFrame, config: Config) -> pd.Series:
    """What belongs together, as strings: rows of one group, or each row alone where folds are not by group."""
    alone = "row " + table[config.id_column]
    if config.fold_by != "group":
        return alone
    labels = table[config.group_column].astype(str)
    return labels.where(labels.str.strip() != "", alone)


# --- tokens and batches ------------------------------------------------------------------------------------------


@dataclass
class Texts:
    """Rows of a table as the model reads them, tokenised once, before training.

    The tokens of all rows lie one after the other, at four bytes each; Python's lists take ten times as much.
    """

    ids: list[str]
    tokens: dict[str, np.ndarray]  # each of the model's inputs but the mask, unpadded, int32 (tokens of all rows,)
    ends: np.ndarray  # where each row's tokens end, (rows,)
    targets: np.ndarray  # (rows, targets)

    @classmethod
    def of(cls, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Config) -> "Texts":
        tokens, lengths = tokenize(table[config.text_column].tolist(), tokenizer, config.max_length)
        targets = table.reindex(columns=list(config.target_columns)).to_numpy(dtype=np.float64)  # NaN in a test set
        return cls(table[config.id_column].tolist(), tokens, np.cumsum(lengths), targets)

    @property
    def lengths(self) -> list[int]:
        return np.diff(self.ends, prepend=0).tolist()

    def inputs(self, row: int) -> dict[str, list[int]]:
        """A row's model inputs, unpadded, without the mask."""
        start = self.ends[row - 1] if row else 0
        return {name: values[start : self.ends[row]].tolist() for name, values in self.tokens.items()}


def tokenize(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Every text's model inputs, cut to ``max_length`` tokens, one text after the other, and how many each has."""
    parts, lengths = [], []
    for start in range(0, len(texts), 1000):  # all at once, its lists and offsets would take many times the tokens
        encoded = tokenizer(
            texts[start : start + 1000], truncation=True, max_length=max_length, return_attention_mask=False
        )
        lengths += map(len, encoded["input_ids"])
        parts.append({name: np.fromiter(chain.from_iterable(rows), np.int32) for name, rows in encoded.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, lengths


def training_batches(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of one epoch's batches: similar lengths together, batches in random order, every row once.

    A function of (seed, epoch) and nothing else, so that any batch of any epoch can be had again.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    rows = get_length_grouped_indices(lengths, batch_size, generator=generator)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def evaluation_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches from the longest to the shortest: least padding, and memory runs out first or never."""
    rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def make_loader(
    texts: Texts, batches: list[list[int]], tokenizer: PreTrainedTokenizerBase, num_workers: int = 0
) -> DataLoader:
    """A loader of the given batches of row numbers, each padded to its longest text and on to a multiple of 8.

    Few different lengths keep each one's kernels in oneDNN's cache, and suit a GPU's matrix units. A ``max_length``
    that 8 does not divide lowers the multiple: the encoder may have no positions beyond it.

    Yields pairs: a dict of the tokenizer's tensors, each (batch, length), and the targets, float32 (batch, targets).
    """
    pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=math.gcd(8, tokenizer.model_max_length))

    def collate(rows: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        inputs = pad([texts.inputs(row) for row in rows])
        return dict(inputs), torch.as_tensor(texts.targets[rows], dtype=torch.float32)

    return DataLoader(
        range(len(texts.ids)),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else making an iterator would draw from the global random state
    )
