"""Parameter groups with learning rates by layer, optimizers by name, and the learning rate over the run."""

import math
import re

import torch
from torch import nn
from torch.optim.swa_utils import SWALR
from transformers import get_scheduler

from utils import runtime
from utils.config import Config, InputError
from utils.madgrad import MADGRAD
from utils.model import TextRegressor, encoder_layers

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}  # transformers' names


def parameter_groups(model: TextRegressor, config: Config) -> list[dict]:
    """The model's trainable parameters in groups, each with a "name", its peak "lr" and its "weight_decay".

    "grouped": the lower, middle and upper third of the layers at lr / factor, lr, lr * factor, embeddings at lr.
    "layerwise": each layer at ``layer_decay`` times the rate of the layer above, embeddings below the lowest
    (Howard and Ruder 2018, arXiv:1801.06146). "none": one rate. In the first two, everything outside the encoder
    learns at lr * ``head_lr_factor``. Biases, norms and the head have no weight decay.
    """
    rates, place = _rates(model, config)
    norms = {f"{name}." for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    groups: dict[tuple[str, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = place(name)
        inside = name.startswith("encoder.")
        decays = inside and not name.endswith("bias") and name.rpartition(".")[0] + "." not in norms
        group = groups.setdefault(
            (part, decays),
            {
                "name": part if decays or part == "head" else f"{part} (no decay)",
                "params": [],
                "lr": rates[part],
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    order = list(rates)
    return [groups[key] for key in sorted(groups, key=lambda key: (order.index(key[0]), not key[1]))]


def _rates(model: TextRegressor, config: Config):
    """The peak rate of each part of the model, lowest part first, and a function from parameter name to part."""
    lr, head_lr = config.lr, config.lr * config.head_lr_factor
    if config.param_groups == "none":
        return {"all": lr}, lambda name: "all"
    stack, layers = encoder_layers(model.encoder)
    depth = len(layers)
    if config.param_groups == "layerwise":
        labels = [f"layer {i}" for i in range(depth)]
        rates = {"embeddings": lr * config.layer_decay**depth}
        rates |= {label: lr * config.layer_decay ** (depth - 1 - i) for i, label in enumerate(labels)}
    else:
        tiers = [3 * i // depth for i in range(depth)]
        ends = {tier: (tiers.index(tier), depth - 1 - tiers[::-1].index(tier)) for tier in set(tiers)}
        labels = [f"layers {ends[tier][0]}-{ends[tier][1]}" for tier in tiers]
        rates = {"embeddings": lr}
        rates |= {label: lr * config.tier_factor ** (tier - 1) for tier, label in zip(tiers, labels, strict=True)}
    rates["head"] = head_lr

    def place(name: str) -> str:
        if not name.startswith("encoder."):
            return "head"
        if found := re.match(rf"encoder\.{re.escape(stack)}\.(\d+)\.", name):
            return labels[int(found[1])]
        # What an encoder has beside embeddings and layers is a norm or projection on top of them.
        return "embeddings" if "embed" in name else labels[-1]

    return rates, place


def make_optimizer(groups: list[dict], config: Config) -> torch.optim.Optimizer:
    """The optimizer named by the Config over ``parameter_groups``'s groups.

    "madgrad": Defazio and Jelassi 2021, arXiv:2101.11075; "adamw": Loshchilov and Hutter 2019, arXiv:1711.05101;
    "fused_adam": NVIDIA Apex's AdamW in one kernel.
    """
    options = {"lr": config.lr, "weight_decay": config.weight_decay, "eps": config.eps}
    if config.optimizer == "madgrad":
        return MADGRAD(groups, momentum=0.9, **options)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **options)
    try:
        from apex.optimizers import FusedAdam
    except ImportError:
        raise InputError("optimizer='fused_adam' needs NVIDIA Apex, which is not here; use adamw.") from None
    if runtime.device().type != "cuda":
        raise InputError("optimizer='fused_adam' needs a CUDA GPU, and there is none; use adamw.")
    return FusedAdam(groups, adam_w_mode=True, **options)


def count_steps(config: Config, n_rows: int) -> tuple[int, int]:
    """Optimizer steps in an epoch of ``n_rows`` training rows, and in the whole run."""
    per_epoch = math.ceil(math.ceil(n_rows / config.batch_size) / config.accumulation_steps)
    return per_epoch, math.ceil(round(config.epochs * per_epoch, 6))


class LearningRates:
    """Every group's learning rate, step by step: warm-up and base schedule, then from ``swa_start`` SWA's own phase.

    SWA wants a constant, fairly high rate, so that the weights it averages lie apart (Izmailov et al. 2018,
    arXiv:1803.05407). Each group anneals to its own: ``swa_lr_factor`` times its peak, so that layer-wise rates
    survive. A flat rate for all groups, as published (``swa_flat_lr``), lifts the lowest layers far above their peak.

    Args:
        optimizer: the plain torch optimizer; made after ``amp.initialize`` where Apex is used.
        steps_per_epoch, total_steps: optimizer steps.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int, total_steps: int):
        self.optimizer, self.config = optimizer, config
        self.steps_per_epoch = steps_per_epoch
        self.swa_start_step = round(config.swa_start * steps_per_epoch)
        self.steps = 0
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.base = get_scheduler(
            SCHEDULES[config.schedule], optimizer, round(config.warmup_ratio * total_steps), total_steps
        )
        self.swa: SWALR | None = None

    def step(self) -> None:
        """Set the rates of the next optimizer step."""
        self.steps += 1
        if self.config.averaging != "swa" or self.steps < self.swa_start_step:
            self.base.step()
        elif self.swa is None:
            self.swa = self._begin_swa()
        else:
            self.swa.step()

    def _begin_swa(self) -> SWALR:
        flat = self.config.swa_flat_lr
        return SWALR(
            self.optimizer,
            swa_lr=[flat or self.config.swa_lr_factor * peak for peak in self.peaks],
            anneal_epochs=round(self.config.swa_anneal_epochs * self.steps_per_epoch),
            anneal_strategy=self.config.swa_anneal,
        )

    def state_dict(self) -> dict:
        """Where the schedules are; the rates themselves lie in the optimizer's state."""
        return {"steps": self.steps, "base": self.base.state_dict(), "swa": self.swa and self.swa.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go back to ``state``. To be called before the optimizer's, whose rates a new SWALR would change."""
        self.steps = state["steps"]
        self.base.load_state_dict(state["base"])
        if state["swa"] is not None:
            self.swa = self._begin_swa()
            self.swa.load_state_dict(state["swa"])

    def current(self) -> dict[str, float]:
        """The rate of each group, by its name."""
        return {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}


def planned_rates(groups: list[dict], config: Config, steps_per_epoch: int, total_steps: int) -> list[dict[str, float]]:
    """The rate of every group at each step, read off the real optimizer and schedule driven without a model."""
    stand_ins = [{**group, "params": [nn.Parameter(torch.zeros(1))]} for group in groups]
    rates = LearningRates(torch.optim.SGD(stand_ins, lr=config.lr), config, steps_per_epoch, total_steps)
    plan = []
    for _ in range(total_steps):
        plan.append(rates.current())
        rates.optimizer.step()
        rates.step()
    return plan
