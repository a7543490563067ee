"""Local context prediction, the auxiliary loss of LCA (Yang and Zeng 2020, arXiv:2010.00767)."""

import torch
import torch.nn.functional as F
from torch import nn

from .local_context import LocalContext, mask_context
from .pooling import States


class LocalContextPrediction(LocalContext):
    """``lcf_cdm``, whose joined states must also tell which tokens of the sentence are in the window.

    The published model's embedding of the same answer is left out: it would give the answer away.
    """

    name = "lca"
    weighings = ("mask",)
    auxiliary = "local_loss_share"

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0, local_window: int = 3):
        super().__init__(width, n_layers, dropout, local_window)
        self.classifier = nn.Linear(width, 1)

    def forward(  # type: ignore[override]
        self, states: States, mask: torch.Tensor, *, distance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors, (batch, width), and each text's cross-entropy, summed over its tokens, (batch,)."""
        joined = self._join(states[-1], {"distance": distance})
        logits, inside = self.classifier(joined).squeeze(-1), mask_context(distance, self.local_window)
        losses = F.binary_cross_entropy_with_logits(logits.float(), inside, reduction="none")
        return self._attend(self.dropout(joined), mask), (losses * (distance > 0)).sum(dim=1)

    @staticmethod
    def auxiliary_terms(extras: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tokens of the sentences."""
        return (extras["distance"] > 0).sum()
