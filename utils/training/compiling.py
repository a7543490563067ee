"""torch.compile for the model in training and for the average, as ``Config.compile`` asks for."""

import torch
from torch import nn

from utils.config import Config, InputError
from utils.machine.precision import Choice

#: Tokens of a batch up to which "auto" takes CUDA graphs: launching kernels takes longer than they take then.
SMALL = 2048


def choose(config: Config, choice: Choice, device: torch.device) -> str:
    """ "off", "on" or "graphs": what ``config.compile`` means in this precision on this device.

    Raises InputError for what cannot be compiled.
    """
    wanted, apex = config.compile, choice.name.startswith("apex")
    if wanted == "auto":
        if device.type != "cuda" or apex:
            return "off"
        return "graphs" if config.batch_size * config.max_length <= SMALL else "on"
    if wanted != "off" and apex:
        raise InputError(
            f"compile={wanted} cannot be used with {choice.name}, which replaces torch's functions; set "
            "compile=off, or precision=fp16."
        )
    if wanted == "graphs" and device.type != "cuda":
        raise InputError("compile=graphs needs a CUDA GPU, and there is none; set compile=auto.")
    return wanted


def compile_models(kind: str, trained: nn.Module, averaged: nn.Module | None) -> None:
    """Compile the models' calls, in place: their modules and the names of their weights stay as they are.

    Batches differ in their number of texts and tokens. ``dynamic`` makes one program for all of them, where
    torch would compile anew for each.
    """
    if kind == "off":
        return
    mode = "reduce-overhead" if kind == "graphs" else "default"
    for model in filter(None, (trained, averaged)):
        model.compile(dynamic=True, mode=mode)
    if kind == "graphs":  # a first gradient would lie in a graph's memory, which its next run overwrites
        for weight in trained.parameters():
            weight.grad = torch.zeros_like(weight)


def compile_seconds() -> float:
    """What compiling has taken in this process so far."""
    from torch._dynamo.utils import calculate_time_spent  # imported here: it takes a second

    return calculate_time_spent().get("total_wall_time", 0.0)
