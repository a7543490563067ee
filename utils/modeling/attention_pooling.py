"""The pooling that learns which tokens count."""

import torch
from torch import nn

from .pooling import Pooling, States


class AttentionPooling(Pooling):
    """A learnt attention over the last layer's tokens."""

    name = "attention"

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0):
        super().__init__(width, n_layers, dropout)
        self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def shares(self, state: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, 1), in float32."""
        scores = self.attention(state).masked_fill(~mask.bool().unsqueeze(-1), -1e4)
        return scores.float().softmax(dim=1)

    def forward(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        last = states[-1]
        return self.dropout((self.shares(last, mask).to(last.dtype) * last).sum(dim=1))

    def weights(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        return self._in_last_layer(self.shares(states[-1], mask).squeeze(-1))
