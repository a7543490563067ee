"""Local context focus (Zeng et al. 2019, doi 10.3390/app9163389): an aspect's neighbours weighed in.

The one-pass form, FAST-LCF: the weights are on the states of the pair, which the encoder reads once.
"""

from typing import ClassVar

import torch
from torch import nn

from .pooling import Pooling, States, at, first_token


class SelfAttention(nn.Module):
    """Multi-head attention, in heads of 64 where the width allows."""

    def __init__(self, width: int):
        super().__init__()
        self.n_heads = next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def shares(self, queries: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """How much each query attends to each token, (batch, heads, queries, tokens), in float32.

        Args:
            queries: (batch, queries, width); states: (batch, tokens, width).
            mask: which tokens are attended to, (batch, tokens).
        """
        query, key = self._heads(self.query(queries)), self._heads(self.key(states))
        scores = (query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5
        return scores.masked_fill(~mask.bool()[:, None, None], torch.finfo(scores.dtype).min).softmax(dim=-1)

    def forward(self, queries: torch.Tensor, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(batch, queries, width)."""
        value = self._heads(self.value(states))
        mixed = self.shares(queries, states, mask).to(value.dtype) @ value
        return mixed.transpose(1, 2).flatten(2)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) as (batch, heads, tokens, width of a head)."""
        return states.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class LocalContext(Pooling):
    """The pair's states beside those near the aspect, joined by self-attention.

    Args:
        local_window: how many tokens on either side of the aspect are near.
    """

    extras: ClassVar[tuple[str, ...]] = ("distance",)
    options = ("local_window",)
    is_linear = False
    #: The weighings whose results are joined; each a name in ``WEIGHINGS``.
    weighings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0, local_window: int = 3):
        super().__init__(width, n_layers, dropout)
        self.local_window = local_window
        self.local_attention, self.joint_attention = SelfAttention(width), SelfAttention(width)
        self.linear = nn.Linear((1 + len(self.weighings)) * width, width)

    def forward(self, states: States, mask: torch.Tensor, **distances: torch.Tensor) -> torch.Tensor:
        """(batch, width).

        Args:
            distances: the ``extras``, each (batch, tokens), 1 inside the aspect, 0 outside the sentence.
        """
        return self._attend(self.dropout(self._join(states[-1], distances)), mask)

    def views(self, distances: dict[str, torch.Tensor]) -> list[tuple[SelfAttention, torch.Tensor]]:
        """Of each kind of local states, what they go through, and the tokens' weights, (batch, tokens)."""
        weigh = [WEIGHINGS[name] for name in self.weighings]
        return [(self.local_attention, one(distances["distance"], self.local_window)) for one in weigh]

    def _attend(self, joined: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = at(joined, first_token(mask)).unsqueeze(1)
        return self.joint_attention(first, joined, mask).squeeze(1)

    def _join(self, state: torch.Tensor, distances: dict[str, torch.Tensor]) -> torch.Tensor:
        """Global and local states of each token as one, (batch, tokens, width)."""
        return self.linear(torch.cat([state, *self._local_states(state, distances)], dim=-1))

    def _local_states(self, state: torch.Tensor, distances: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        in_sentence, parts = distances["distance"] > 0, []
        for attention, weight in self.views(distances):
            local = state * weight.to(state.dtype).unsqueeze(-1)
            parts.append(attention(local, local, in_sentence).tanh())
        return parts

    def weights(self, states: States, mask: torch.Tensor, **distances: torch.Tensor) -> torch.Tensor:
        """How attention shares the tokens out: half through their own states, half through the local ones.

        The vector is no sum of states, and these are no shares of one.
        """
        state, in_sentence = states[-1], distances["distance"] > 0
        joined, views = self.dropout(self._join(state, distances)), self.views(distances)
        first = at(joined, first_token(mask)).unsqueeze(1)
        attended = self.joint_attention.shares(first, joined, mask).mean(dim=1)[:, 0]  # (batch, tokens)
        through = torch.zeros_like(attended)
        for attention, weight in views:
            local = state * weight.to(state.dtype).unsqueeze(-1)
            shares = attention.shares(local, local, in_sentence).mean(dim=1)
            through = through + (attended.unsqueeze(1) @ shares).squeeze(1) * weight / len(views)
        total = through.sum(dim=1, keepdim=True)
        through = torch.where(total > 0, through / total.clamp_min(1e-12), attended)
        return self._in_last_layer((attended + through) / 2)


def mask_context(distance: torch.Tensor, window: int) -> torch.Tensor:
    """CDM: 1 up to ``window`` tokens from the aspect, 0 elsewhere, (batch, tokens)."""
    return ((distance > 0) & (distance - 1 <= window)).float()


def weigh_context(distance: torch.Tensor, window: int) -> torch.Tensor:
    """CDW: 1 in the same window; d tokens beyond it, in a sentence of n, 1 - d / n, (batch, tokens)."""
    in_sentence = (distance > 0).float()
    beyond = (distance - 1 - window).clamp_min(0)
    return in_sentence * (1 - beyond / in_sentence.sum(dim=1, keepdim=True).clamp_min(1))


WEIGHINGS = {"mask": mask_context, "weigh": weigh_context}


class ContextMask(LocalContext):
    """Context dynamic mask (CDM): states outside the window are zero."""

    name = "lcf_cdm"
    weighings = ("mask",)


class ContextWeights(LocalContext):
    """Context dynamic weights (CDW): states outside the window count less, the farther the less."""

    name = "lcf_cdw"
    weighings = ("weigh",)


class ContextFusion(LocalContext):
    """CDM and CDW side by side."""

    name = "lcf_fusion"
    weighings = ("mask", "weigh")
