"""Mixed precision: NVIDIA Apex or torch's own through Accelerate, behind one face; the choice comes with its reason."""

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from utils import devices, runtime
from utils.config import InputError


class Choice(NamedTuple):
    """A precision ("apex-O1", "apex-O2", "fp16", "bf16" or "fp32") and why it was taken."""

    name: str
    reason: str


def apex_problem() -> str | None:
    """What is wrong with the ``apex`` that Python finds, or None if it is NVIDIA's with amp."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return "NVIDIA Apex is not installed"
    try:
        from apex import amp

        if all(hasattr(amp, name) for name in ("initialize", "scale_loss", "master_params", "state_dict")):
            return None
    except Exception:  # another package of that name may fail in any way
        pass
    if spec.origin is None:
        return f"Python finds a folder named apex ({spec.submodule_search_locations[0]}), not a built package"
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if any((folder / "optimizers").exists() or (folder / "normalization").exists() for folder in folders):
        return (
            "the installed Apex is a build without apex.amp, which upstream removed in 2025; "
            "remove it with: python -m pip uninstall -y apex"
        )
    return (
        "the installed package 'apex' is not NVIDIA's but an unrelated one of that name from PyPI; "
        "remove it with: python -m pip uninstall -y apex"
    )


def apex_build() -> str:
    """Version and origin of the installed Apex: setup.sh's wheels lie in a folder named after commit, torch and GPU."""
    try:
        about = importlib.metadata.distribution("apex")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown origin"
    origin = json.loads(about.read_text("direct_url.json") or "{}").get("url", "")
    key = re.search(r"/apex-(\w+)-(torch[^/]+)/", urllib.parse.unquote(origin))
    return f"{about.version}, commit {key[1]}, built for {key[2]}" if key else f"{about.version}, of unknown commit"


def prove_apex() -> str:
    """Take O1 steps of a small model on the GPU and check that they did what Apex promises; returns what was seen.

    One ordinary step must multiply its matrices in float16 and move the weights; a second one, whose loss overflows
    float32, must be skipped and halve the loss scale. Patches torch for the rest of the process.

    Raises RuntimeError for anything else, ImportError for a build without its CUDA extensions, which amp would quietly
    do without.
    """
    import amp_C  # noqa: F401 - after torch, whose libraries it needs
    from apex import amp

    device, dtypes = runtime.device(), []
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 1)).to(device)
    model[0].register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = amp.initialize(model, optimizer, opt_level="O1", verbosity=0)
    batch = torch.randn(16, 64, device=device)

    def step(factor: float) -> bool:
        """Whether a step on ``factor`` times the loss moves the weights."""
        before = model[0].weight.detach().clone()
        loss = model(batch).float().square().mean() * factor
        with amp.scale_loss(loss, optimizer) as scaled:
            scaled.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not all(weight.isfinite().all() for weight in model.parameters()):
            raise RuntimeError("a step left weights that are not finite")
        return not torch.equal(before, model[0].weight)

    def scale() -> float:
        return float(amp.state_dict()["loss_scaler0"]["loss_scale"])

    if not step(0.01):  # small enough for the first loss scale, 2 to the 16th
        raise RuntimeError("an O1 step did not move the weights")
    if set(dtypes) != {torch.float16}:
        raise RuntimeError(f"the matrices were multiplied in {dtypes[0]}, not in float16")
    before = scale()
    if step(1e38):
        raise RuntimeError("a step whose gradients overflowed was not skipped")
    if scale() >= before:
        raise RuntimeError(f"the loss scale stayed at {before:g} after an overflow")
    return f"Apex O1 works: matrices in float16, and an overflow moved the loss scale from {before:g} to {scale():g}"


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


class Apex:
    """NVIDIA Apex: O1 patches torch's functions to choose a precision each; O2 holds the model in float16.

    amp's contract, kept here: ``initialize`` once a process, before any wrapping and before the schedules, with a
    float32 model on the GPU; ``scale_loss`` around backward, the unscaling delayed until the last micro-batch;
    clipping over ``master_params``.
    """

    initialized = False  # in this process

    def __init__(self, name: str):
        if Apex.initialized:
            raise InputError(f'precision="{name}": Apex has patched this process already; restart the kernel.')
        from apex import amp

        self.amp, self.opt_level = amp, name.removeprefix("apex-")
        self.device = devices.processes().device

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        position = {
            id(parameter): (g, i)
            for g, group in enumerate(optimizer.param_groups)
            for i, parameter in enumerate(group["params"])
        }
        places = [position[id(parameter)] for parameter in model.parameters()]
        buffers = [
            (owner, name, kept) for owner in model.modules() for name, kept in owner.named_buffers(recurse=False)
        ]
        Apex.initialized = True
        model, self.optimizer = self.amp.initialize(model, optimizer, opt_level=self.opt_level, verbosity=0)
        self._model = model
        for owner, name, kept in buffers:
            setattr(owner, name, kept)  # O2 has cast the targets' location and scale, too, to float16
        # O2 puts float32 masters in the places of the optimizer's float16 parameters: not at once, but here.
        self.optimizer.zero_grad()
        self._masters = [self.optimizer.param_groups[g]["params"][i] for g, i in places]
        return model, self.optimizer

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        with self.amp.scale_loss(loss, self.optimizer, delay_unscale=not last) as scaled:
            scaled.backward()
            if last:  # before Apex unscales them, so that an overflow in one process is one in all
                devices.add_up_gradients(self._model)

    def weights(self) -> list[torch.Tensor]:
        return self._masters

    def clip(self, max_norm: float) -> None:
        if max_norm:
            nn.utils.clip_grad_norm_(list(self.amp.master_params(self.optimizer)), max_norm)

    def autocast(self):
        return contextlib.nullcontext()  # O1's patches hold everywhere, and O2's average is a float32 model

    def loss_scale(self) -> float:
        return float(self.amp.state_dict()["loss_scaler0"]["loss_scale"])

    def state_dict(self) -> dict:
        return self.amp.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.amp.load_state_dict(state)


def make(choice: Choice) -> Native | Apex:
    """The chosen precision, ready to ``prepare`` a model and its optimizer."""
    return Apex(choice.name) if choice.name.startswith("apex") else Native(choice.name)
