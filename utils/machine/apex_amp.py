"""NVIDIA Apex: whether it is installed and which build, a proof that it works, and its amp as a precision."""

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from utils.config import InputError
from utils.machine import distributed, runtime
from utils.machine.buckets import GradientSums


class Apex:
    """NVIDIA Apex: O1 patches torch's functions to choose a precision each; O2 holds the model in float16.

    amp's contract, kept here: ``initialize`` once per process, before any wrapping and before the schedules,
    with a float32 model on the GPU; ``scale_loss`` around backward, with unscaling delayed until the last
    micro-batch; clipping over ``master_params``.
    """

    initialized = False  # in this process

    def __init__(self, name: str):
        if Apex.initialized:
            raise InputError(
                f'precision="{name}": Apex has already patched this process; restart the kernel.'
            )
        from apex import amp

        self.amp, self.opt_level = amp, name.removeprefix("apex-")
        self.device = distributed.processes().device

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        """The model to call and the optimizer to step, both patched by amp."""
        index = {
            id(parameter): (g, i)
            for g, group in enumerate(optimizer.param_groups)
            for i, parameter in enumerate(group["params"])
        }
        indices = [index[id(parameter)] for parameter in model.parameters()]
        buffers = [
            (module, name, buffer)
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        Apex.initialized = True
        model, self.optimizer = self.amp.initialize(model, optimizer, opt_level=self.opt_level, verbosity=0)
        self.sums = GradientSums(model)
        for module, name, buffer in buffers:
            setattr(module, name, buffer)  # O2 has cast them to float16, even the targets' mean and scale
        # O2 replaces the optimizer's float16 parameters with float32 masters: not in initialize, but here.
        self.optimizer.zero_grad()
        self._masters = [self.optimizer.param_groups[g]["params"][i] for g, i in indices]
        return model, self.optimizer

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradients of ``loss``; after a step's ``last`` micro-batch, sum them over all processes."""
        scaling = self.amp.scale_loss(loss, self.optimizer, delay_unscale=not last)
        with scaling as scaled, self.sums.during(last):  # summed before Apex unscales: all see an overflow
            scaled.backward()

    def weights(self) -> list[torch.Tensor]:
        """The float32 tensors that the optimizer updates, in the order of ``model.parameters()``."""
        return self._masters

    def clip(self, max_norm: float) -> None:
        """Scale the gradients down to a total norm of at most ``max_norm``; 0: leave them as they are."""
        if max_norm:
            nn.utils.clip_grad_norm_(list(self.amp.master_params(self.optimizer)), max_norm)

    def autocast(self):
        """A context in which a model that was not prepared computes in this precision."""
        return contextlib.nullcontext()  # O1's patches are global, and O2's average is a float32 model

    def loss_scale(self) -> float:
        """The factor that keeps gradients from underflowing."""
        return float(self.amp.state_dict()["loss_scaler0"]["loss_scale"])

    def state_dict(self) -> dict:
        """The state of the loss scaling."""
        return self.amp.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.amp.load_state_dict(state)


class Problem(NamedTuple):
    """Why Apex cannot be used, and what to do about it, if anything."""

    finding: str
    remedy: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, self))


def apex_problem() -> Problem | None:
    """What is wrong with the ``apex`` that Python finds, or None if it is NVIDIA's with amp."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return Problem("NVIDIA Apex is not installed")
    if _has_amp():
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if spec.origin is None:
        return Problem(f"Python finds a folder named apex ({folders[0]}), not a built package")
    remedy = "remove it with: python -m pip uninstall -y apex"
    if any((folder / "optimizers").exists() or (folder / "normalization").exists() for folder in folders):
        return Problem(
            "the installed Apex is a build without apex.amp, which upstream removed in 2025", remedy
        )
    return Problem(
        "the installed package 'apex' is not NVIDIA's but an unrelated one of that name from PyPI", remedy
    )


def _has_amp() -> bool:
    try:
        from apex import amp
    except Exception:  # an unrelated package of that name may fail in any way
        return False
    return all(hasattr(amp, name) for name in ("initialize", "scale_loss", "master_params", "state_dict"))


def apex_build() -> str:
    """Version and origin of the installed Apex: setup.sh names its folder after commit, torch and GPU."""
    try:
        distribution = importlib.metadata.distribution("apex")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown origin"
    url = json.loads(distribution.read_text("direct_url.json") or "{}").get("url", "")
    build = re.search(r"/apex-(\w+)-(torch[^/]+)/", urllib.parse.unquote(url))
    if build is None:
        return f"{distribution.version}, of unknown commit"
    return f"{distribution.version}, commit {build[1]}, built for {build[2]}"


def prove_apex() -> str:
    """Take O1 steps of a small model on the GPU and check what Apex promises; returns what was observed.

    An ordinary step must multiply its matrices in float16 and update the weights. A second one, whose loss
    overflows float32, must be skipped and halve the loss scale. Patches torch for the rest of the process.

    Raises RuntimeError if a check fails, and ImportError for a build without its CUDA extensions, which amp
    would silently do without.
    """
    import amp_C  # noqa: F401 - after torch, whose libraries it needs

    trial = _Trial()
    if not trial.step(0.01):  # small enough for the initial loss scale of 2**16
        raise RuntimeError("an O1 step did not move the weights")
    if set(trial.dtypes) != {torch.float16}:
        raise RuntimeError(f"the matrices were multiplied in {trial.dtypes[0]}, not in float16")
    before = trial.loss_scale()
    if trial.step(1e38):
        raise RuntimeError("a step whose gradients overflowed was not skipped")
    after = trial.loss_scale()
    if after >= before:
        raise RuntimeError(f"the loss scale stayed at {before:g} after an overflow")
    scales = f"from {before:g} to {after:g}"
    return f"Apex O1 works: matrices in float16, and an overflow moved the loss scale {scales}"


class _Trial:
    """A small model under O1, one batch, and the ``dtypes`` in which its first layer has computed."""

    def __init__(self):
        from apex import amp

        self.amp, self.dtypes, device = amp, [], runtime.device()
        model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 1)).to(device)
        model[0].register_forward_hook(lambda module, inputs, output: self.dtypes.append(output.dtype))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.model, self.optimizer = amp.initialize(model, optimizer, opt_level="O1", verbosity=0)
        self.batch = torch.randn(16, 64, device=device)

    def step(self, factor: float) -> bool:
        """Whether a step on ``factor`` times the loss changes the weights."""
        before = self.model[0].weight.detach().clone()
        loss = self.model(self.batch).float().square().mean() * factor
        with self.amp.scale_loss(loss, self.optimizer) as scaled:
            scaled.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise RuntimeError("a step left weights that are not finite")
        return not torch.equal(before, self.model[0].weight)

    def loss_scale(self) -> float:
        return float(self.amp.state_dict()["loss_scaler0"]["loss_scale"])
