"""Samples: what the model says of the same few held-out rows, shown while it trains."""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utils.data.folds import Strata
from utils.data.tokens import Examples
from utils.machine import distributed, runtime
from utils.machine.files import append, as_json, atomic_file
from utils.runs.artifacts import SAMPLES
from utils.runs.progress import Progress
from utils.tasks import Task
from utils.tasks.label_columns import natural_order
from utils.training.loop import predict
from utils.training.setup import Training

LINE, EXCERPT = 80, 400  # characters of a text on the console, and in the file
LONGEST = 200  # line on the console


class Samples:
    """Shows predictions for a few rows: a line for each in a file, and one on the console if anyone watches.

    It knows no training loop: whatever trains calls ``show``, such as a callback of another trainer.

    Args:
        rows: of a table that the task has checked.
        path: of the file; lines are added to it.
    """

    def __init__(self, task: Task, rows: pd.DataFrame, path: Path):
        self.task, self.rows, self.path = task, rows, path
        self.ids = rows[task.config.id_column].tolist()
        self.targets = task.targets(rows)
        self.watched = runtime.progress_wanted()  # not under papermill: the notebook has a table of them

    def show(self, step: int, epoch: float, predictions: dict[str, np.ndarray]) -> None:
        """``predictions``: of the rows, (rows, columns), by what the weights are called."""
        values = {"target": self.targets, **predictions}
        table = self.task.predictions_table(self.ids, values)
        table.insert(1, "text", self.task.excerpts(self.rows, values, EXCERPT))
        records = [{"step": step, "epoch": epoch, **record} for record in table.to_dict("records")]
        lines = [json.dumps(as_json(record), ensure_ascii=False) for record in records]
        # On the disk before a state is, so that resuming finds no gap.
        append(self.path, "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
        if self.watched:
            with tqdm.external_write_mode():  # beside a progress bar
                for line in self.lines(step, values):
                    runtime.say(line)

    def lines(self, step: int, values: dict[str, np.ndarray]) -> list[str]:
        """A line per row for the console, without what would move its cursor."""
        texts = self.task.excerpts(self.rows, values, LINE)
        lines = []
        for i, (name, text) in enumerate(zip(self.ids, texts, strict=True)):
            said = self.task.sample({weights: array[i] for weights, array in values.items()})
            line = f"step {step:4d} · {name} · {said} · {text}"
            line = "".join(letter if letter.isprintable() else " " for letter in line)
            lines.append(line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…")
        return lines


class Sampler:
    """Has the same held-out rows of a fold shown at evaluations and, if asked for, every so many steps.

    The raw weights always; the averaged ones at evaluations, once there are any.
    """

    def __init__(self, training: Training, table: pd.DataFrame, folder: Path, progress: Progress):
        self.training, self.progress = training, progress
        config, task = training.config, training.task
        held_out = (table["fold"] == config.fold).to_numpy()
        self.numbers = np.empty(0, dtype=int)
        if config.samples:
            self.numbers = choose_rows(task.strata(table)[held_out], config.samples)
        self.samples = Samples(task, table[held_out].iloc[self.numbers], folder / SAMPLES)

    @functools.cached_property
    def examples(self) -> Examples:
        return self.training.task.encode(self.samples.rows, self.training.tokenizer)

    def look(self, evaluated: bool) -> None:
        """Show them if it is time to; ``evaluated``: this step was followed by an evaluation."""
        training, every = self.training, self.training.config.samples_every
        if evaluated and len(self.numbers):
            predictions = {name: array[self.numbers] for name, array in self.progress.predictions.items()}
        elif every and training.step % every == 0:
            predictions = {"last": self.predict()}
        else:
            return
        named = {"raw" if name == "last" else name: array for name, array in predictions.items()}
        epoch = round(training.step / training.steps_per_epoch, 4)
        distributed.run_on_main(lambda: self.samples.show(training.step, epoch, named))

    def predict(self) -> np.ndarray:
        """The raw weights' predictions, (rows, columns), which leave no trace in the training."""
        training, device = self.training, self.training.backend.device
        states, mode = runtime.random_states(device), training.wrapped.training
        predictions = predict(training, training.wrapped, self.examples)
        training.wrapped.train(mode)
        runtime.restore_random_states(states, device)
        return predictions


def choose_rows(strata: Strata, number: int) -> np.ndarray:
    """The positions of ``number`` rows, or all: always the same, spread over the strata, in their order."""
    if isinstance(strata, pd.DataFrame):
        strata = strata.astype(str).agg(" ".join, axis=1)
    names = strata.astype(str)
    order = np.array(natural_order(set(names)), dtype=object)
    picked = np.linspace(0, len(order) - 1, min(number, len(order))).round().astype(int)
    codes = names.map({name: code for code, name in enumerate(order[picked])}).to_numpy(dtype=float)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~np.isnan(codes)))
    turns = pd.Series(codes[rows]).groupby(codes[rows]).cumcount()  # one of each stratum, then a second one
    chosen = rows[np.lexsort((codes[rows], turns))][:number]
    return chosen[np.lexsort((chosen, codes[chosen]))]


def trim(path: Path, step: int) -> None:
    """Keep a file's lines up to ``step``: a training that is resumed from there adds the later ones again."""
    if path.is_file():
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step_of(line) <= step]
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):  # cut short when the run was killed
        return float("inf")
