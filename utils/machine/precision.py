"""Mixed precision: NVIDIA Apex, or torch's own through Accelerate, behind one interface."""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from utils.config import InputError
from utils.machine import runtime
from utils.machine.apex_amp import Apex, Problem, apex_problem
from utils.machine.buckets import GradientSums


class Choice(NamedTuple):
    """A precision ("apex-O1", "apex-O2", "fp16", "bf16" or "fp32") and the reason for it."""

    name: str
    reason: str


def available() -> list[str]:
    """The precisions available on this machine, simplest first, without Apex O2."""
    device = runtime.device().type
    names = ["fp32"] + ["bf16"] * _has_bf16(device) + ["fp16"] * (device == "cuda")
    return names + ["apex-O1"] * (device == "cuda" and apex_problem() is None)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices natively (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return runtime.gpu()[1]
    return device == "cpu" and cpu_has_bf16()


def choose(wanted: str) -> Choice:
    """The precision that ``Config.precision`` means on this machine.

    "auto" is Apex O1 on CUDA if it is installed, else bf16 where the device has it natively, else fp16 on
    CUDA and fp32 elsewhere. Raises InputError for a precision that is not available.
    """
    device = runtime.device().type
    problem = apex_problem() if device == "cuda" or wanted.startswith("apex") else None
    if wanted == "auto":
        return _choose_automatically(device, problem)
    if wanted.startswith("apex"):
        if device != "cuda":
            raise InputError(f'precision="{wanted}" needs a CUDA GPU, and there is none; use "auto".')
        if problem:
            raise InputError(
                f'precision="{wanted}": {problem}; build it (bash setup.sh --apex), or use "auto".'
            )
    if wanted == "fp16" and device != "cuda":
        raise InputError('precision="fp16" needs a CUDA GPU, and there is none; use "auto".')
    if wanted == "bf16" and not _has_bf16(device):
        raise InputError(f'precision="bf16": this {device.upper()} has no native bfloat16; use "auto".')
    return Choice(wanted, "asked for")


def _choose_automatically(device: str, problem: Problem | None) -> Choice:
    """The best precision of a type of device; ``problem`` is what is wrong with Apex, if anything."""
    if device == "cuda" and problem is None:
        return Choice("apex-O1", "NVIDIA Apex with amp is installed")
    apex = f"; {problem}" if problem else ""
    if _has_bf16(device):
        return Choice("bf16", f"the {device.upper()} has bfloat16 natively{apex}")
    if device == "cuda":
        return Choice("fp16", f"this GPU has no native bfloat16, so float16 with loss scaling{apex}")
    return Choice("fp32", f"the {device.upper()} has no native half precision that would be faster")


class Native:
    """fp32, bf16 or fp16 through Accelerate, which also scales the loss in fp16."""

    def __init__(self, name: str):
        AcceleratorState._reset_state(True)  # it is global; a process may train again in another precision
        mode = {"fp32": "no"}.get(name, name)
        self.accelerator = Accelerator(mixed_precision=mode, cpu=runtime.device().type == "cpu")
        self.device = self.accelerator.device

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        """The model to call and the optimizer to step; the originals stay valid for everything else."""
        self.sums = GradientSums(model)
        self._parameters: list[torch.Tensor] = list(model.parameters())
        # prepare() would wrap the model in DistributedDataParallel; buckets.py says why that is unwanted.
        prepared = self.accelerator.prepare_model(model, evaluation_mode=True)
        return prepared, self.accelerator.prepare_optimizer(optimizer)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradients of ``loss``; after a step's ``last`` micro-batch, sum them over all processes."""
        with self.sums.during(last):
            self.accelerator.backward(loss)

    def weights(self) -> list[torch.Tensor]:
        """The float32 tensors that the optimizer updates, in the order of ``model.parameters()``."""
        return self._parameters

    def clip(self, max_norm: float) -> None:
        """Scale the gradients down to a total norm of at most ``max_norm``; 0: leave them as they are."""
        if max_norm:
            self.accelerator.clip_grad_norm_(self._parameters, max_norm)

    def autocast(self):
        """A context in which a model that was not prepared computes in this precision."""
        return self.accelerator.autocast()

    def loss_scale(self) -> float:
        """The factor that keeps gradients from underflowing; 1 where the precision needs none."""
        return self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0

    def state_dict(self) -> dict:
        """The state of the loss scaling."""
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}

    def load_state_dict(self, state: dict) -> None:
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state)


def make(choice: Choice) -> Native | Apex:
    """The chosen precision, ready to ``prepare`` a model and its optimizer."""
    return Apex(choice.name) if choice.name.startswith("apex") else Native(choice.name)
