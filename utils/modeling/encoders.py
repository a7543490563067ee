"""What encoders of every architecture have in common: a stack of layers, dropout rates, a longest text."""

import re

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def encoder_layers(encoder: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The encoder's stack of layers and its name inside the encoder, whatever the architecture calls it.

    Raises ValueError for an encoder without one.
    """
    depth = encoder.config.num_hidden_layers
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise ValueError(
        f"the layers of a {encoder.config.model_type} encoder cannot be told apart (they may share weights); "
        'use param_groups="none" and reinit_layers=0 with it.'
    )


def reinitialize(encoder: PreTrainedModel, n_layers: int) -> None:
    """Give the top ``n_layers`` of the encoder fresh random weights (Zhang et al. 2021, arXiv:2006.05987)."""
    layers = encoder_layers(encoder)[1]
    if n_layers > len(layers):
        raise ValueError(f"reinit_layers={n_layers} is more than the encoder's {len(layers)} layers.")
    for module in (module for layer in layers[-n_layers:] for module in layer.modules()):
        encoder._init_weights(module)


def set_dropout(config: PreTrainedConfig, rate: float) -> None:
    """Set every dropout rate of an encoder's config, whatever the architecture calls them."""
    for name, value in config.to_dict().items():
        if "drop" in name and "classifier" not in name and isinstance(value, float):
            setattr(config, name, rate)


def longest_text(config: PreTrainedConfig) -> int | None:
    """How many tokens an encoder reads at most; None where its config names no limit."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest and re.search("roberta|camembert", config.model_type):
        longest -= config.pad_token_id + 1  # they count positions from there
    return longest if longest and longest > 0 else None
