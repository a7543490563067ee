"""The loss of answer spans."""

import torch
import torch.nn.functional as F

from .losses import Loss


class SpanLoss(Loss):
    """The mean of the cross-entropies of a span's start and end, each one of a text's tokens.

    Outputs are (batch, tokens, 2), minus infinity at tokens that can be neither; targets are the positions of
    start and end, (batch, 2). It is divided by the number of positions.
    """

    name = "span"

    def statistics(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, targets.long(), reduction="sum").unsqueeze(0)
