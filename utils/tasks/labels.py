"""Labels for a text: one of two, one of several, or any of several."""

import contextlib

import numpy as np
import pandas as pd

from utils.data.table import check_rows
from utils.modeling.classification import SoftmaxLoss
from utils.tasks import baselines, class_scores
from utils.tasks.base import Task
from utils.tasks.class_scores import ACCURACY, COMMON, MACRO_F1
from utils.tasks.classification import Classification
from utils.tasks.label_columns import read_labels


class Binary(Classification):
    """One of two labels; the second in order is the positive one, whose F1 and AUROC are meant."""

    name = "binary"
    metric = ACCURACY
    metrics = (MACRO_F1, *COMMON)
    loss_family = (SoftmaxLoss,)
    default_loss = "bce"
    n_labels = 2


class Multiclass(Classification):
    """One of several labels."""

    name = "multiclass"
    metric = MACRO_F1
    metrics = (ACCURACY, *COMMON)
    loss_family = (SoftmaxLoss,)
    default_loss = "cross_entropy"


class Multilabel(Classification):
    """Any of several labels, each a column of 0 and 1. Predictions are the labels' probabilities.

    F1, precision and recall are those of each label's 1, and macro scores their mean over the labels.
    """

    name = "multilabel"
    problem_type = "multi_label_classification"
    metric = MACRO_F1
    metrics = (ACCURACY, *COMMON)
    loss_family = (SoftmaxLoss,)
    default_loss = "bce"
    n_labels = 2

    def check(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        for column in self.config.target_columns:
            cells = read_labels(table, column, where).replace({"True": "1", "False": "0"})
            strange = cells.notna() & ~cells.isin(["0", "1"])
            check_rows(table, strange, column, "holds something else than 0 and 1", where)
            table = table.assign(**{column: cells})
        return super().check(table, where)

    def strata(self, table: pd.DataFrame) -> pd.DataFrame:
        """The labels, as columns of 0 and 1."""
        return (table[list(self.config.target_columns)] == "1").astype(int)

    def see(self, table: pd.DataFrame) -> None:
        self.set_labels((("0", "1"),) * len(self.config.target_columns))

    def guess(self, targets: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).uniform(size=targets.shape)

    def decode(self, outputs, examples) -> np.ndarray:
        return super().decode(outputs, examples)[:, 1::2]

    def by_target(self, predictions: np.ndarray) -> list[np.ndarray]:
        return [np.stack([1 - column, column], axis=1) for column in predictions.T]

    def class_names(self, weights: str) -> list[str]:
        return [" ".join(filter(None, [target, weights])) for target in self.config.target_columns]

    def place(self, output: int) -> tuple[int, int]:
        return output, 1

    def score_labels(self, name: str, n_classes: int, codes: np.ndarray, predicted: np.ndarray) -> float:
        of_class = name.removeprefix("macro_")
        if of_class == name:
            return super().score_labels(name, n_classes, codes, predicted)
        return float(class_scores.by_class(codes, predicted, n_classes)[of_class][1])

    def fit_states(self, states, targets, new) -> np.ndarray:
        return super().fit_states(states, targets, new)[:, 1::2]

    def f1_by_class(self, targets: np.ndarray, predictions: np.ndarray) -> list[float]:
        return [scores["f1"][1] for scores in self.by_class(targets, predictions)]

    def baselines(self, train: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, np.ndarray]:
        """The share of each label; where none is missing, logistic regression on TF-IDF."""
        labels, texts = self.targets(train), self.counted_texts(train)
        predictions = {"majority": np.tile(np.nanmean(labels, axis=0), (len(held_out), 1))}
        if not np.isnan(labels).any():
            new = self.counted_texts(held_out)
            with contextlib.suppress(ValueError):  # no word occurs twice
                logistic = baselines.predict_label_probabilities(texts, labels.astype(int), new)
                predictions["TF-IDF, logistic regression"] = logistic
        return predictions

    def sample(self, values: dict[str, np.ndarray]) -> str:
        """The labels that the text has, and the probability of each label."""
        parts = []
        for name, array in values.items():
            labels = zip(self.config.target_columns, array, strict=True)
            if name == "target":
                parts.append(f"{name} {', '.join(label for label, code in labels if code == 1) or 'none'}")
            else:
                parts.append(f"{name} " + ", ".join(f"{label} ({share:.2f})" for label, share in labels))
        return ", ".join(parts)

    def answers(self, ids, predictions) -> pd.DataFrame:
        """The labels' probabilities."""
        return Task.submission(self, ids, predictions)

    def submission(self, ids, predictions, sample=None) -> pd.DataFrame:
        """Probabilities of the labels; 0 and 1 where the sample holds these alone."""
        if sample is None or not _holds_labels(sample, self.config.target_columns):
            return Task.submission(self, ids, predictions)
        return Task.submission(self, ids, self.predicted(predictions))


def _holds_labels(sample: pd.DataFrame, columns: tuple[str, ...]) -> bool:
    """Whether a sample submission holds whole numbers alone, and both of them."""
    cells = set(sample.reindex(columns=list(columns)).astype(str).to_numpy().ravel())
    return cells == {"0", "1"}
