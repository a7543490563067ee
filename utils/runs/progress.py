"""What a fold has come to while it trains, beside the state of its optimizer, and its clock."""

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from utils.config import Config
from utils.tasks.metrics import Metric
from utils.training.setup import Training


@dataclass
class Progress:
    """What a fold has come to, beside its weights."""

    rows: list[dict] = field(default_factory=list)  # of history.csv
    best: np.ndarray | None = None  # held-out predictions of the weights in best/
    seconds: float = 0.0  # of training, in all sessions
    saved: float = 0.0  # seconds at which the last state was saved
    predictions: dict[str, np.ndarray] = field(default_factory=dict)  # of the last evaluation

    def out_of_patience(self, config: Config, metric: Metric) -> bool:
        """Whether ``patience`` evaluations have passed since the best, by the score of ``patience_on``."""
        column = metric.name if config.patience_on == "raw" else f"averaged_{metric.name}"
        scores = [row[column] for row in self.rows if not math.isnan(row[column])]
        return bool(scores) and 0 < config.patience <= len(scores) - 1 - metric.best(scores)


class Clock:
    """Counts the seconds of a training over all its sessions, and its speed since the last evaluation.

    Args:
        step: the optimizer step at which this session begins.
    """

    def __init__(self, progress: Progress, step: int):
        self.progress, self.before = progress, progress.seconds
        self.began = time.perf_counter()  # never goes back, whatever is done to the machine's clock
        self.resumed_at, self.first_step = self.began, step

    def tick(self) -> None:
        self.progress.seconds = self.before + time.perf_counter() - self.began

    def restart(self, step: int) -> None:
        """Training goes on after the evaluation that followed ``step``."""
        self.resumed_at, self.first_step = time.perf_counter(), step

    def samples_per_second(self, training: Training) -> float:
        """The speed of training since the last evaluation, in examples."""
        per_step = len(training.train) / training.steps_per_epoch
        return per_step * (training.step - self.first_step) / (time.perf_counter() - self.resumed_at)


def current_weights(training: Training, model: nn.Module) -> dict[str, torch.Tensor]:
    """``model``'s weights, as the float32 ones that the optimizer steps if it is the one in training."""
    weights = dict(model.state_dict())
    if model is training.model:
        names = [name for name, _ in model.named_parameters()]
        weights |= zip(names, training.backend.weights(), strict=True)
    return weights
