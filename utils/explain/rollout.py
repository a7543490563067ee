"""Where attention flows: from what the head reads, through every layer, to the tokens."""

import torch

from utils.modeling.model import TextModelOutput


def attention_weights(output: TextModelOutput, mask: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
    """Each layer's attention, (batch, heads, tokens, tokens); None where an encoder has none of this form."""
    weights = output.attentions or ()
    shape = (len(mask), mask.shape[1], mask.shape[1])
    fits = [layer is not None and (layer.shape[:1] + layer.shape[2:]) == shape for layer in weights]
    return weights if fits and all(fits) else None


def attention_rollout(
    attentions: tuple[torch.Tensor, ...], weights: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928), from what the head reads to the tokens.

    Each layer's attention, averaged over its heads, is mixed half and half with the identity (the residual
    connection), and the layers are multiplied. The flow starts where the model pools.

    Args:
        attentions: of every layer, (batch, heads, tokens, tokens).
        weights: the pooling's, (batch, layers + 1, tokens).
        mask: (batch, tokens).

    Returns:
        (batch, tokens), summing to 1 per text.
    """
    flow = torch.zeros_like(weights[:, 0])
    for layer in range(len(attentions), 0, -1):
        flow = flow + weights[:, layer]
        attended = torch.einsum("bt,bts->bs", flow, attentions[layer - 1].mean(dim=1).float())
        flow = 0.5 * flow + 0.5 * attended
    flow = (flow + weights[:, 0]) * mask
    return flow / flow.sum(dim=1, keepdim=True)
