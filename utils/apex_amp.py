"""NVIDIA Apex: whether it is here and which build, a proof that it works, and its amp as a precision."""

import contextlib
import importlib.metadata
import importlib.util
import json
import re
import urllib.parse
from pathlib import Path

import torch
from torch import nn

from utils import devices, runtime
from utils.config import InputError


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
