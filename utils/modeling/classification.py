"""Losses for classes, from one logit where there are two classes, and from a logit per class else.

Targets are class numbers, (batch, targets). Of several targets some may be missing (NaN): they count nowhere.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F

from .losses import Loss


class ClassLoss(Loss):
    """A loss that adds up over targets, each with classes of its own.

    Args:
        sizes: number of classes of each target, (targets,).
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.sizes = tuple(sizes)

    @staticmethod
    def n_outputs(n_classes: int) -> int:
        """How many outputs a target with so many classes has."""
        raise NotImplementedError

    @staticmethod
    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        """(..., classes): from one target's outputs, (..., outputs)."""
        raise NotImplementedError

    def starting_logits(self, codes: torch.Tensor, n_classes: int) -> torch.Tensor | None:
        """What a target's outputs are offset by, (outputs,), given its class numbers in the training rows."""
        return None

    def split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs of each target."""
        return outputs.split([self.n_outputs(size) for size in self.sizes], dim=-1)

    def known(self, outputs: torch.Tensor, targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """For each target its outputs, its class numbers (0 where missing), and where they are known."""
        for logits, codes in zip(self.split(outputs), targets.T, strict=True):
            missing = codes.isnan()
            yield logits, codes.masked_fill(missing, 0).long(), ~missing

    def elementwise(self, logits: torch.Tensor, codes: torch.Tensor, target: int) -> torch.Tensor:
        """The loss of each text, (batch,), by the target with that number."""
        raise NotImplementedError

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = [
            self.elementwise(logits, codes, target).masked_fill(~known, 0.0).sum()
            for target, (logits, codes, known) in enumerate(self.known(outputs, targets))
        ]
        return torch.stack(losses).sum().unsqueeze(0)

    def counts(self, targets: torch.Tensor) -> torch.Tensor:
        return super().counts(targets[~targets.isnan()])


class SoftmaxLoss(ClassLoss):
    """A loss on the probabilities of a softmax; with two classes, of a sigmoid."""

    @staticmethod
    def n_outputs(n_classes: int) -> int:
        return 1 if n_classes == 2 else n_classes

    @staticmethod
    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return log_probabilities(logits).exp()


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(..., classes): of a softmax over (..., classes) logits, or of a sigmoid of (..., 1)."""
    return _logit_per_class(logits).log_softmax(dim=-1)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """log p / (1 - p) of each class, (..., classes), exact however sure the model is."""
    logits = _logit_per_class(logits)
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others = logits.unsqueeze(-2).masked_fill(itself, -torch.inf)
    return logits - others.logsumexp(dim=-1)


def _logit_per_class(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(logits), logits], dim=-1) if logits.shape[-1] == 1 else logits


class WeightedLoss(SoftmaxLoss):
    """A loss with a weight for each class: the weighted sum over texts, divided by the sum of the weights.

    Args:
        class_weights: of each target's classes, one target after the other; None: all are 1.
    """

    options: ClassVar[tuple[str, ...]] = ("class_weights",)
    weights: torch.Tensor

    def __init__(self, sizes: Sequence[int], class_weights: Sequence[float] | None = None):
        super().__init__(sizes)
        weights = torch.ones(sum(sizes)) if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("weights", weights)
        self._weights_of_counts = weights.clone().split(sizes)  # counts are taken on the CPU

    def weights_of(self, target: int) -> torch.Tensor:
        """(classes,)."""
        return self.weights.split(self.sizes)[target]

    def counts(self, targets: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(1)
        for weights, codes in zip(self._weights_of_counts, targets.T, strict=True):
            total += weights[codes[~codes.isnan()].long()].sum()
        return total


class CrossEntropyLoss(WeightedLoss):
    """Cross-entropy, with label smoothing in one of two conventions.

    "uniform" (torch's) spreads ``label_smoothing`` over all classes, the true one included; "others" over the
    other ones. Both are for training alone: no score is smoothed.
    """

    name = "cross_entropy"
    options = ("class_weights", "label_smoothing", "smoothing")

    def __init__(self, sizes, class_weights=None, label_smoothing: float = 0.0, smoothing: str = "uniform"):
        super().__init__(sizes, class_weights)
        self.label_smoothing, self.smoothing = label_smoothing, smoothing

    def elementwise(self, logits: torch.Tensor, codes: torch.Tensor, target: int) -> torch.Tensor:
        n_classes, epsilon = self.sizes[target], self.label_smoothing
        if self.smoothing == "others":
            epsilon *= n_classes / (n_classes - 1)  # spread over all, this leaves as much on each other class
        log, weights = log_probabilities(logits), self.weights_of(target)
        hard = F.nll_loss(log, codes, weights, reduction="none")
        return (1 - epsilon) * hard - epsilon / n_classes * (log * weights).sum(dim=-1)


class FocalLoss(WeightedLoss):
    """Cross-entropy times (1 - p)^gamma, p being the true class's probability (arXiv:1708.02002).

    With weights it is divided by their sum, as cross-entropy is, to which gamma = 0 leads.
    """

    name = "focal"
    options = ("class_weights", "focal_gamma")

    def __init__(self, sizes, class_weights=None, focal_gamma: float = 2.0):
        super().__init__(sizes, class_weights)
        self.gamma = focal_gamma

    def elementwise(self, logits: torch.Tensor, codes: torch.Tensor, target: int) -> torch.Tensor:
        log = log_probabilities(logits).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
        doubt = (-torch.expm1(log)).clamp_min(1e-7)  # whose power would have an infinite slope at 0
        return -self.weights_of(target)[codes] * doubt**self.gamma * log


class SoftF1Loss(SoftmaxLoss):
    """1 - the mean over classes of 2 TP / (2 TP + FP + FN), counted in probabilities over the whole batch.

    Of two classes the second alone counts, as in the usual F1. A class that the batch lacks counts nowhere:
    its F1 would be 0 whatever is predicted.
    """

    name = "soft_f1"

    def __init__(self, sizes: Sequence[int]):
        super().__init__(sizes)
        self.n_statistics = 3 * sum(self.n_outputs(size) for size in sizes)

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sums of each class's true positives, predicted and true members."""
        parts = []
        for size, (logits, codes, known) in zip(self.sizes, self.known(outputs, targets), strict=True):
            first = size - self.n_outputs(size)
            predicted = self.probabilities(logits)[:, first:] * known.unsqueeze(-1)
            true = F.one_hot(codes, size)[:, first:] * known.unsqueeze(-1)
            parts.append(torch.stack([predicted * true, predicted, true.to(predicted)]).sum(dim=1))
        return torch.cat(parts, dim=1).flatten()

    def counts(self, targets: torch.Tensor) -> torch.Tensor:
        return torch.full((self.n_statistics,), float(len(targets)))

    def reduce(self, means: torch.Tensor) -> torch.Tensor:
        both, predicted, true = means.view(3, -1)
        present = true > 0
        scores = (2 * both / (predicted + true).clamp_min(1e-12)).masked_fill(~present, 0.0)
        return 1 - scores.sum() / present.sum().clamp_min(1)


class BCELoss(SoftmaxLoss):
    """Binary cross-entropy of targets with two classes, the second weighted by ``pos_weight``, (targets,).

    It is divided by the number of targets, whatever the weights, as in torch.
    """

    name = "bce"
    options = ("pos_weight", "label_smoothing")
    weights: torch.Tensor

    def __init__(
        self, sizes: Sequence[int], pos_weight: Sequence[float] | None = None, label_smoothing: float = 0.0
    ):
        super().__init__(sizes)
        if set(sizes) != {2}:
            raise ValueError('loss="bce" is for two classes per target; set loss="cross_entropy".')
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", torch.tensor(pos_weight or [1.0] * len(sizes)))

    def elementwise(self, logits: torch.Tensor, codes: torch.Tensor, target: int) -> torch.Tensor:
        truth = codes * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            logits[:, 0], truth, pos_weight=self.weights[target], reduction="none"
        )
