"""What encoders of every architecture have in common: a stack of layers, dropout rates, a longest text."""

import re

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def encoder_layers(encoder: PreTrainedModel) -> list[list[str]]:
    """The names of the modules that make up each layer, the lowest layer first.

    Most architectures keep a layer in one module; XLM keeps it in four lists, Funnel its layers in blocks.

    Raises ValueError for an encoder whose layers cannot be told apart.
    """
    depth = encoder.config.num_hidden_layers
    stacks: list[list[str]] = []
    for name, module in encoder.named_modules():
        inside = any(name.startswith(f"{part}.") for stack in stacks for part in stack)
        if isinstance(module, nn.ModuleList) and not inside:
            parts = _flatten(name, module)
            stacks += [parts] if len(parts) == depth else []
    if not stacks:
        raise ValueError(
            f"the layers of a {encoder.config.model_type} encoder cannot be told apart (they may share "
            'weights); use param_groups="none" and reinit_layers=0 with it.'
        )
    return [list(parts) for parts in zip(*stacks, strict=True)]


def _flatten(name: str, modules: nn.ModuleList) -> list[str]:
    """The names of a list's modules; of a list of lists, those of the inner ones."""
    parts = []
    for number, module in enumerate(modules):
        part = f"{name}.{number}"
        parts += _flatten(part, module) if isinstance(module, nn.ModuleList) else [part]
    return parts


def parameter_layers(encoder: PreTrainedModel) -> dict[str, int]:
    """The layer of each parameter by its name: -1 for embeddings, the number of layers for what is on top.

    Outside the layers, embeddings and all that is declared before the lowest layer lie below, a norm or a
    projection declared after the highest lies on top.

    Raises ValueError naming a parameter that is none of these.
    """
    layers = encoder_layers(encoder)
    layer_of = {part: number for number, parts in enumerate(layers) for part in parts}
    places: dict[str, int] = {}
    begun = False
    for name, _ in encoder.named_parameters():
        parents = _parents(name)
        layer = next((layer_of[parent] for parent in parents if parent in layer_of), None)
        begun = begun or layer is not None
        places[name] = _place_outside(encoder, name, len(layers), begun) if layer is None else layer
    return places


def _place_outside(encoder: PreTrainedModel, name: str, depth: int, begun: bool) -> int:
    """The place of a parameter outside the layers. ``begun``: whether it is declared after the lowest one."""
    modules = [encoder.get_submodule(parent) for parent in _parents(name)]
    if "emb" in name or any(isinstance(module, nn.Embedding) for module in modules):
        return -1
    if name.startswith("encoder.conv."):
        return 0  # of DeBERTa-v2-xlarge, beside its lowest layer
    if not any(isinstance(module, nn.ModuleList) for module in modules):  # another stack than the layers'
        if not begun:
            return -1
        if modules and (isinstance(modules[-1], nn.Linear) or _is_norm(modules[-1])):
            return depth
    raise ValueError(
        f"{name!r} of a {encoder.config.model_type} encoder belongs to none of its layers; use "
        'param_groups="none" with it.'
    )


def _parents(name: str) -> list[str]:
    """The names of the modules around a parameter, the outermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def reinitialize(encoder: PreTrainedModel, n_layers: int) -> None:
    """Give the top ``n_layers`` of the encoder fresh random weights (Zhang et al. 2021, arXiv:2006.05987)."""
    layers = encoder_layers(encoder)
    if n_layers > len(layers):
        raise ValueError(f"reinit_layers={n_layers} is more than the encoder's {len(layers)} layers.")
    for part in (part for parts in layers[-n_layers:] for part in parts):
        for module in encoder.get_submodule(part).modules():
            encoder._init_weights(module)


def set_dropout(config: PreTrainedConfig, rate: float) -> None:
    """Set every dropout rate of an encoder's config, whatever the architecture calls them."""
    for name, value in config.to_dict().items():
        if "drop" in name and "classifier" not in name and isinstance(value, float):
            setattr(config, name, rate)


_POSITION_TABLE = re.compile(r"(^|[._])(wpe|pos\w*_emb\w*|embed_pos\w*)$")


def longest_text(encoder: PreTrainedModel) -> int | None:
    """How many tokens an encoder has positions for; None where positions are relative or computed."""
    tables = [
        module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Embedding) and _POSITION_TABLE.search(name)
    ]
    if not tables:
        return None
    # RoBERTa and its kin count positions from behind the padding's number.
    sizes = [
        table.num_embeddings - (-1 if table.padding_idx is None else table.padding_idx) - 1
        for table in tables
    ]
    named = getattr(encoder.config, "max_position_embeddings", None)
    return min([*sizes, *([named] if named else [])])
