"""Labels in tables: which there are, what number each has, and how predictions of them are written down."""

from typing import ClassVar

import numpy as np
import pandas as pd

from utils.config import Config, InputError
from utils.data.table import check_rows
from utils.modeling.heads import HeadConfig
from utils.tasks.base import Task
from utils.tasks.label_columns import check_classes, codes_of, natural_order, read_labels


class Labelled(Task):
    """The tables of a task with classes.

    Predictions are the probabilities of all classes, (rows, classes); with several targets, of one target's
    after the other's. Targets are class numbers, (rows, targets), NaN where one of several is missing.
    """

    n_labels: ClassVar[int | None] = None  # None: any number
    problem_type = "single_label_classification"
    labels: tuple[tuple[str, ...], ...]  # of each target, in order; from ``see`` or ``restore``

    def __init__(self, config: Config):
        super().__init__(config)
        # Until a table is seen, as many labels as a model can be looked at with.
        self.set_labels((config.labels or ("0", "1"),) * len(config.target_columns))
        self.train_codes = np.empty((0, len(config.target_columns)))  # (training rows, targets), from ``fit``

    def check(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """``table`` with its targets as labels. Of several targets some may be missing, but not all."""
        columns, known = list(self.config.target_columns), self.config.labels
        labels = {column: read_labels(table, column, where, known) for column in columns}
        missing = pd.DataFrame(labels).isna()
        check_rows(table, missing.all(axis=1), columns[0], "holds no label", where)
        table = table.assign(**labels)
        for column in columns:
            if missing[column].all():
                raise InputError(f"{where}: column {column!r} is empty; leave it out of target_columns.")
            check_classes(table, column, where, self.n_labels)
        return table

    def strata(self, table: pd.DataFrame) -> pd.Series:
        """The first target's labels."""
        return table[self.config.target_columns[0]].fillna("")

    def see(self, table: pd.DataFrame) -> None:
        self.set_labels(
            tuple(
                self.config.labels or self.order(set(table[column].dropna()))
                for column in self.config.target_columns
            )
        )

    def order(self, labels: set[str]) -> tuple[str, ...]:
        """The labels of a target in the order of their numbers."""
        return natural_order(labels)

    def set_labels(self, labels: tuple[tuple[str, ...], ...]) -> None:
        """Take the labels of each target, and name what is explained."""
        self.labels = labels
        self.outputs = tuple(self.class_names(""))

    def restore(self, head: HeadConfig) -> None:
        self.set_labels(tuple(map(tuple, head.labels)))

    @property
    def sizes(self) -> list[int]:
        """How many classes each target has."""
        return [len(labels) for labels in self.labels]

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        labels = table.reindex(columns=list(self.config.target_columns))
        codes = [codes_of(labels[c], own) for c, own in zip(labels, self.labels, strict=True)]
        return np.stack(codes, axis=1)

    def by_target(self, predictions: np.ndarray) -> list[np.ndarray]:
        """Each target's columns of predictions, (rows, classes)."""
        return np.split(predictions, np.cumsum(self.sizes)[:-1], axis=1)

    def predicted(self, predictions: np.ndarray, cuts: list[np.ndarray] | None = None) -> np.ndarray:
        """The predicted class of each target, (rows, targets)."""
        raise NotImplementedError

    # --- predictions ----------------------------------------------------------------------------------------

    def names_of(self, codes: np.ndarray) -> np.ndarray:
        """The labels, (rows, targets), of class numbers, (rows, targets); "" where they are missing."""
        known = [np.array([*labels, ""], dtype=object) for labels in self.labels]
        columns = [
            names[np.where(np.isnan(column), -1, column).astype(int)]
            for names, column in zip(known, codes.astype(float).T, strict=True)
        ]
        return np.stack(columns, axis=1)

    def class_names(self, weights: str) -> list[str]:
        """A name for each class of each target, with the target's where there are several."""
        several = len(self.config.target_columns) > 1
        return [
            " ".join(filter(None, [target if several else "", weights, label]))
            for target, labels in zip(self.config.target_columns, self.labels, strict=True)
            for label in labels
        ]

    def columns(self, weights: str) -> list[str]:
        """The probability of each class, as "<weights> <label>"; of "target" the labels."""
        return super().columns(weights) if weights == "target" else self.class_names(weights)

    def label_columns(self, weights: str) -> list[str]:
        """The columns of predicted labels."""
        return [f"{name} label" for name in super().columns(weights)]

    def predictions_table(self, ids: list[str], values: dict[str, np.ndarray]) -> pd.DataFrame:
        """The probabilities, and the label that is predicted from them."""
        table = super().predictions_table(ids, values)
        for name, array in values.items():
            codes = array if name == "target" else self.predicted(array)
            columns = self.columns(name) if name == "target" else self.label_columns(name)
            table = table.assign(**dict(zip(columns, self.names_of(codes).T, strict=True)))
        return table

    def values(self, predictions: pd.DataFrame, weights: str) -> np.ndarray:
        if weights != "target":
            return super().values(predictions, weights)
        columns = predictions[self.columns("target")].astype(object)
        named = [read_labels(columns, column, "predictions.csv") for column in columns]
        codes = [codes_of(column, own) for column, own in zip(named, self.labels, strict=True)]
        return np.stack(codes, axis=1)

    def disagreement(self, predictions) -> dict[str, np.ndarray]:
        """Of each target the standard deviation of the probability that differs most."""
        parts = zip(*map(self.by_target, predictions), strict=True)
        spreads = [self.spread_of(np.stack(part)) for part in parts]
        return dict(zip(super().columns("spread"), spreads, strict=True))

    def spread_of(self, probabilities: np.ndarray) -> np.ndarray:
        """(rows,), from several models' probabilities of a target's classes, (models, rows, classes)."""
        return probabilities.std(axis=0).max(axis=1)

    # --- for people -----------------------------------------------------------------------------------------

    def sample(self, values: dict[str, np.ndarray]) -> str:
        """The true label, and the predicted one with its probability."""
        parts = []
        for name, array in values.items():
            if name == "target":
                parts.append(f"{name} {', '.join(self.names_of(array[None])[0])}")
                continue
            codes = self.predicted(array[None])
            sure = [part[0, code] for part, code in zip(self.by_target(array[None]), codes[0], strict=True)]
            labels = zip(self.names_of(codes)[0], sure, strict=True)
            parts.append(f"{name} " + ", ".join(f"{label} ({share:.2f})" for label, share in labels))
        return ", ".join(parts)

    def submission(self, ids, predictions, sample=None) -> pd.DataFrame:
        """Labels; or probabilities, where the sample has a column per class or fractions for two classes."""
        config, table = self.config, pd.DataFrame({self.config.id_column: ids})
        by_class = dict(zip(self.class_names(""), predictions.T, strict=True))
        if sample is not None and set(sample.columns) == {config.id_column, *by_class}:
            return table.assign(**by_class)[list(sample.columns)]
        parts = self.by_target(predictions)
        if sample is not None and set(self.sizes) == {2} and _holds_fractions(sample, config.target_columns):
            return table.assign(**{t: p[:, 1] for t, p in zip(config.target_columns, parts, strict=True)})
        labels = self.names_of(self.predicted(predictions))
        return table.assign(**dict(zip(config.target_columns, labels.T, strict=True)))

    def answers(self, ids, predictions) -> pd.DataFrame:
        """Labels, and the probability of each class."""
        probabilities = dict(zip(self.class_names(""), predictions.T, strict=True))
        return self.submission(ids, predictions).assign(**probabilities)


def _holds_fractions(sample: pd.DataFrame, columns: tuple[str, ...]) -> bool:
    """Whether a sample submission has a number with a fraction in a target column."""
    cells = sample.reindex(columns=list(columns)).astype(str).to_numpy().ravel()
    return any("." in cell for cell in cells)
