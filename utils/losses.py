"""Training losses by name, in a form that adds up over micro-batches."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Loss(NamedTuple):
    """A loss ``outer(mean of elementwise)``.

    A mean adds up over micro-batches, a root does not. So each micro-batch contributes its share of the mean, and the
    chain rule's outer factor, which needs the whole mean, multiplies the gradients once, before the step. The
    accumulated gradient is then exactly that of the whole batch.
    """

    elementwise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (batch, targets) twice -> (batch, targets)
    outer: Callable[[torch.Tensor], torch.Tensor] = lambda mean: mean
    slope: Callable[[torch.Tensor], torch.Tensor] | None = None  # derivative of outer; None: 1


def _squared(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(scores, labels, reduction="none")


def _smooth_l1(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(scores, labels, reduction="none")


#: "rmse" is the published notebook's: the root over all errors of a batch; "smooth_l1" is Huber's with a bend at 1.
LOSSES = {
    "mse": Loss(_squared),
    "rmse": Loss(_squared, outer=torch.sqrt, slope=lambda mean: 0.5 / mean.clamp_min(1e-12).sqrt()),
    "smooth_l1": Loss(_smooth_l1),
}
