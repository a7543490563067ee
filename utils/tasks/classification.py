"""What tasks with classes have in common: binary, multiclass and ordinal are named subclasses.

Predictions are the probabilities of all classes, (rows, classes); with several targets, of one target's after
the other's. Targets are class numbers, (rows, targets), NaN where one of several is missing.
"""

from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from utils.config import InputError
from utils.data.table import check_rows
from utils.modeling.classification import ClassLoss
from utils.modeling.heads import HeadConfig
from utils.modeling.losses import LOSSES
from utils.tasks import baselines, class_scores
from utils.tasks.base import Task
from utils.tasks.label_columns import check_classes, codes_of, natural_order, read_labels
from utils.tasks.metrics import Metric


class Classification(Task):
    """Labels. What a subclass must say is its metrics, its losses and how many labels there may be."""

    n_labels: ClassVar[int | None] = None  # None: any number
    part_metrics = (class_scores.F1,)
    error: ClassVar[str] = "Brier score"
    labels: tuple[tuple[str, ...], ...] = ()  # of each target, in order; from ``see`` or ``restore``

    # --- the table ------------------------------------------------------------------------------------------

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

    def check_fold(self, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
        for column in self.config.target_columns:
            if train[column].nunique() < 2:
                raise InputError(
                    f"the fold trains on one label of {column!r} alone, {train[column].iloc[0]!r}; choose "
                    "another fold_by or seed."
                )
        super().check_fold(train, held_out)

    def guess(self, targets: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng(0)
        shares = [generator.dirichlet(np.ones(size), len(targets)) for size in self.sizes]
        return np.concatenate(shares, axis=1)

    def fit(self, train: pd.DataFrame) -> None:
        self._train_codes = self.targets(train)
        try:
            self.loss = self.make_loss(self.sizes)
        except ValueError as error:
            raise InputError(str(error)) from None

    def loss_option(self, name: str):
        if name == "class_weights":
            return self._class_weights()
        if name == "pos_weight":
            return self._pos_weight()
        return super().loss_option(name)

    def _class_weights(self) -> list[float] | None:
        """balanced: in inverse proportion to the class's share of the training rows, 1 on average."""
        given = self.config.class_weights
        if given != ("balanced",):
            return _numbers("class_weights", given, sum(self.sizes), "balanced", "label")
        weights: list[float] = []
        for codes, size in zip(self._train_codes.T, self.sizes, strict=True):
            counts = np.bincount(codes[~np.isnan(codes)].astype(int), minlength=size)
            weights += (counts.sum() / (np.maximum(counts, 1) * (counts > 0).sum())).tolist()
        return weights

    def _pos_weight(self) -> list[float] | None:
        """auto: negatives over positives among the training rows."""
        given = self.config.pos_weight
        if given != ("auto",):
            return _numbers("pos_weight", given, len(self.sizes), "auto", "target")
        return [float((codes == 0).sum() / max((codes == 1).sum(), 1)) for codes in self._train_codes.T]

    def targets(self, table: pd.DataFrame) -> np.ndarray:
        labels = table.reindex(columns=list(self.config.target_columns))
        codes = [codes_of(labels[c], own) for c, own in zip(labels, self.labels, strict=True)]
        return np.stack(codes, axis=1)

    # --- the model ------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> list[int]:
        """How many classes each target has."""
        return [len(labels) for labels in self.labels]

    @property
    def loss_class(self) -> type[ClassLoss]:
        return LOSSES[self.loss_name]  # type: ignore[return-value] # the family has no others

    def head(self) -> HeadConfig:
        names = [
            name
            for target, labels in zip(self.config.target_columns, self.labels, strict=True)
            for name in self.output_names(target, labels)
        ]
        config = self.config
        return HeadConfig(
            tuple(names), labels=self.labels, dropout=config.head_dropout, n_dropouts=config.n_dropouts
        )

    def output_names(self, target: str, labels: tuple[str, ...]) -> list[str]:
        """A name for each of the head's outputs that belong to a target."""
        n_outputs = self.loss_class.n_outputs(len(labels))
        return [f"{target} {label}" for label in labels[-n_outputs:]]

    def restore(self, head: HeadConfig) -> None:
        self.set_labels(tuple(map(tuple, head.labels)))

    def explained(self, logits: torch.Tensor, output: int) -> torch.Tensor:
        """The class's log-odds, log p / (1 - p)."""
        target, label = self.place(output)
        log = self.probabilities_of(logits)[target].clamp(1e-7, 1 - 1e-7).logit()
        return log[:, label]

    def place(self, output: int) -> tuple[int, int]:
        """The target and the class within it to which one of ``outputs`` belongs."""
        ends = np.cumsum(self.sizes)
        target = int(np.searchsorted(ends, output, side="right"))
        return target, output - int(ends[target] - self.sizes[target])

    def probabilities_of(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """Of each target its classes' probabilities, (batch, classes)."""
        parts = logits.split([self.loss_class.n_outputs(size) for size in self.sizes], dim=-1)
        return [self.loss_class.probabilities(part) for part in parts]

    # --- predictions ----------------------------------------------------------------------------------------

    def decode(self, outputs, examples) -> np.ndarray:
        if not outputs:
            return np.empty((0, sum(self.sizes)))
        logits = torch.from_numpy(np.stack(outputs).astype(np.float64))
        return torch.cat(self.probabilities_of(logits), dim=1).numpy()

    def by_target(self, predictions: np.ndarray) -> list[np.ndarray]:
        """Each target's columns of predictions, (rows, classes)."""
        return np.split(predictions, np.cumsum(self.sizes)[:-1], axis=1)

    def choose(self, probabilities: np.ndarray) -> np.ndarray:
        """The class, (rows,), that is predicted from a target's probabilities, (rows, classes)."""
        return probabilities.argmax(axis=1)

    def predicted(self, predictions: np.ndarray) -> np.ndarray:
        """The predicted class of each target, (rows, targets)."""
        return np.stack([self.choose(part) for part in self.by_target(predictions)], axis=1)

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

    # --- scores ---------------------------------------------------------------------------------------------

    def known(self, targets: np.ndarray, predictions: np.ndarray):
        """Of each target the known class numbers, the predicted ones, and the probabilities."""
        for codes, part in zip(targets.T, self.by_target(predictions), strict=True):
            rows = ~np.isnan(codes)
            yield codes[rows].astype(int), self.choose(part[rows]), part[rows]

    def one_score(self, metric: Metric, targets: np.ndarray, predictions: np.ndarray) -> list[float]:
        """A score of each target."""
        score = class_scores.SCORES[metric.name]
        return [score(*parts) for parts in self.known(targets, predictions)]

    def scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Every metric; with several targets their mean, and the default metric of each; F1 by class.

        What the rows cannot define is NaN.
        """
        first, *others = dict.fromkeys((self.metric, type(self).metric, *self.metrics))
        by_target = self.one_score(first, targets, predictions)
        scores = {first.name: _mean(by_target)}
        names = self.config.target_columns
        if len(names) > 1:
            scores |= {f"{first.name} {n}": score for n, score in zip(names, by_target, strict=True)}
        scores |= {m.name: _mean(self.one_score(m, targets, predictions)) for m in others}
        f1 = self.f1_by_class(targets, predictions)
        return scores | {f"f1 {n}": value for n, value in zip(self.class_names(""), f1, strict=True)}

    def by_class(self, targets: np.ndarray, predictions: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Precision, recall and F1 of each target's classes."""
        known = self.known(targets, predictions)
        return [class_scores.by_class(codes, chosen, part.shape[1]) for codes, chosen, part in known]

    def f1_by_class(self, targets: np.ndarray, predictions: np.ndarray) -> list[float]:
        """The F1 of each of ``class_names``."""
        return np.concatenate([scores["f1"] for scores in self.by_class(targets, predictions)]).tolist()

    def score(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return _mean(self.one_score(self.metric, targets, predictions))

    def errors(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The Brier score of each row and target, (rows, targets); NaN where a target is missing."""
        return self._by_row(targets, predictions, class_scores.brier_scores)

    def _by_row(self, targets, predictions, function) -> np.ndarray:
        errors = np.full(targets.shape, np.nan)
        for i, (codes, part) in enumerate(zip(targets.T, self.by_target(predictions), strict=True)):
            rows = ~np.isnan(codes)
            errors[rows, i] = function(codes[rows], part[rows])
        return errors

    def baselines(self, train: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, np.ndarray]:
        """The training rows' shares of classes; logistic regression on TF-IDF of words and characters."""
        texts, new = (rows[self.config.text_column].to_numpy() for rows in (train, held_out))
        by_name: dict[str, list[np.ndarray]] = {}
        for codes, size in zip(self.targets(train).T, self.sizes, strict=True):
            rows = ~np.isnan(codes)
            known = codes[rows].astype(int)
            for name, part in self.one_baseline(texts[rows].tolist(), known, size, new.tolist()).items():
                by_name.setdefault(name, []).append(part)
        complete = {name: parts for name, parts in by_name.items() if len(parts) == len(self.sizes)}
        return {name: np.concatenate(parts, axis=1) for name, parts in complete.items()}

    def one_baseline(self, texts, codes, n_classes, new) -> dict[str, np.ndarray]:
        """Of one target the probabilities, (texts, classes), by the baseline's name."""
        predictions = {"majority": baselines.predict_prior(codes, n_classes, len(new))}
        try:
            logistic = baselines.predict_probabilities(texts, codes, n_classes, new)
        except ValueError:  # no word occurs twice
            return predictions
        return predictions | {"TF-IDF, logistic regression": logistic}

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


def _mean(values: list[float]) -> float:
    """The mean over targets, of which those that define nothing are left out."""
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def _numbers(setting: str, given: tuple[str, ...], n: int, word: str, what: str) -> list[float] | None:
    """The numbers that a setting gives, one per label or target; None where it gives none."""
    if not given:
        return None
    try:
        numbers = [float(value) for value in given]
    except ValueError:
        numbers = []
    if len(numbers) != n or not all(0 < number < np.inf for number in numbers):
        raise InputError(
            f"{setting}={','.join(given)!r} cannot be used; write {word}, or a positive number for each of "
            f"the {n} {what}s."
        )
    return numbers


def _holds_fractions(sample: pd.DataFrame, columns: tuple[str, ...]) -> bool:
    """Whether a sample submission has a number with a fraction in a target column."""
    cells = sample.reindex(columns=list(columns)).astype(str).to_numpy().ravel()
    return any("." in cell for cell in cells)
