"""Grades: labels in an order, judged by how far a prediction lies from the truth."""

from dataclasses import replace

import numpy as np
import torch

from utils.config import InputError
from utils.modeling.classification import SoftmaxLoss
from utils.modeling.heads import HeadConfig
from utils.modeling.ordinal import CutsLoss
from utils.tasks import baselines
from utils.tasks.class_scores import ACCURACY, COMMON, MACRO_F1, QWK
from utils.tasks.classification import Classification
from utils.tasks.label_columns import natural_order
from utils.tasks.metrics import Metric
from utils.tasks.numbers import NUMBER

MAE = Metric("mae", "mean absolute error", "grades")


class Ordinal(Classification):
    """Grades, from the lowest to the highest: numbers in their own order, or words in that of ``labels``.

    A text's grade is the mean of the grades' numbers, weighted by their probabilities, and rounded: what the
    quadratic weighted kappa (QWK) rewards, more than the most probable grade.
    """

    name = "ordinal"
    metric = QWK
    metrics = (ACCURACY, MACRO_F1, MAE, *COMMON)
    loss_family = (CutsLoss, SoftmaxLoss)
    default_loss = "coral"
    error = "squared distance from the true grade"

    def order(self, labels: set[str]) -> tuple[str, ...]:
        """Grades from the lowest to the highest. Raises InputError where they are no numbers."""
        if not all(NUMBER.fullmatch(label) for label in labels):
            raise InputError(
                f"grades such as {sorted(labels)[0]!r} have no order of their own; set labels, the grades "
                "from the lowest to the highest, separated by commas."
            )
        return natural_order(labels)

    def set_labels(self, labels: tuple[tuple[str, ...], ...]) -> None:
        super().set_labels(labels)
        self.outputs = self.config.target_columns

    def head(self) -> HeadConfig:
        """With a loss of cuts, outputs start at the training rows' log-odds."""
        head, loss = super().head(), self.make_loss(self.sizes)
        if not isinstance(loss, CutsLoss):
            return head
        known = [codes[~np.isnan(codes)].astype(int) for codes in self.train_codes.T]
        starts = [
            loss.starting_logits(torch.from_numpy(codes), size)
            for codes, size in zip(known, self.sizes, strict=True)
        ]
        location = tuple(torch.cat(starts).tolist())
        shared = tuple(size - 1 for size in self.sizes) if loss.shares_direction else ()
        return replace(head, location=location, scale=(1.0,) * len(location), shared=shared)

    def output_names(self, target: str, labels: tuple[str, ...]) -> list[str]:
        if issubclass(self.loss_class, CutsLoss):
            return [f"{target} above {label}" for label in labels[:-1]]
        return super().output_names(target, labels)

    def explained(self, logits: torch.Tensor, output: int) -> torch.Tensor:
        """The expected grade's number, (batch,), counted from 0."""
        return expected_grades(self.probabilities_of(logits)[output])

    has_cuts = True

    def place_on_line(self, probabilities: np.ndarray) -> np.ndarray:
        """The expected grade."""
        return expected_grades(probabilities)

    def spread_of(self, probabilities: np.ndarray) -> np.ndarray:
        """The standard deviation of the expected grade."""
        return np.std([expected_grades(one) for one in probabilities], axis=0)

    def usual_cuts(self, n_classes: int) -> np.ndarray:
        """Halfway between two grades: rounding."""
        return np.arange(n_classes - 1) + 0.5

    def one_score(self, metric: Metric, targets: np.ndarray, predictions: np.ndarray) -> list[float]:
        if metric != MAE:
            return super().one_score(metric, targets, predictions)
        known = self.known(targets, predictions)
        return [float(np.abs(codes - chosen).mean()) if len(codes) else np.nan for codes, chosen, _ in known]

    def errors(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The squared distance of the expected grade from the true one, in grades, (rows, targets)."""
        return self._by_row(targets, predictions, lambda codes, part: (expected_grades(part) - codes) ** 2)

    def one_baseline(self, texts, codes, n_classes, new) -> dict[str, np.ndarray]:
        """The share of each grade; ridge on TF-IDF, rounded, as a probability of 1."""
        predictions = {"majority": baselines.predict_prior(codes, n_classes, len(new))}
        try:
            grades = baselines.predict_grades(texts, codes, new)
        except ValueError:  # no word occurs twice
            return predictions
        return predictions | {"TF-IDF, ridge": np.eye(n_classes)[grades]}


def expected_grades(probabilities):
    """The mean class number, (rows,), by the probabilities, (rows, classes), an array or a tensor."""
    return sum(number * share for number, share in enumerate(probabilities.T))
