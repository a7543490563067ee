"""Parameter groups with learning rates by layer (LLRD), and optimizers by name."""

from collections.abc import Callable
from typing import Any

import torch

from utils.config import Config, InputError
from utils.machine import runtime
from utils.modeling.encoders import parameter_layers
from utils.modeling.model import TextModel
from utils.training.madgrad import MADGRAD

MOMENTUM = 0.9  # of sgd, in its usual sense, and of madgrad, in its own
TORCH = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def parameter_groups(model: TextModel, config: Config) -> list[dict]:
    """The model's trainable parameters in groups, each with a "name", its peak "lr" and its "weight_decay".

    "grouped": the lower, middle and upper third of the layers at lr / factor, lr, lr * factor, embeddings at
    lr. "layerwise": each layer at ``layer_decay`` times the rate of the layer above, embeddings below the
    lowest (Howard and Ruder 2018, arXiv:1801.06146). "none": one rate. In the first two, everything outside
    the encoder learns at lr * ``head_lr_factor``. Biases, norms and the head have no weight decay.

    Raises ValueError for an encoder whose layers cannot be told apart, or for a parameter outside them all.
    """
    rates, part_of = _rates(model, config)
    order = list(rates)
    norms = {name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part, decays = part_of(name), _has_weight_decay(name, norms)
            key = order.index(part), not decays
            groups.setdefault(key, _group(part, decays, rates[part], config))["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _has_weight_decay(name: str, norms: set[str]) -> bool:
    return name.startswith("encoder.") and not name.endswith("bias") and name.rpartition(".")[0] not in norms


def _group(part: str, decays: bool, rate: float, config: Config) -> dict:
    name = part if decays or part == "head" else f"{part} (no decay)"
    return {"name": name, "params": [], "lr": rate, "weight_decay": config.weight_decay if decays else 0.0}


def _rates(model: TextModel, config: Config) -> tuple[dict[str, float], Callable[[str], str]]:
    """The peak rate of each part of the model, lowest first, and a function from parameter name to part."""
    if config.param_groups == "none":
        return {"all": config.lr}, lambda name: "all"
    layers = parameter_layers(model.encoder)
    depth = model.config.encoder.num_hidden_layers
    layer_rates = (_layerwise if config.param_groups == "layerwise" else _in_thirds)(depth, config)
    rates = {"embeddings": config.lr}
    if config.param_groups == "layerwise":
        rates["embeddings"] *= config.layer_decay**depth
    rates |= dict(layer_rates) | {"head": config.lr * config.head_lr_factor}

    def part_of(name: str) -> str:
        if not name.startswith("encoder."):
            return "head"
        layer = layers[name.removeprefix("encoder.")]
        return "embeddings" if layer < 0 else layer_rates[min(layer, depth - 1)][0]

    return rates, part_of


def _layerwise(depth: int, config: Config) -> list[tuple[str, float]]:
    """The part that each layer belongs to, and its rate: a part per layer."""
    return [(f"layer {i}", config.lr * config.layer_decay ** (depth - 1 - i)) for i in range(depth)]


def _in_thirds(depth: int, config: Config) -> list[tuple[str, float]]:
    """The part that each layer belongs to, and its rate: a part per third of the layers."""
    tiers = [3 * i // depth for i in range(depth)]
    names = {tier: f"layers {tiers.index(tier)}-{depth - 1 - tiers[::-1].index(tier)}" for tier in set(tiers)}
    return [(names[tier], config.lr * config.tier_factor ** (tier - 1)) for tier in tiers]


def make_optimizer(groups: list[dict], config: Config) -> torch.optim.Optimizer:
    """The optimizer named by the Config over ``parameter_groups``'s groups.

    "madgrad": Defazio and Jelassi 2021, arXiv:2101.11075; "adamw": Loshchilov and Hutter 2019,
    arXiv:1711.05101; "fused_adam": NVIDIA Apex's AdamW in one kernel; "adam" and "sgd", with momentum: weight
    decay is added to the gradient (L2), as madgrad's is, and so goes through their averages.
    """
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM, fused=True, **options)
    options["eps"] = config.eps
    if config.optimizer == "madgrad":
        return MADGRAD(groups, momentum=MOMENTUM, **options)
    if config.optimizer in TORCH:
        return TORCH[config.optimizer](groups, fused=True, **options)
    try:
        from apex.optimizers import FusedAdam
    except ImportError:
        raise InputError("optimizer='fused_adam' needs NVIDIA Apex, which is not here; use adamw.") from None
    if runtime.device().type != "cuda":
        raise InputError("optimizer='fused_adam' needs a CUDA GPU, and there is none; use adamw.")
    return FusedAdam(groups, adam_w_mode=True, **options)
