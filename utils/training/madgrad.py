"""MADGRAD in one pass over memory."""

import functools
import shutil
from collections.abc import Callable

import torch

#: Tensors below this many elements are stepped together: a compiled call for each would cost more.
SMALL = 2**14


class MADGRAD(torch.optim.Optimizer):
    """MADGRAD (Defazio and Jelassi 2021, arXiv:2101.11075), to the same weights as its authors' package.

    With the gradient g (weight decay added), the initial weights x0 and λ = (lr + eps) √(k + 1) at step
    k = 0, 1, ...:

        s ← s + λ g                      v ← v + λ g²
        z = x0 - s / (∛v + eps)          x ← momentum x + (1 - momentum) z

    The package takes about ten operations for each tensor, each a pass over memory. Here it is one pass on a
    CPU where a C++ compiler is available, and elsewhere one call per operation for all tensors of a group.
    The step count is no tensor, so nothing waits for a GPU. Under torch's gradient scaler it is one: whether
    gradients overflowed, and the step is skipped, is then known on the device alone.

    Args:
        params: float32 tensors with dense gradients, or groups of them.
        momentum: 0 recomputes x0 from the rest instead of keeping it.
    """

    _step_supports_amp_scaling = True  # torch's GradScaler leaves it to ``step`` to skip, and reads nothing

    def __init__(
        self, params, lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0, eps: float = 1e-6
    ):
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or eps <= 0:
            raise ValueError(f"MADGRAD cannot step with {lr=}, {momentum=}, {weight_decay=}, {eps=}.")
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eps": eps, "k": 0}
        )

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            self._initialize(weights, group["momentum"])
            rate = group["lr"] + group["eps"] if group["lr"] else 0.0  # the package's way
            lamb = rate * (group["k"] + 1) ** 0.5
            if hasattr(self, "found_inf"):  # set by a GradScaler for the time of a step
                self._step_scaled(weights, lamb, group)
                continue
            group["k"] += 1
            together = []
            for weight in weights:
                if large_on_cpu(weight) and (step_alone := compiled_step()):
                    self._step_alone(step_alone, weight, lamb, group)
                else:
                    together.append(weight)
            if together:
                step_together(together, [self.state[weight] for weight in together], lamb, group)
        return loss

    def _initialize(self, weights: list[torch.Tensor], momentum: float) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {"s": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
                if momentum:
                    self.state[weight]["x0"] = weight.detach().clone()

    def _step_alone(self, step: Callable, weight: torch.Tensor, lamb: float, group: dict) -> None:
        state = {name: value.view(-1) for name, value in self.state[weight].items()}
        x = weight.detach().view(-1)
        g = weight.grad.reshape(-1)  # type: ignore[union-attr] # only weights with gradients come here
        step(x, g, state, torch.tensor(lamb), group["momentum"], group["weight_decay"], group["eps"])

    def _step_scaled(self, weights: list[torch.Tensor], lamb: float | torch.Tensor, group: dict) -> None:
        """A step that changes nothing if gradients overflowed: they count as 0, and so does the rate."""
        taken = 1 - self.found_inf.clamp(max=1)  # type: ignore[attr-defined] # float32, 1 or 0
        group["k"] = group["k"] + taken
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if weights and getattr(self, "grad_scale", None) is not None:  # they were not unscaled for clipping
            torch._foreach_mul_(gradients, self.grad_scale.reciprocal())  # type: ignore[attr-defined]
        for gradient in gradients:
            gradient.masked_fill_(taken == 0, 0.0)
        if weights:
            step_if(taken, weights, [self.state[weight] for weight in weights], lamb * taken, group)


def step_one(x, g, state, lamb, momentum, decay, eps):
    """One step of one tensor, to be compiled into one loop."""
    s, v = state["s"], state["v"]
    x0 = state["x0"] if momentum else x + s / (cube_root(v) + eps)
    g = g + decay * x
    s.add_(lamb * g)
    v.add_(lamb * g * g)
    x.mul_(momentum).add_((1 - momentum) * (x0 - s / (cube_root(v) + eps)))


def cube_root(v: torch.Tensor) -> torch.Tensor:
    """Of numbers from 0 on, element by element."""
    return torch.exp2(torch.log2(v) / 3)  # compiled, nearly twice as fast as a power of 1/3


@functools.cache
def compiled_step() -> Callable | None:
    """``step_one`` compiled, or None where there is no C++ compiler that works."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        return None
    step = torch.compile(step_one, dynamic=True)
    try:
        x, s, v, x0 = torch.zeros(4, 64)
        step(x, torch.zeros(64), {"s": s, "v": v, "x0": x0}, torch.tensor(0.1), 0.9, 0.0, 1e-6)
    except Exception:  # such as Python's headers missing: whatever it is, the other way works without
        return None
    return step


def large_on_cpu(weight: torch.Tensor) -> bool:
    """Whether the compiled step pays for a weight."""
    return weight.device.type == "cpu" and weight.numel() >= SMALL and weight.is_contiguous()


def step_together(weights: list[torch.Tensor], states: list[dict], lamb: float, group: dict) -> None:
    """One step of many tensors, an operation at a time for all of them."""
    g, s, v, x0 = gather(weights, states, group)
    torch._foreach_add_(s, g, alpha=lamb)
    torch._foreach_addcmul_(v, g, g, lamb)
    z = torch._foreach_addcdiv(x0, s, roots(v, group["eps"]), -1)
    torch._foreach_mul_(weights, group["momentum"])
    torch._foreach_add_(weights, z, alpha=1 - group["momentum"])


def step_if(
    taken: torch.Tensor, weights: list[torch.Tensor], states: list[dict], lamb: torch.Tensor, group: dict
) -> None:
    """``step_together`` with λ on the device, where ``taken`` is 1; nothing changes where both are 0."""
    g, s, v, x0 = gather(weights, states, group)
    scaled = torch._foreach_mul(g, lamb)
    torch._foreach_add_(s, scaled)
    torch._foreach_addcmul_(v, scaled, g)
    change = torch._foreach_addcdiv(x0, s, roots(v, group["eps"]), -1)
    torch._foreach_sub_(change, weights)
    torch._foreach_mul_(change, (1 - group["momentum"]) * taken)
    torch._foreach_add_(weights, change)


def gather(weights: list[torch.Tensor], states: list[dict], group: dict) -> list[list[torch.Tensor]]:
    """g, s, v and x0 of each tensor, before a step."""
    s, v = [state["s"] for state in states], [state["v"] for state in states]
    g = [weight.grad for weight in weights if weight.grad is not None]
    if group["weight_decay"]:
        g = list(torch._foreach_add(g, weights, alpha=group["weight_decay"]))
    if group["momentum"]:
        return [g, s, v, [state["x0"] for state in states]]
    return [g, s, v, list(torch._foreach_addcdiv(weights, s, roots(v, group["eps"])))]


def roots(v: list[torch.Tensor], eps: float) -> tuple[torch.Tensor, ...]:
    """∛v + eps."""
    cube_roots = torch._foreach_pow(v, 1 / 3)
    torch._foreach_add_(cube_roots, eps)
    return cube_roots
