"""A pooling's own loss beside the task's."""

import torch

from .losses import Loss


class AuxiliaryLoss(Loss):
    """(1 - share) times a loss, and ``share`` times the mean of a pooling's own over all its terms.

    Both means are of the whole batch, however it is split.

    Args:
        share: of the pooling's own loss, from 0 to less than 1.
    """

    def __init__(self, loss: Loss, share: float):
        super().__init__()
        self.loss, self.share = loss, share
        self.n_statistics = loss.n_statistics + 1

    def statistics(  # type: ignore[override]
        self, outputs: torch.Tensor, targets: torch.Tensor, auxiliary: torch.Tensor
    ) -> torch.Tensor:
        """``auxiliary``: the pooling's own loss of each text, a sum over its terms, (batch,)."""
        own = auxiliary.sum().unsqueeze(0)
        return torch.cat([(1 - self.share) * self.loss.statistics(outputs, targets), self.share * own])

    def counts(  # type: ignore[override]
        self, targets: torch.Tensor, terms: torch.Tensor
    ) -> torch.Tensor:
        """``terms``: how many terms the pooling's own loss has in the batch, a scalar."""
        return torch.cat([self.loss.counts(targets), terms.float().unsqueeze(0)])

    def reduce(self, means: torch.Tensor) -> torch.Tensor:
        rest = 1 - self.share
        return rest * self.loss.reduce(means[:-1] / rest) + means[-1]

    @property
    def is_additive(self) -> bool:
        return self.loss.is_additive
