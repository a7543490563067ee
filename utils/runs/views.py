"""Test-time views: each text is read several times, a little differently, and the predictions are combined.

A view is a function of its kind, a seed and its number, so that any can be made again. View 0 is the usual
one. Whether their mean is better than it is judged on held-out rows, before it is believed.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from utils.config import InputError, check_choice
from utils.data.tokens import Examples
from utils.machine.files import write_table
from utils.runs import artifacts
from utils.runs.compare import gain_between
from utils.runs.run import Run
from utils.runs.submission import write_submission
from utils.tasks import Task
from utils.training.predict import predict_examples

#: side: a text that is too long from its beginning or from its end; window: from anywhere; mask: without
#: some of its tokens; dropout: on what the head reads.
KINDS = ("side", "window", "mask", "dropout")


def predict_views(
    task: Task, folder: Path, table: pd.DataFrame, kind: str, number: int, seed: int = 0, share: float = 0.1
) -> np.ndarray:
    """Predictions of ``number`` views, (views, rows, columns), by the weights in ``folder``.

    Args:
        share: of the tokens that are masked, or of the head's inputs that are dropped.

    Raises InputError for a kind that is not known, or that the task or the tokenizer does not allow.
    """
    check_choice("kind", kind, KINDS)
    if number < 1 or not 0 <= share < 1:
        raise InputError(
            f"number={number}, share={share}: ask for one view or more, and a share from 0 to 1."
        )
    model, tokenizer = artifacts.load_model(folder)
    _check_kind(task, tokenizer, kind)
    predictions = []
    for view in range(number):
        rng, texts, hooks = np.random.default_rng([seed, view]), table, []
        if view and kind in ("side", "window"):
            texts = _cut(task, table, tokenizer, rng, kind)
        examples = task.encode(texts, tokenizer)
        if view and kind == "mask":
            _mask(examples, tokenizer, rng, share)
        if view and kind == "dropout":
            hooks = [model.head.register_forward_pre_hook(_dropout(rng, share))]
        predictions.append(predict_examples(model, task, examples, tokenizer))
        for hook in hooks:
            hook.remove()
    return np.stack(predictions)


def _check_kind(task: Task, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    several = task.config.pair_column or task.per_token or task.extras
    if kind in ("side", "window") and (several or not tokenizer.is_fast):
        raise InputError(
            f"kind={kind} cuts single texts, by a tokenizer that knows offsets; use mask or dropout here."
        )
    if kind == "mask" and tokenizer.mask_token_id is None:
        raise InputError("kind=mask: this tokenizer has no mask token; use dropout.")


def _cut(
    task: Task, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, kind: str
) -> pd.DataFrame:
    """The table with each text that is too long from a later token on; shorter ones stay as they are."""
    column, room = task.config.text_column, tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    texts = table[column].tolist()
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    offsets = tokenizer(texts, **options)["offset_mapping"]
    later = []
    for text, places in zip(texts, offsets, strict=True):
        last = max(len(places) - room, 0)
        first = int(rng.integers(last + 1)) if kind == "window" else last * int(rng.integers(2))
        later.append(text[places[first][0] :] if first else text)
    return table.assign(**{column: later})


def _mask(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, share: float
) -> None:
    """Put the mask token in the place of a share of all tokens but special ones."""
    ids = examples.tokens["input_ids"]
    chosen = (rng.random(len(ids)) < share) & ~np.isin(ids, tokenizer.all_special_ids)
    ids[chosen] = tokenizer.mask_token_id


def _dropout(rng: np.random.Generator, share: float):
    """A hook that drops a share of a module's input, in training or not."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def drop(module, arguments):
        states = arguments[0]
        kept = (torch.rand(states.shape, generator=generator) >= share).to(states)
        return (states * kept / (1 - share), *arguments[1:])

    return drop


def judge_views(
    run: Run, weights: str, kind: str, number: int, seed: int = 0, share: float = 0.1
) -> pd.DataFrame:
    """On the held-out rows of all folds: the usual view, the others one by one, and the mean of all.

    Returns:
        Columns views ("usual", "single": the average score, "mean"), score, and the gain of the mean over the
        usual view with its 95 % interval by group (gain, gain_low, gain_high). ``attrs["spread"]``: by how
        much the views differ, on average over the rows.
    """
    if number < 2:
        raise InputError(f"number={number} leaves no view beside the usual one; ask for 2 or more.")
    task, parts = run.task, []
    for fold, folder in run.folders.items():
        held_out = run.table[run.table["fold"] == fold]
        parts.append(predict_views(task, folder / weights, held_out, kind, number, seed, share))
    views = np.concatenate(parts, axis=1)
    mean, groups = task.combine(list(views)), run.predictions["group"].to_numpy()
    singles = [task.score(run.targets, view) for view in views]
    table = pd.DataFrame(
        {
            "views": ["usual", "single", "mean"],
            "score": [singles[0], float(np.mean(singles[1:])), task.score(run.targets, mean)],
        }
    )
    gain = gain_between(task, run.targets, mean, views[0], groups)
    for name, value in gain.items():
        table[name] = [np.nan, np.nan, value]
    table.attrs["spread"] = {name: float(np.mean(v)) for name, v in task.disagreement(views).items()}
    return table


def write_views(table: pd.DataFrame, views: np.ndarray, task: Task, folder: Path) -> list[Path]:
    """Numbered submissions, ``folder/view-<k>/submission.csv``, that of their mean, and spread.csv by row.

    Args:
        views: of ``predict_views``, (views, rows, columns), or of its mean over folds.
    """
    named = {f"view-{number}": view for number, view in enumerate(views)}
    named["mean"] = task.combine(list(views))
    paths = []
    for name, predictions in named.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        paths.append(write_submission(table, predictions, task, folder / name))
    ids = {task.config.id_column: table[task.config.id_column].tolist()}
    write_table(folder / "spread.csv", pd.DataFrame(ids | task.disagreement(views)))
    return paths
