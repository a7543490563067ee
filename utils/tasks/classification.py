"""What tasks with classes have in common: how they learn, decide and are scored."""

import functools
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from utils.config import InputError
from utils.modeling.classification import ClassLoss, log_odds
from utils.modeling.heads import HeadConfig
from utils.modeling.losses import LOSSES
from utils.tasks import baselines, class_scores
from utils.tasks.class_weights import class_weights, pos_weight
from utils.tasks.labelled import Labelled
from utils.tasks.metrics import Metric
from utils.tasks.stacking import fit_classes
from utils.tasks.thresholds import divide, fit_cuts


class Classification(Labelled):
    """Labels. What a subclass must say is its metrics, its losses and how many labels there may be."""

    part_metrics = (class_scores.F1,)
    error: ClassVar[str] = "Brier score"

    # --- learning -------------------------------------------------------------------------------------------

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
        self.train_codes = self.targets(train)
        try:
            self.loss = self.make_loss(self.sizes)
        except ValueError as error:
            raise InputError(str(error)) from None

    def loss_option(self, name: str):
        if name == "class_weights":
            return class_weights(self.config.class_weights, self.train_codes, self.sizes)
        if name == "pos_weight":
            return pos_weight(self.config.pos_weight, self.train_codes)
        return super().loss_option(name)

    # --- the model ------------------------------------------------------------------------------------------

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

    def explained(self, logits: torch.Tensor, output: int) -> torch.Tensor:
        """The class's log-odds, log p / (1 - p)."""
        target, label = self.place(output)
        return log_odds(self.split(logits)[target])[:, label]

    def place(self, output: int) -> tuple[int, int]:
        """The target and the class within it to which one of ``outputs`` belongs."""
        ends = np.cumsum(self.sizes)
        target = int(np.searchsorted(ends, output, side="right"))
        return target, output - int(ends[target] - self.sizes[target])

    def split(self, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each target's outputs, (batch, outputs)."""
        return logits.split([self.loss_class.n_outputs(size) for size in self.sizes], dim=-1)

    def probabilities_of(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """Of each target its classes' probabilities, (batch, classes)."""
        return [self.loss_class.probabilities(part) for part in self.split(logits)]

    # --- predictions ----------------------------------------------------------------------------------------

    def decode(self, outputs, examples) -> np.ndarray:
        if not outputs:
            return np.empty((0, sum(self.sizes)))
        logits = torch.from_numpy(np.stack(outputs).astype(np.float64))
        return torch.cat(self.probabilities_of(logits), dim=1).numpy()

    def place_on_line(self, probabilities: np.ndarray) -> np.ndarray:
        """Where rows lie, (rows,), on a line that cuts divide into classes; of two: the second's share."""
        return probabilities[:, 1]

    def usual_cuts(self, n_classes: int) -> np.ndarray:
        """Those of a task that nobody has fitted."""
        return np.array([0.5])

    @property
    def has_cuts(self) -> bool:
        """Whether cuts decide between the classes; of several without an order the most probable wins."""
        return set(self.sizes) == {2}

    def fit_cuts(self, targets: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
        """Of each target the cuts, (classes - 1,), with which its labels score best on these rows."""
        fitted = []
        for codes, part in zip(targets.T, self.by_target(predictions), strict=True):
            rows, n_classes = ~np.isnan(codes), part.shape[1]
            objective = functools.partial(self.score_labels, self.label_metric.name, n_classes)
            line = self.place_on_line(part[rows])
            fitted.append(fit_cuts(codes[rows].astype(int), line, self.usual_cuts(n_classes), objective))
        return fitted

    def choose(self, probabilities: np.ndarray, cuts: np.ndarray | None = None) -> np.ndarray:
        """The class, (rows,), that is predicted from a target's probabilities, (rows, classes)."""
        if not self.has_cuts:
            return probabilities.argmax(axis=1)
        if cuts is None:
            cuts = self.usual_cuts(probabilities.shape[1])
        return divide(self.place_on_line(probabilities), cuts)

    @property
    def label_metric(self) -> Metric:
        """What labels are judged by: the metric, or the task's first where it judges probabilities."""
        own = type(self).metric
        return self.metric if self.metric.name in class_scores.OF_LABELS else own

    def label_score(self, targets: np.ndarray, labels: np.ndarray) -> float:
        """The mean over targets of ``label_metric``, from class numbers, (rows, targets)."""
        scores = []
        for codes, predicted, size in zip(targets.T, labels.T, self.sizes, strict=True):
            rows = ~np.isnan(codes)
            scores.append(
                self.score_labels(self.label_metric.name, size, codes[rows].astype(int), predicted[rows])
            )
        return _mean(scores)

    def score_labels(self, name: str, n_classes: int, codes: np.ndarray, predicted: np.ndarray) -> float:
        """One of the scores of labels, of one target's class numbers, each (rows,)."""
        return class_scores.SCORES[name](codes, predicted, np.empty((0, n_classes)))

    def predicted(self, predictions: np.ndarray, cuts: list[np.ndarray] | None = None) -> np.ndarray:
        """The predicted class of each target, (rows, targets), by ``fit_cuts``'s cuts or the usual ones."""
        parts = self.by_target(predictions)
        own = cuts or [self.usual_cuts(part.shape[1]) for part in parts]
        return np.stack([self.choose(part, cut) for part, cut in zip(parts, own, strict=True)], axis=1)

    # --- scores ---------------------------------------------------------------------------------------------

    def known(self, targets: np.ndarray, predictions: np.ndarray):
        """Of each target the known class numbers, the predicted ones, and the probabilities."""
        for codes, part in zip(targets.T, self.by_target(predictions), strict=True):
            rows = ~np.isnan(codes)
            yield codes[rows].astype(int), self.choose(part[rows]), part[rows]

    def one_score(self, metric: Metric, targets: np.ndarray, predictions: np.ndarray) -> list[float]:
        """A score of each target."""
        known = self.known(targets, predictions)
        if metric.name in class_scores.OF_LABELS:
            return [self.score_labels(metric.name, part.shape[1], *labels) for *labels, part in known]
        return [class_scores.SCORES[metric.name](*parts) for parts in known]

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

    def fit_states(self, states: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Each target's logistic regression: the probabilities of its classes."""
        return np.hstack(fit_classes(states, targets, self.sizes, new))

    def baselines(self, train: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, np.ndarray]:
        """The training rows' shares of classes; logistic regression on TF-IDF of words and characters."""
        texts, new = (np.array(self.counted_texts(rows), dtype=object) for rows in (train, held_out))
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


def _mean(values: list[float]) -> float:
    """The mean over targets, of which those that define nothing are left out."""
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))
