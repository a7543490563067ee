"""The learning rate of every group over the run, warm-up and SWA's own phase included."""

import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import SWALR
from transformers import get_scheduler

from utils.config import Config
from utils.training.optim import MOMENTUM

#: transformers' names. The scores of a plateau lower a rate that is constant otherwise.
SCHEDULES = {
    "cosine": "cosine_with_min_lr",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "plateau": "constant_with_warmup",
}


def count_steps(config: Config, n_rows: int) -> tuple[int, int]:
    """Optimizer steps in an epoch of ``n_rows`` training rows, and in the whole run."""
    per_epoch = math.ceil(math.ceil(n_rows / config.batch_size) / config.accumulation_steps)
    return per_epoch, math.ceil(round(config.epochs * per_epoch, 6))


def base_schedule(
    optimizer: torch.optim.Optimizer,
    config: Config,
    warmup_steps: int,
    steps_per_epoch: int,
    total_steps: int,
) -> LRScheduler:
    """The schedule that the Config names, before SWA's phase."""
    if config.schedule == "one_cycle":
        return one_cycle(optimizer, config, total_steps)
    if config.schedule == "step":
        every = max(1, round(config.lr_step_epochs * steps_per_epoch))
        share = functools.partial(step_share, warmup_steps=warmup_steps, every=every, factor=config.lr_factor)
        return LambdaLR(optimizer, share)
    options = {"min_lr_rate": config.min_lr_ratio} if config.schedule == "cosine" else {}
    return get_scheduler(SCHEDULES[config.schedule], optimizer, warmup_steps, total_steps, options)


def step_share(step: int, *, warmup_steps: int, every: int, factor: float) -> float:
    """The share of its peak that a group's rate has: StepLR's, counted from the first step of the warm-up.

    torch's StepLR itself cannot follow a warm-up without counting from its end, in the middle of an epoch.
    """
    return factor ** (step // every) * (step / warmup_steps if step < warmup_steps else 1.0)


def one_cycle(optimizer: torch.optim.Optimizer, config: Config, total_steps: int) -> OneCycleLR:
    """A tenth of the steps up from a tenth of the peak, the rest down to a thousandth (arXiv:1708.07120).

    Momentum goes the other way, 0.95 to 0.85 and back: Adam's first beta, or SGD's momentum. MADGRAD's
    "momentum" averages the weights, not the gradients, and stays as it is.
    """
    steps = max(total_steps, 2)  # torch divides by zero where the climb is a single step
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=max(0.1, 2 / steps),
        div_factor=10,
        final_div_factor=100,
        cycle_momentum=config.optimizer != "madgrad",
        base_momentum=0.85,
        max_momentum=0.95,
    )


def on_plateau(optimizer: torch.optim.Optimizer, config: Config) -> ReduceLROnPlateau:
    """Multiplies the rates at the ``lr_patience``-th evaluation in turn that has no better score."""
    return ReduceLROnPlateau(
        optimizer,
        factor=config.lr_factor,
        patience=config.lr_patience - 1,  # torch waits for one evaluation more
        threshold=0,  # any better score is better, as for ``patience``
        min_lr=[config.min_lr_ratio * group["lr"] for group in optimizer.param_groups],
        eps=0,  # or small rates would stay where large ones fall
    )


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
        groups, warmup_steps = optimizer.param_groups, round(config.warmup_ratio * total_steps)
        self.peaks = [group["lr"] for group in groups]
        self.momenta: list[dict] = [
            {key: group[key] for key in ("momentum", "betas") if key in group} for group in groups
        ]
        self.plateau = on_plateau(optimizer, config) if config.schedule == "plateau" else None
        self.base = base_schedule(optimizer, config, warmup_steps, steps_per_epoch, total_steps)
        # A plateau's rates are its own after the warm-up; a cycle would turn again after the last step.
        last_steps = {"plateau": warmup_steps, "one_cycle": total_steps - 1}
        self.last_base_step = last_steps.get(config.schedule, total_steps)
        self.swa: SWALR | None = None

    def step(self) -> None:
        """Set the rates of the next optimizer step."""
        self.steps += 1
        if self.config.averaging == "swa" and self.steps >= self.swa_start_step:
            if self.swa is None:
                self.swa = self._begin_swa()
            else:
                self.swa.step()
        elif self.steps <= self.last_base_step:
            self.base.step()

    def evaluated(self, score: float, higher_is_better: bool = False) -> None:
        """Tell a plateau schedule the raw weights' score, after the step that it was taken at.

        It counts from the end of the warm-up to SWA's phase; NaN never counts.
        """
        if self.plateau and not self.swa and self.steps >= self.last_base_step and not math.isnan(score):
            self.plateau.step(-score if higher_is_better else score)

    def _begin_swa(self) -> SWALR:
        for group, momentum in zip(self.optimizer.param_groups, self.momenta, strict=True):
            group.update(momentum)  # as it was before a cycle
        flat = self.config.swa_flat_lr
        return SWALR(
            self.optimizer,
            swa_lr=[flat or self.config.swa_lr_factor * peak for peak in self.peaks],  # type: ignore[arg-type]
            anneal_epochs=round(self.config.swa_anneal_epochs * self.steps_per_epoch),
            anneal_strategy=self.config.swa_anneal,  # type: ignore[arg-type]
        )

    def state_dict(self) -> dict:
        """Where the schedules are; rates and momenta themselves lie in the optimizer's state."""
        return {
            "steps": self.steps,
            "base": self.base.state_dict(),
            "plateau": self.plateau and self.plateau.state_dict(),
            "swa": self.swa and self.swa.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go back to ``state``. To be called before the optimizer's, whose rates a new SWALR would change."""
        self.steps = state["steps"]
        self.base.load_state_dict(state["base"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
        if state["swa"] is not None:
            self.swa = self._begin_swa()
            self.swa.load_state_dict(state["swa"])

    def get_last_lr(self) -> list[float]:
        """The rate of each group, as torch's schedules give it and other trainers log it."""
        return list(self.current().values())

    def current(self) -> dict[str, float]:
        """The rate of each group, by its name."""
        return {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}


def evaluates_after(step: int, config: Config, steps_per_epoch: int) -> bool:
    """Whether an evaluation is due after a step, be it the last or not."""
    return step % (config.eval_every or steps_per_epoch) == 0 and step >= config.eval_from * steps_per_epoch


def drive(
    groups: list[dict], config: Config, steps_per_epoch: int, total_steps: int, scores: Sequence[float] = ()
) -> Iterator[LearningRates]:
    """The real schedules before each step of the plan, without a model.

    Args:
        scores: what a plateau is told at the evaluations in turn, lower ones better, then nothing more.
    """
    stand_ins = [{**group, "params": [nn.Parameter(torch.zeros(1))]} for group in groups]
    optimizer = torch.optim.SGD(stand_ins, lr=config.lr, momentum=MOMENTUM)
    rates = LearningRates(optimizer, config, steps_per_epoch, total_steps)
    told = iter(scores)
    for step in range(1, total_steps + 1):
        yield rates
        optimizer.step()
        rates.step()
        if evaluates_after(step, config, steps_per_epoch):
            rates.evaluated(next(told, math.nan))


def planned_rates(
    groups: list[dict], config: Config, steps_per_epoch: int, total_steps: int, scores: Sequence[float] = ()
) -> list[dict[str, float]]:
    """The rate of every group at each step, read off the real schedules (see ``drive``)."""
    return [rates.current() for rates in drive(groups, config, steps_per_epoch, total_steps, scores)]
