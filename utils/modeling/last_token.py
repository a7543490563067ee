"""The pooling that suits encoders which read from left to right."""

import torch

from .pooling import TokenPooling, last_token


class LastToken(TokenPooling):
    """The last token of the last layer: the only one that has seen the whole text in a causal model."""

    name = "last"

    def position(self, mask: torch.Tensor) -> torch.Tensor:
        return last_token(mask)
