"""A stand-in for NVIDIA Apex's amp that runs on the CPU and fails where the real one would fail.

Behaviour after Apex 25.04 as read in its source and issues (see the tests that use it): O1 leaves the weights alone,
O2 casts the model to half precision, replaces its forward by a closure and puts float32 masters into the optimizer.
"""

import contextlib
import types

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.nn.parallel import DataParallel, DistributedDataParallel

LOSS_SCALE = 1024.0


class Amp(types.SimpleNamespace):
    """One process's ``apex.amp``: make a new one for each process that a test plays."""

    def __init__(self):
        super().__init__(initialized=False, calls=[], masters=None)

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
        self.optimizer, self.unscaled, self.pending = optimizer, False, []
        if opt_level == "O2":
            self._cast(model, optimizer)
        step = optimizer.step
        # Bound, as the real amp does it: torch's schedules rebind what they find here.
        optimizer.step = types.MethodType(lambda _, *args, **kwargs: self._checked(step, *args, **kwargs), optimizer)
        optimizer._amp_stash = self
        return model, optimizer

    def _cast(self, model, optimizer):
        # bfloat16 plays float16, which CPUs compute too slowly; what matters here is that it is not float32.
        model.to(torch.bfloat16)
        self.pairs = []
        for group in optimizer.param_groups:
            for i, parameter in enumerate(group["params"]):
                master = parameter.detach().float().requires_grad_()
                self.pairs.append((parameter, master))
                group["params"][i] = master
        forward = model.forward

        def cast_forward(*args, **kwargs):
            return forward(*args, **kwargs)

        model.forward = cast_forward

    @contextlib.contextmanager
    def scale_loss(self, loss, optimizer, delay_unscale=False):
        if optimizer is not self.optimizer:
            raise AssertionError("scale_loss needs the optimizer that amp.initialize returned")
        self.calls.append("delayed" if delay_unscale else "unscaled")
        yield loss.float() * LOSS_SCALE
        if delay_unscale:
            return
        if self.opt_level == "O2":
            for parameter, master in self.pairs:
                master.grad = None if parameter.grad is None else parameter.grad.float() / LOSS_SCALE
                parameter.grad = None
        else:
            for parameter in self.master_params(optimizer):
                if parameter.grad is not None:
                    parameter.grad /= LOSS_SCALE
        self.unscaled = True

    def master_params(self, optimizer):
        return (parameter for group in optimizer.param_groups for parameter in group["params"])

    def _checked(self, step, *args, **kwargs):
        if not self.unscaled:
            raise AssertionError("optimizer.step before the gradients were unscaled")
        self.unscaled = False
        step(*args, **kwargs)
        if self.opt_level == "O2":
            with torch.no_grad():
                for parameter, master in self.pairs:
                    parameter.copy_(master)


def install(monkeypatch):
    """Make ``from apex import amp`` give a fresh stand-in, for this test; returns it."""
    package, amp = types.ModuleType("apex"), Amp()
    package.amp = amp
    package.__path__ = []
    package.__spec__ = types.SimpleNamespace(submodule_search_locations=[], name="apex")
    monkeypatch.setitem(__import__("sys").modules, "apex", package)
    return amp
