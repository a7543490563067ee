"""The pooling that suits encoders which read from left to right."""

import torch

from .pooling import TokenPooling


class LastToken(TokenPooling):
    """The last token of the last layer."""

    name = "last"

    def position(self, mask: torch.Tensor) -> torch.Tensor:
        """The last token's, which is the only one that has seen the whole text in a causal model."""
        return mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
