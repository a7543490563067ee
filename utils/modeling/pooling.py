"""Poolings: one vector per text from the states of every layer and token."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig, initialization

#: Every pooling by its name.
POOLINGS: dict[str, type["Pooling"]] = {}

States = tuple[torch.Tensor, ...]  # of every layer, the embeddings' output first, each (batch, tokens, width)


class Pooling(nn.Module):
    """``forward(states, mask)`` gives (batch, width). A subclass with a ``name`` is registered under it.

    Args:
        width: of the states.
        n_layers: how many states there are: the encoder's layers and the embeddings' output.
        dropout: rate on each pooled state.
    """

    name: ClassVar[str] = ""
    extras: ClassVar[tuple[str, ...]] = ()  # token-aligned, further arguments of ``forward`` and ``weights``
    options: ClassVar[tuple[str, ...]] = ()  # the Config fields that it takes as arguments
    second_pass: ClassVar[str] = ""  # the extra that masks a second reading, whose last states take its place
    is_linear: ClassVar[bool] = True  # whether the vector is a sum of states, by the shares of ``weights``
    auxiliary: ClassVar[str] = ""  # the Config field with its share of the loss, if it has one of its own
    per_token: ClassVar[bool] = False  # whether ``forward`` gives (batch, tokens, width), each token its own

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            POOLINGS[cls.name] = cls

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0):
        super().__init__()
        self.width, self.n_layers = width, n_layers
        self.head_changes: dict = {}  # fields of the HeadConfig that it sets itself
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def build(cls, config: PreTrainedConfig) -> "Pooling":
        """The pooling of a model with this config."""
        width, n_layers = config.encoder.hidden_size, config.encoder.num_hidden_layers + 1
        return cls(width, n_layers, config.layer_dropout, **config.pooling_options)

    def initialize(self) -> None:
        """Set the parameters that are not those of a linear layer or a norm."""

    def forward(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        """One vector per text, (batch, width). ``mask``: (batch, tokens), 1 for a token and 0 for padding."""
        raise NotImplementedError

    def weights(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        """The share of each layer and token in the vector, (batch, layers, tokens), summing to 1 per text."""
        raise NotImplementedError

    @staticmethod
    def auxiliary_terms(extras: dict[str, torch.Tensor]) -> torch.Tensor:
        """How many terms the auxiliary loss has, a scalar; ``forward`` gives their sums, (batch,)."""
        raise NotImplementedError

    def _in_last_layer(self, shares: torch.Tensor) -> torch.Tensor:
        """Shares of the last layer's tokens, (batch, tokens), as ``weights`` gives them."""
        weights = shares.new_zeros(len(shares), self.n_layers, shares.shape[1])
        weights[:, -1] = shares
        return weights


class TokenPooling(Pooling):
    """One token of the last layer: the one at ``position``."""

    def position(self, mask: torch.Tensor) -> torch.Tensor:
        """Where the token lies in each text, (batch,)."""
        raise NotImplementedError

    def forward(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        return self.dropout(at(states[-1], self.position(mask)))

    def weights(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        return self._in_last_layer(one_hot(self.position(mask), mask))


class FirstToken(TokenPooling):
    """The first token ([CLS] or <s>) of the last layer."""

    name = "cls"

    def position(self, mask: torch.Tensor) -> torch.Tensor:
        return first_token(mask)


class LayerPooling(Pooling):
    """A learnt softmax-weighted sum over the layers of what ``pool_tokens`` makes of each."""

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0):
        super().__init__(width, n_layers, dropout)
        self.layer_weights = nn.Parameter(torch.empty(n_layers))

    def initialize(self) -> None:
        """The weights start at -3 and the last layer's at 0, as published."""
        start = torch.full_like(self.layer_weights, -3.0, device="cpu")
        start[-1] = 0.0
        initialization.copy_(self.layer_weights, start)

    def pool_tokens(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        """One vector per layer and text, (layers, batch, width)."""
        raise NotImplementedError

    def token_shares(self, mask: torch.Tensor) -> torch.Tensor:
        """The share of each token in a layer's vector, (batch, tokens)."""
        raise NotImplementedError

    def forward(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        layers = self.pool_tokens(states, mask)
        weights = self.layer_weights.softmax(dim=0).to(layers.dtype).view(-1, 1, 1)
        return (weights * self.dropout(layers)).sum(dim=0)

    def weights(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        return self.layer_weights.float().softmax(dim=0).view(-1, 1) * self.token_shares(mask).unsqueeze(1)


class FirstTokenLayers(LayerPooling):
    """The first token's state in every layer."""

    name = "cls_layers"

    def pool_tokens(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        position = first_token(mask)
        return torch.stack([at(state, position) for state in states])

    def token_shares(self, mask: torch.Tensor) -> torch.Tensor:
        return one_hot(first_token(mask), mask)


class MeanLayers(LayerPooling):
    """The masked mean of all tokens in every layer."""

    name = "mean_layers"

    def pool_tokens(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        shares = self.token_shares(mask).to(states[-1].dtype).unsqueeze(1)  # (batch, 1, tokens)
        return torch.stack([(shares @ state).squeeze(1) for state in states])

    def token_shares(self, mask: torch.Tensor) -> torch.Tensor:
        return mask / mask.sum(dim=1, keepdim=True)


def first_token(mask: torch.Tensor) -> torch.Tensor:
    """The position of each text's first token, (batch,); not 0 where padding is on the left."""
    return mask.argmax(dim=1)


def at(state: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Each text's state, (batch, width), at its ``position``, (batch,)."""
    return state[torch.arange(len(state), device=state.device), position]


def one_hot(position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """All of a text's share on the token at its ``position``, (batch, tokens)."""
    return F.one_hot(position, mask.shape[1]).float()
