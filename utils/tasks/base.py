"""Task: what is asked of a text. One class per task, with defaults; nothing else asks which task it is.

A new task is one file in this folder with one subclass. It must say what it is judged by (``metric``), what
it learns by (``loss``), what the head gives (``head``) and how predictions are scored (``scores``,
``errors``).
"""

from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.data.folds import Strata, quantile_bins
from utils.data.table import check_rows
from utils.data.tokens import Batch, Examples
from utils.modeling.heads import HeadConfig
from utils.modeling.losses import LOSSES, Loss
from utils.modeling.pooling import POOLINGS
from utils.tasks.combining import Combining
from utils.tasks.metrics import Metric, bootstrap_interval
from utils.tasks.numbers import read_numbers
from utils.tasks.texts import Texts

#: Every task by its name.
TASKS: dict[str, type["Task"]] = {}


class Task(Texts, Combining):
    """What is asked of a text. A subclass with a ``name`` is registered under it.

    Predictions are float64 arrays, (rows, columns): what ``decode`` makes of the model's outputs, under the
    names that ``columns`` gives them in predictions.csv.
    """

    name: ClassVar[str] = ""
    metric: Metric  # of the class: the default
    metrics: ClassVar[tuple[Metric, ...]] = ()  # others, which Config.metric may name
    part_metrics: ClassVar[tuple[Metric, ...]] = ()  # of one class each: "f1 yes" in ``scores`` is an "f1"
    error: ClassVar[str] = "error"  # what ``errors`` are called
    loss_family: ClassVar[tuple[type[Loss], ...]] = ()  # what Config.loss names one of; empty: it has its own
    default_loss: ClassVar[str] = ""
    problem_type: ClassVar[str] = ""  # what transformers calls a model that answers it, if it has a name
    loss: Loss  # set by ``fit``

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            TASKS[cls.name] = cls

    def __init__(self, config: Config):
        self.config = config
        self.outputs = config.target_columns  # names of the scores that are explained, one per output

    # --- the table ------------------------------------------------------------------------------------------

    def check(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """``table`` with its targets converted, by default to numbers; ``where``: its name in messages.

        Raises InputError naming the first that cannot be used.
        """
        for column in self.config.target_columns:
            numbers = read_numbers(table, column, where)
            infinite = ~(numbers.abs() <= np.finfo(np.float32).max)
            check_rows(table, infinite, column, "holds no finite number", where)
            table[column] = numbers
        return table

    def strata(self, table: pd.DataFrame) -> Strata:
        """What stratified folds spread: classes, or columns of 0 and 1; by default bins of a target."""
        return quantile_bins(table[self.config.target_columns[0]], self.config.n_folds)

    def check_fold(self, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
        """Raise InputError where these rows cannot be learnt from, or not be scored."""
        targets = self.targets(held_out)
        if np.isnan(self.score(targets, self.guess(targets))):
            raise InputError(
                f"{self.metric.label} is undefined on the rows that the fold holds out: it needs "
                f"{self.metric.needs or 'other rows'}; choose another metric, fold_by or seed."
            )

    def guess(self, targets: np.ndarray) -> np.ndarray:
        """Some predictions, (rows, columns), for targets, (rows, columns): random, and of the right form."""
        return np.random.default_rng(0).normal(size=targets.shape)

    def see(self, table: pd.DataFrame) -> None:
        """Take from the whole table what all folds must agree on, such as the names of labels."""

    def fit(self, train: pd.DataFrame) -> None:
        """Take from the training rows alone what the model learns by: scales and weights, and the loss."""

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        """(rows, columns): what predictions are scored against; NaN in a table without targets."""
        return table.reindex(columns=list(self.config.target_columns)).to_numpy(dtype=np.float64)

    # --- examples and the model -----------------------------------------------------------------------------

    def encode(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> Examples:
        """The rows as the model reads them; by default one example per row, cut to ``max_length`` tokens.

        Args:
            max_length: None: the tokenizer's own, with which it was trained.
        """
        tokens, lengths = self.tokens(table, tokenizer, max_length or tokenizer.model_max_length)
        ids = table[self.config.id_column].tolist()
        return Examples(ids, tokens, np.cumsum(lengths), self.targets(table), np.arange(len(table)))

    def head(self) -> HeadConfig:
        """What the model's head is made of."""
        return HeadConfig(self.outputs, dropout=self.config.head_dropout, n_dropouts=self.config.n_dropouts)

    def statistics(self, outputs, batch: Batch) -> torch.Tensor:
        """The loss's statistics, (n_statistics,), of the model's outputs for a batch."""
        own = (outputs["auxiliary"],) if POOLINGS[self.config.pooling].auxiliary else ()
        return self.loss.statistics(outputs["logits"], batch.targets, *own)

    def counts(self, batch: Batch) -> torch.Tensor:
        """What the statistics of a batch are divided by, (n_statistics,), once added up."""
        pooling = POOLINGS[self.config.pooling]
        own = (pooling.auxiliary_terms(batch.extras),) if pooling.auxiliary else ()
        return self.loss.counts(batch.targets, *own)

    def settings(self) -> dict:
        """The Config fields with which a saved model's task can be made again."""
        names = ("id_column", *self.text_settings, "target_columns", "max_length", "eval_batch_size")
        return {"task": self.name, "loss": self.loss_name, **{n: getattr(self.config, n) for n in names}}

    @property
    def loss_name(self) -> str:
        """The name of the loss."""
        return self.default_loss if self.config.loss == "auto" else self.config.loss

    def make_loss(self, *args) -> Loss:
        """The loss that the Config names, with the settings that it takes. Raises ValueError."""
        loss_class = LOSSES[self.loss_name]
        return loss_class(*args, **{name: self.loss_option(name) for name in loss_class.options})

    def loss_option(self, name: str):
        """The value of one of the loss's settings; by default the Config's."""
        return getattr(self.config, name)

    def restore(self, head: HeadConfig) -> None:
        """Take from a saved model's head what ``see`` and ``fit`` took from the tables."""
        self.outputs = tuple(head.outputs)

    # --- predictions ----------------------------------------------------------------------------------------

    def decode(self, outputs: list[np.ndarray], examples: Examples) -> np.ndarray:
        """Predictions, (rows, columns), from each example's logits; by default the logits themselves."""
        return np.stack(outputs).astype(np.float64) if outputs else np.empty((0, len(self.outputs)))

    def columns(self, weights: str) -> list[str]:
        """The columns of predictions.csv for some weights, or for "target"; only the task knows them.

        With several targets each column comes once per target, as "<target> <weights>".
        """
        names = self.config.target_columns
        return [weights] if len(names) == 1 else [f"{name} {weights}" for name in names]

    def predictions_table(self, ids: list[str], values: dict[str, np.ndarray]) -> pd.DataFrame:
        """predictions.csv: the ids, and the columns of each array in ``values`` ("target", "last", ...)."""
        table = {"id": ids}
        for name, array in values.items():
            table |= dict(zip(self.columns(name), array.T, strict=True))
        return pd.DataFrame(table)

    def values(self, predictions: pd.DataFrame, weights: str) -> np.ndarray:
        """(rows, columns): predictions of some weights, or targets, from a table as in predictions.csv."""
        return predictions[self.columns(weights)].to_numpy(dtype=np.float64)

    def has(self, predictions: pd.DataFrame, weights: str) -> bool:
        """Whether a table as in predictions.csv has all predictions of some weights."""
        return set(self.columns(weights)) <= set(predictions.dropna(axis=1).columns)

    def scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Every score by its name, the metric's among them, over all rows given."""
        raise NotImplementedError

    def score(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """The metric."""
        return self.scores(targets, predictions)[self.metric.name]

    def errors(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The error of each row, (rows, columns), lower is better: for paired tests and tables of errors."""
        raise NotImplementedError

    def interval(
        self, targets: np.ndarray, predictions: np.ndarray, groups: np.ndarray
    ) -> tuple[float, float]:
        """95 % bootstrap interval of the metric, by whole groups, (rows,)."""
        return bootstrap_interval(lambda rows: self.score(targets[rows], predictions[rows]), groups)

    def baselines(self, train: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, np.ndarray]:
        """Predictions for the held-out rows without a transformer, by the baseline's name."""
        return {}

    def sample(self, values: dict[str, np.ndarray]) -> str:
        """A row's target and predictions for a person to read, from arrays (columns,) by name."""
        numbers = {name: ", ".join(f"{number:.2f}" for number in array) for name, array in values.items()}
        return ", ".join(f"{name} {number}" for name, number in numbers.items())

    def submission(
        self, ids: pd.Series, predictions: np.ndarray, sample: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """A submission, in the form of the competition's ``sample``; by default a column per target."""
        columns = dict(zip(self.config.target_columns, predictions.T, strict=True))
        return pd.DataFrame({self.config.id_column: ids, **columns})

    def answers(self, ids: pd.Series, predictions: np.ndarray) -> pd.DataFrame:
        """What ``predict`` gives for new texts; by default what is submitted."""
        return self.submission(ids, predictions)

    def explained(self, logits: torch.Tensor, output: int) -> torch.Tensor:
        """The number per text, (batch,), whose gradient is explained, of the output with that number."""
        return logits[:, output]
