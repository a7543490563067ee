"""The head: from a pooled vector to outputs, averaged over several dropout masks."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization


@dataclass(frozen=True)
class HeadConfig:
    """What a head is made of; saved with the model.

    Args:
        outputs: names of the outputs, one number each.
        location, scale: of the targets, one per output. The linear layer's result is multiplied with the
            scale and added to the location, so that the outputs are in the targets' own units. None: it is
            left as it is.
        dropout, n_dropouts: rate and number of samples of multi-sample dropout.
        labels: of each target its classes, in order; empty where targets are numbers.
        shared: how many outputs each target has, if they share one direction and differ by a bias alone;
            empty: each output has its own direction.
        norm, bias: whether it has a layer norm, and the linear layer biases.
    """

    outputs: tuple[str, ...]
    location: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    dropout: float = 0.5
    n_dropouts: int = 5
    labels: tuple[tuple[str, ...], ...] = ()
    shared: tuple[int, ...] = ()
    norm: bool = True
    bias: bool = True


class Head(nn.Module):
    """A norm, dropout and a linear layer: (..., width) to (..., outputs), per text or per token."""

    location: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, config: HeadConfig):
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(width, eps=1e-5) if config.norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        bias = config.bias and not config.shared
        self.linear = nn.Linear(width, len(config.shared or config.outputs), bias=bias)
        if config.shared:
            self.biases = nn.Parameter(torch.empty(len(config.outputs)))
        if config.scale is not None:
            self.register_buffer("location", torch.empty(len(config.outputs)))
            self.register_buffer("scale", torch.empty(len(config.outputs)))

    def initialize(self) -> None:
        """Set the location and scale, and shared directions' biases."""
        if self.config.shared:
            initialization.zeros_(self.biases)
        if self.config.scale is not None:
            initialization.copy_(self.location, torch.tensor(self.config.location))
            initialization.copy_(self.scale, torch.tensor(self.config.scale))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        outputs = self.multi_sample_dropout(self.norm(pooled)).float()
        return outputs if self.config.scale is None else outputs * self.scale + self.location

    def multi_sample_dropout(self, normed: torch.Tensor) -> torch.Tensor:
        """The mean of the linear layer's output over several dropout masks (Inoue 2019, arXiv:1905.09788)."""
        if not self.training or self.config.dropout == 0:
            return self.project(normed)
        samples = [self.project(self.dropout(normed)) for _ in range(self.config.n_dropouts)]
        return torch.stack(samples).mean(dim=0)

    def project(self, normed: torch.Tensor) -> torch.Tensor:
        """The linear layer, (..., outputs)."""
        if not self.config.shared:
            return self.linear(normed)
        directions = self.linear(normed).split(1, dim=-1)
        outputs = [
            one.expand(*one.shape[:-1], n) for one, n in zip(directions, self.config.shared, strict=True)
        ]
        return torch.cat(outputs, dim=-1) + self.biases
