"""A stand-in for NVIDIA Apex's amp that runs on the CPU and fails where the real one would fail.

It does what Apex's _initialize.py and _process_optimizer.py do. O1 leaves the weights unchanged. O2 casts
parameters and buffers to half precision, replaces the model's forward by a closure that turns outputs into
plain dicts, replaces zero_grad by one without arguments, and puts float32 masters into the optimizer at the
first zero_grad or scale_loss.
"""

import contextlib
import sys
import types
from collections.abc import Mapping

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.nn.parallel import DataParallel, DistributedDataParallel

from utils.machine import precision

LOSS_SCALE = 1024.0


class Amp(types.SimpleNamespace):
    """One process's ``apex.amp``: make a new one for each process that a test simulates."""

    def __init__(self):
        super().__init__(initialized=False, calls=[], pairs=[])
        self.scale, self.unskipped, self.growth_interval = LOSS_SCALE, 0, 2000

    def initialize(self, model, optimizer, opt_level="O1", verbosity=1):
        if self.initialized:
            raise AssertionError("amp.initialize was called twice in one process: O1's patches would stack")
        if isinstance(model, DataParallel | DistributedDataParallel):
            raise AssertionError("amp.initialize needs the model before it is wrapped")
        if hasattr(model, "_original_forward"):
            raise AssertionError("Accelerate has wrapped the model's forward already")
        if isinstance(optimizer, AcceleratedOptimizer) or not isinstance(optimizer, torch.optim.Optimizer):
            raise AssertionError("amp.initialize needs a plain torch.optim.Optimizer")
        if any("initial_lr" in group for group in optimizer.param_groups):
            raise AssertionError("a schedule was made before amp.initialize")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                raise AssertionError(f"{name} is {tensor.dtype}; amp.initialize needs float32")
        self.initialized, self.opt_level, self.model = True, opt_level, model
        self.optimizer, self.unscaled, self.lazy_init_called = optimizer, False, False
        if opt_level == "O2":
            self._cast(model, optimizer)
        step = optimizer.step
        # A bound method, as in the real amp: torch's schedules rebind it.
        optimizer.step = types.MethodType(
            lambda _, *args, **kwargs: self._checked(step, *args, **kwargs), optimizer
        )
        optimizer._amp_stash = self
        return model, optimizer

    def _cast(self, model, optimizer):
        # bfloat16 instead of float16, which is too slow on CPUs; what matters is that it is not float32.
        model.to(torch.bfloat16)
        forward = model.forward

        def cast_forward(*args, **kwargs):
            return _to_float32(forward(*args, **kwargs))

        def zero_grad(_):
            self._lazy_init()
            for parameter, master in self.pairs:
                parameter.grad = master.grad = None

        model.forward = cast_forward
        optimizer.zero_grad = types.MethodType(zero_grad, optimizer)

    def _lazy_init(self):
        if self.lazy_init_called or self.opt_level != "O2":
            return
        self.lazy_init_called = True
        for group in self.optimizer.param_groups:
            for i, parameter in enumerate(group["params"]):
                master = parameter.detach().float().requires_grad_()
                self.pairs.append((parameter, master))
                group["params"][i] = master

    @contextlib.contextmanager
    def scale_loss(self, loss, optimizer, delay_unscale=False):
        if optimizer is not self.optimizer:
            raise AssertionError("scale_loss needs the optimizer that amp.initialize returned")
        self.calls.append("delayed" if delay_unscale else "unscaled")
        self._lazy_init()
        yield loss.float() * self.scale
        if delay_unscale:
            return
        if self.opt_level == "O2":
            for parameter, master in self.pairs:
                master.grad = None if parameter.grad is None else parameter.grad.float() / self.scale
                parameter.grad = None
        else:
            for parameter in self.master_params(optimizer):
                if parameter.grad is not None:
                    parameter.grad /= self.scale
        self.unscaled = True
        self.unskipped += 1
        if self.unskipped == self.growth_interval:
            self.scale, self.unskipped = self.scale * 2, 0

    def master_params(self, optimizer):
        return (parameter for group in optimizer.param_groups for parameter in group["params"])

    def state_dict(self):
        return {"loss_scaler0": {"loss_scale": self.scale, "unskipped": self.unskipped}}

    def load_state_dict(self, state):
        if not self.initialized:
            raise AssertionError("amp.load_state_dict comes after amp.initialize")
        self.scale, self.unskipped = state["loss_scaler0"]["loss_scale"], state["loss_scaler0"]["unskipped"]

    def _checked(self, step, *args, **kwargs):
        if not self.unscaled:
            raise AssertionError("optimizer.step before the gradients were unscaled")
        self.unscaled = False
        step(*args, **kwargs)
        if self.opt_level == "O2":
            with torch.no_grad():
                for parameter, master in self.pairs:
                    parameter.copy_(master)


def _to_float32(output):
    """The outputs in float32; a mapping without ``to``, such as a ModelOutput, becomes a plain dict."""
    if isinstance(output, torch.Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, Mapping):
        return {name: _to_float32(value) for name, value in output.items()}
    return type(output)(map(_to_float32, output)) if isinstance(output, tuple | list) else output


def install(monkeypatch):
    """Make ``from apex import amp`` import a new stand-in during this test; returns it."""
    package, amp = types.ModuleType("apex"), Amp()
    package.amp = amp
    package.__path__ = []
    package.__spec__ = types.SimpleNamespace(submodule_search_locations=[], name="apex")
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setattr(precision.Apex, "initialized", False)
    return amp
