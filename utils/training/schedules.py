"""The learning rate of every group over the run, warm-up and SWA's own phase included."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import SWALR
from transformers import get_scheduler

from utils.config import Config

SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
}  # transformers' names


def count_steps(config: Config, n_rows: int) -> tuple[int, int]:
    """Optimizer steps in an epoch of ``n_rows`` training rows, and in the whole run."""
    per_epoch = math.ceil(math.ceil(n_rows / config.batch_size) / config.accumulation_steps)
    return per_epoch, math.ceil(round(config.epochs * per_epoch, 6))


class LearningRates:
    """Every group's learning rate, step by step: warm-up, base schedule, and from ``swa_start`` SWA's phase.

    SWA wants a constant, fairly high rate, so that the weights it averages lie apart (Izmailov et al. 2018,
    arXiv:1803.05407). Each group anneals to its own: ``swa_lr_factor`` times its peak, so that layer-wise
    rates survive. A flat rate for all groups, as published (``swa_flat_lr``), lifts the lowest layers far
    above their peak.

    Args:
        optimizer: the plain torch optimizer; made after ``amp.initialize`` where Apex is used.
        steps_per_epoch, total_steps: optimizer steps.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int, total_steps: int
    ):
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
            swa_lr=[flat or self.config.swa_lr_factor * peak for peak in self.peaks],  # type: ignore[arg-type]
            anneal_epochs=round(self.config.swa_anneal_epochs * self.steps_per_epoch),
            anneal_strategy=self.config.swa_anneal,  # type: ignore[arg-type]
        )

    def state_dict(self) -> dict:
        """Where the schedules are; the rates themselves lie in the optimizer's state."""
        return {
            "steps": self.steps,
            "base": self.base.state_dict(),
            "swa": self.swa and self.swa.state_dict(),
        }

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


def planned_rates(
    groups: list[dict], config: Config, steps_per_epoch: int, total_steps: int
) -> list[dict[str, float]]:
    """The rate of every group at each step, read off the real schedules, driven without a model."""
    stand_ins = [{**group, "params": [nn.Parameter(torch.zeros(1))]} for group in groups]
    rates = LearningRates(torch.optim.SGD(stand_ins, lr=config.lr), config, steps_per_epoch, total_steps)
    plan = []
    for _ in range(total_steps):
        plan.append(rates.current())
        rates.optimizer.step()
        rates.step()
    return plan
