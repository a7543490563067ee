"""Other vectors in place of those that an encoder looks up for its tokens."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def lookup_replaced(table: nn.Module, tokens: torch.Tensor, vectors: torch.Tensor) -> Iterator[None]:
    """Let ``table``, an embedding layer, give ``vectors``, (batch, tokens, width), for ``tokens``.

    Passed as ``inputs_embeds``, they would make some encoders count positions differently.
    """
    length = tokens.shape[1]

    def look_up(_, arguments, output):
        ids = arguments[0]
        if ids[:, :length].equal(tokens):
            return torch.cat([vectors, output[:, length:]], dim=1)  # Longformer pads to its window
        if ids.transpose(0, 1).equal(tokens):  # XLNet
            return vectors.transpose(0, 1)
        return None  # GPT-2 looks up token types in the same table

    hook = table.register_forward_hook(look_up)
    try:
        yield
    finally:
        hook.remove()
