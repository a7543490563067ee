"""The pooling of tasks that answer per token: it pools layers, and keeps the tokens apart."""

import torch

from .pooling import LayerPooling, States


class TokenStates(LayerPooling):
    """A learnt softmax-weighted sum over the layers of each token's state, (batch, tokens, width)."""

    name = "tokens"
    per_token = True

    def forward(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        pooled = torch.zeros_like(states[-1])
        for weight, state in zip(self.layer_weights.softmax(dim=0).to(pooled.dtype), states, strict=True):
            pooled = pooled + weight * self.dropout(state)  # a stack of all layers would be a copy of them
        return pooled

    def token_shares(self, mask: torch.Tensor) -> torch.Tensor:
        """In the mean over the tokens, since ``weights`` speaks of one vector per text."""
        return mask / mask.sum(dim=1, keepdim=True)


def text_vectors(pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One vector per text, (batch, width), of what a pooling gives: where it is per token, their mean."""
    if pooled.dim() == 2:
        return pooled
    shares = (mask / mask.sum(dim=1, keepdim=True)).to(pooled.dtype)
    return (shares.unsqueeze(1) @ pooled).squeeze(1)
