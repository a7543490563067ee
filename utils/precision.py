"""Mixed precision: NVIDIA Apex or torch's own through Accelerate, behind one face; the choice comes with its reason."""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from utils import devices, runtime
from utils.apex_amp import Apex, apex_problem
from utils.config import InputError


class Choice(NamedTuple):
    """A precision ("apex-O1", "apex-O2", "fp16", "bf16" or "fp32") and why it was taken."""

    name: str
    reason: str


def available() -> list[str]:
    """The precisions that this machine has, plainest first, O2 aside."""
    kind = runtime.device().type
    found = ["fp32"] + ["bf16"] * _has_bf16(kind) + ["fp16"] * (kind == "cuda")
    return found + ["apex-O1"] * (kind == "cuda" and apex_problem() is None)


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 matrices natively (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _has_bf16(kind: str) -> bool:
    if kind == "cuda":
        return runtime.gpu()[1]
    return kind == "cpu" and cpu_has_bf16()


def choose(wanted: str) -> Choice:
    """``Config.precision`` made definite for this machine.

    "auto": on CUDA Apex O1 where it is, else bf16 where the GPU has it natively, else fp16; on the CPU bf16 where the
    processor has it natively, else fp32. Raises InputError for a precision that is not to be had here.
    """
    kind = runtime.device().type
    problem = apex_problem() if kind == "cuda" or wanted.startswith("apex") else None
    bf16 = _has_bf16(kind)
    if wanted == "auto":
        if kind == "cuda" and problem is None:
            return Choice("apex-O1", "NVIDIA Apex with amp is installed")
        because = f"; {problem}" if problem else ""
        if bf16:
            return Choice("bf16", f"the {kind.upper()} has bfloat16 natively{because}")
        if kind == "cuda":
            return Choice("fp16", f"this GPU has no native bfloat16, so float16 with loss scaling{because}")
        return Choice("fp32", f"the {kind.upper()} has no native half precision that pays")
    if wanted.startswith("apex"):
        if kind != "cuda":
            raise InputError(f'precision="{wanted}" needs a CUDA GPU, and there is none; use "auto".')
        if problem:
            raise InputError(f'precision="{wanted}": {problem}; build it (bash setup.sh --apex), or use "auto".')
    if wanted == "fp16" and kind != "cuda":
        raise InputError('precision="fp16" needs a CUDA GPU, and there is none; use "auto".')
    if wanted == "bf16" and not bf16:
        raise InputError(f'precision="bf16": this {kind.upper()} has no native bfloat16; use "auto".')
    return Choice(wanted, "asked for")


class Native:
    """fp32, bf16 or fp16 through Accelerate, which also scales the loss in fp16."""

    def __init__(self, name: str):
        AcceleratorState._reset_state(True)  # it is global, and a process may train twice in different precisions
        mode = {"fp32": "no"}.get(name, name)
        self.accelerator = Accelerator(mixed_precision=mode, cpu=runtime.device().type == "cpu")
        self.device = self.accelerator.device

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        """The model to call and the optimizer to step; the plain ones stay valid for everything else."""
        self._model, self._parameters = model, list(model.parameters())
        # Not prepare(), which would wrap the model in DistributedDataParallel; devices.py says why it is not.
        prepared = self.accelerator.prepare_model(model, evaluation_mode=True)
        return prepared, self.accelerator.prepare_optimizer(optimizer)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add ``loss``'s gradients; ``last``: no other follows before the step, and processes add theirs up."""
        self.accelerator.backward(loss)
        if last:
            devices.add_up_gradients(self._model)

    def weights(self) -> list[torch.Tensor]:
        """The float32 tensors that the optimizer steps, in the order of ``model.parameters()``."""
        return self._parameters

    def clip(self, max_norm: float) -> None:
        """Scale the gradients down to a total norm of ``max_norm``; 0: not."""
        if max_norm:
            self.accelerator.clip_grad_norm_(self._parameters, max_norm)

    def autocast(self):
        """The context in which a model that was not prepared computes in this precision."""
        return self.accelerator.autocast()

    def loss_scale(self) -> float:
        """What the loss is multiplied with against underflow; 1 where the precision needs none."""
        return self.accelerator.scaler.get_scale() if self.accelerator.scaler else 1.0

    def state_dict(self) -> dict:
        """Of the loss scaling."""
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler else {}

    def load_state_dict(self, state: dict) -> None:
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state)


def make(choice: Choice) -> Native | Apex:
    """The chosen precision, ready to ``prepare`` a model and its optimizer."""
    return Apex(choice.name) if choice.name.startswith("apex") else Native(choice.name)
