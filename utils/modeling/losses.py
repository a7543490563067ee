"""Training losses, in a form that adds up over any split of a batch."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

#: Every loss by its name.
LOSSES: dict[str, type["Loss"]] = {}


class Loss(nn.Module):
    """A loss as ``reduce(sum of statistics / sum of counts)``.

    Sums add up over micro-batches, over the parts that a batch is cut into when memory runs out, and over
    processes; a root or a ratio of them does not. So each part of a batch contributes its share of the means,
    and ``reduce`` sees the means of the whole batch. The gradient is then exactly that of the whole batch,
    however it was split.

    A subclass with a ``name`` is registered under it.
    """

    name: ClassVar[str] = ""
    #: The Config fields that set it; it is made with them as arguments.
    options: ClassVar[tuple[str, ...]] = ()
    n_statistics: int = 1  # more than one, and no mere sum of them, costs a second forward pass per step

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            LOSSES[cls.name] = cls

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Differentiable sums over the examples given, (n_statistics,)."""
        raise NotImplementedError

    def counts(self, targets: torch.Tensor) -> torch.Tensor:
        """What the sums are divided by, (n_statistics,).

        The targets alone decide it; by default, how many they are.
        """
        return torch.full((self.n_statistics,), float(targets.numel()))

    def reduce(self, means: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar, from the means of the whole batch, (n_statistics,); by default their sum."""
        return means.sum()

    @property
    def is_additive(self) -> bool:
        """Whether the loss is itself a sum, so that its gradient needs no outer factor."""
        return type(self).reduce is Loss.reduce

    def slopes(self, means: torch.Tensor) -> torch.Tensor:
        """The derivatives of ``reduce`` at ``means``, (n_statistics,)."""
        with torch.enable_grad():
            means = means.detach().requires_grad_()
            return torch.autograd.grad(self.reduce(means), means)[0]

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of one whole batch."""
        return self.reduce(self.statistics(outputs, targets) / self.counts(targets).to(outputs.device))


class RegressionLoss(Loss):
    """The mean of ``elementwise`` over all targets of all texts.

    Of several targets some may be missing (NaN): they count nowhere, and ``elementwise`` never sees them.

    Args:
        scale: of each target, (targets,). Errors are counted in units of it, so that one learning rate suits
            targets from 0 to 100 as well as from -3 to 2.
    """

    scale: torch.Tensor

    def __init__(self, scale: Sequence[float]):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def elementwise(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each element, (batch, targets), of two tensors of that shape."""
        raise NotImplementedError

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        missing = _missing(targets)
        outputs, targets = outputs.masked_fill(missing, 0.0), targets.masked_fill(missing, 0.0)
        errors = self.elementwise(outputs / self.scale, targets / self.scale)
        return errors.masked_fill(missing, 0.0).sum().unsqueeze(0)

    def counts(self, targets: torch.Tensor) -> torch.Tensor:
        return super().counts(targets[~_missing(targets)])


def _missing(targets: torch.Tensor) -> torch.Tensor:
    """Which of several targets are missing. A single one never is: its NaN must show in the loss."""
    return targets.isnan() if targets.shape[1] > 1 else torch.zeros_like(targets, dtype=torch.bool)


class MSELoss(RegressionLoss):
    name = "mse"

    def elementwise(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(outputs, targets, reduction="none")


class RMSELoss(MSELoss):
    """The published notebook's loss: the root over all errors of a batch."""

    name = "rmse"

    def reduce(self, means: torch.Tensor) -> torch.Tensor:
        return means.sum().clamp_min(1e-12).sqrt()  # whose slope at 0 would be infinite


class SmoothL1Loss(RegressionLoss):
    """Huber's loss with its bend at an error of 1."""

    name = "smooth_l1"

    def elementwise(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(outputs, targets, reduction="none")
