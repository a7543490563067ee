"""Losses for ordered classes: from a logit for each cut between two neighbours."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from .classification import ClassLoss


class CutsLoss(ClassLoss):
    """The mean of a binary cross-entropy over the cuts: does a text lie above this one?"""

    #: Whether all cuts of a target share one direction in the head, and differ by a bias alone.
    shares_direction: ClassVar[bool] = False

    @staticmethod
    def n_outputs(n_classes: int) -> int:
        return n_classes - 1

    def asked(self, codes: torch.Tensor, n_cuts: int) -> torch.Tensor:
        """Which cuts a text with that class is asked about, (batch, cuts)."""
        raise NotImplementedError

    def elementwise(self, logits: torch.Tensor, codes: torch.Tensor, target: int) -> torch.Tensor:
        above = _above(codes, logits.shape[-1]).to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
        return (losses * self.asked(codes, logits.shape[-1])).sum(dim=-1)

    def counts(self, targets: torch.Tensor) -> torch.Tensor:
        asked = [
            self.asked(codes[~codes.isnan()].long(), self.n_outputs(size)).sum()
            for size, codes in zip(self.sizes, targets.T, strict=True)
        ]
        return torch.stack(asked).sum().float().unsqueeze(0)

    def starting_logits(self, codes: torch.Tensor, n_classes: int) -> torch.Tensor:
        """The log-odds of each cut in the training rows, half a text added to each side."""
        asked, above = self.asked(codes, n_classes - 1), _above(codes, n_classes - 1)
        yes, no = (asked & above).sum(dim=0), (asked & ~above).sum(dim=0)
        return ((yes + 0.5) / (no + 0.5)).log()


def _above(codes: torch.Tensor, n_cuts: int) -> torch.Tensor:
    """Whether each class number lies above each cut, (batch, cuts)."""
    return codes.unsqueeze(-1) > torch.arange(n_cuts, device=codes.device)


class CORALLoss(CutsLoss):
    """Cumulative: P(above cut k) for every text and cut, along one direction (arXiv:1901.07884)."""

    name = "coral"
    shares_direction = True

    def asked(self, codes: torch.Tensor, n_cuts: int) -> torch.Tensor:
        return torch.ones(len(codes), n_cuts, dtype=torch.bool, device=codes.device)

    @staticmethod
    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return _differences(logits.sigmoid().cummin(dim=-1).values)  # in order even before training orders it


class CORNLoss(CutsLoss):
    """Conditional: P(above cut k | above cut k-1), learnt from the texts above cut k-1 (arXiv:2111.08851)."""

    name = "corn"

    def asked(self, codes: torch.Tensor, n_cuts: int) -> torch.Tensor:
        return codes.unsqueeze(-1) >= torch.arange(n_cuts, device=codes.device)

    @staticmethod
    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return _differences(logits.sigmoid().cumprod(dim=-1))


def _differences(above: torch.Tensor) -> torch.Tensor:
    """Each class's probability, (..., classes), from that of lying above each cut, (..., cuts)."""
    ends = torch.ones_like(above[..., :1])
    return torch.cat([ends, above], dim=-1) - torch.cat([above, 0 * ends], dim=-1)
