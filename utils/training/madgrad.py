"""MADGRAD with a few operations for all weights together."""

import torch


class MADGRAD(torch.optim.Optimizer):
    """MADGRAD (Defazio and Jelassi 2021, arXiv:2101.11075), to the same weights as its authors' package.

    With the gradient g (weight decay added), the initial weights x0 and λ = (lr + eps) √(k + 1) at step
    k = 0, 1, ...:

        s ← s + λ g                      v ← v + λ g²
        z = x0 - s / (∛v + eps)          x ← momentum x + (1 - momentum) z

    The package takes about ten operations for each tensor. Here each is one call for all tensors of a
    group, and the step count is no tensor, so nothing waits for a GPU.

    Args:
        params: float32 tensors with dense gradients, or groups of them.
        momentum: 0 recomputes x0 from the rest instead of keeping it.
    """

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
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {"s": torch.zeros_like(weight), "v": torch.zeros_like(weight)}
                    if group["momentum"]:
                        self.state[weight]["x0"] = weight.detach().clone()
            rate = group["lr"] + group["eps"] if group["lr"] else 0.0  # the package's way
            lamb = rate * (group["k"] + 1) ** 0.5
            group["k"] += 1
            if weights:
                step_group(weights, [self.state[weight] for weight in weights], lamb, group)
        return loss


def step_group(weights: list[torch.Tensor], states: list[dict], lamb: float, group: dict) -> None:
    """One step of a group's tensors, an operation at a time for all of them."""
    s, v, momentum = [state["s"] for state in states], [state["v"] for state in states], group["momentum"]
    g = [weight.grad for weight in weights if weight.grad is not None]
    if group["weight_decay"]:
        g = list(torch._foreach_add(g, weights, alpha=group["weight_decay"]))
    if momentum:
        x0 = [state["x0"] for state in states]
    else:
        x0 = list(torch._foreach_addcdiv(weights, s, roots(v, group["eps"])))
    torch._foreach_add_(s, g, alpha=lamb)
    torch._foreach_addcmul_(v, g, g, lamb)
    z = torch._foreach_addcdiv(x0, s, roots(v, group["eps"]), -1)
    torch._foreach_mul_(weights, momentum)
    torch._foreach_add_(weights, z, alpha=1 - momentum)


def roots(v: list[torch.Tensor], eps: float) -> tuple[torch.Tensor, ...]:
    """∛v + eps."""
    cube_roots = torch._foreach_pow(v, 1 / 3)
    torch._foreach_add_(cube_roots, eps)
    return cube_roots
