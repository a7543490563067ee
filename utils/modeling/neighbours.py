"""Local sentiment aggregation (LSA; Yang and Li 2021, arXiv:2110.08604): neighbouring aspects count, too."""

import torch
from torch import nn
from transformers import initialization

from .local_context import LocalContext, SelfAttention, weigh_context


class NeighbouringAspects(LocalContext):
    """States weighed as in ``lcf_cdw`` by the aspect, and by the aspects before and after it in its sentence.

    Each of the three goes through attention of its own; the neighbours' are multiplied by learnt weights, one
    a side, which start at 1. The published model's two linear layers, one over the three and one over the
    outcome and the pair's states, are one here, since nothing lies between them.
    """

    name = "lsa"
    extras = ("distance", "left_distance", "right_distance")
    weighings = ("weigh", "weigh", "weigh")

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0, local_window: int = 3):
        super().__init__(width, n_layers, dropout, local_window)
        self.left_attention, self.right_attention = SelfAttention(width), SelfAttention(width)
        self.neighbour_weights = nn.Parameter(torch.empty(2))  # eta

    def initialize(self) -> None:
        initialization.ones_(self.neighbour_weights)

    def views(self, distances: dict[str, torch.Tensor]) -> list[tuple[SelfAttention, torch.Tensor]]:
        attentions = (self.local_attention, self.left_attention, self.right_attention)
        weights = [weigh_context(distances[name], self.local_window) for name in self.extras]
        return list(zip(attentions, weights, strict=True))

    def _local_states(self, state: torch.Tensor, distances: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        own, left, right = super()._local_states(state, distances)
        return [own, self.neighbour_weights[0] * left, self.neighbour_weights[1] * right]
