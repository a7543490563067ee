"""Averages of the weights along the run: SWA, a plain mean, and EMA, an exponential moving average."""

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from utils.config import Config


class Averager:
    """The averaged weights, in a model of their own, kept in float32 whatever the precision of training.

    SWA (Izmailov et al. 2018, arXiv:1803.05407) takes the plain mean of the weights at the end of each epoch
    after ``swa_start``, or every ``swa_every`` steps. EMA moves by a factor 1 - ``ema_decay`` every
    ``swa_every`` steps, or every step.

    Args:
        model: copied, so it must not yet be wrapped or cast (Apex O2 replaces its forward by a closure).
        steps_per_epoch: optimizer steps.
    """

    def __init__(self, model: nn.Module, config: Config, steps_per_epoch: int):
        self.start = round(config.swa_start * steps_per_epoch)
        ema = config.averaging == "ema"
        self.every = config.swa_every or (1 if ema else steps_per_epoch)
        self.at_epoch_ends = not ema and not config.swa_every
        self._average = get_ema_multi_avg_fn(config.ema_decay) if ema else get_swa_multi_avg_fn()
        self._averaged = AveragedModel(model)

    @property
    def model(self) -> nn.Module:
        return self._averaged.module

    @property
    def n_averaged(self) -> int:
        return int(self._averaged.n_averaged)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights and how many went into them."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._averaged.load_state_dict(state)

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether the weights after optimizer step ``step`` (counted from 1) go into the average."""
        since_start = step - self.start
        if self.at_epoch_ends:
            return since_start > 0 and (step % self.every == 0 or step == last_step)
        return since_start > 0 and since_start % self.every == 0

    def snapshot_steps(self, number: int, last_step: int) -> set[int]:
        """``number`` of the steps whose weights are averaged, evenly spaced, first and last included."""
        steps = [step for step in range(1, last_step + 1) if self.is_due(step, last_step)]
        positions = np.linspace(0, len(steps) - 1, min(number, len(steps))).round().astype(int)
        return {steps[position] for position in positions}

    @torch.no_grad()
    def update(self, model: nn.Module, weights: list[torch.Tensor]) -> None:
        """Take ``weights``, the float32 tensors behind ``model.parameters()`` in order, into the average.

        In place, and not by ``update_parameters``, which reads the count on the device and so waits for it.
        """
        averaged: list[torch.Tensor] = list(self.model.parameters())
        if self.n_averaged:
            self._average(averaged, weights, self.n_averaged)
        else:
            torch._foreach_copy_(averaged, weights)
        for buffer, current in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(current)
        self._averaged.n_averaged += 1
