"""What our own loop does beside stepping, for any loop that says when it has stepped and evaluated."""

import contextlib

import numpy as np
import torch

from utils.config import InputError
from utils.data.table import fingerprint
from utils.machine import distributed
from utils.machine.runtime import display_path
from utils.runs import artifacts
from utils.runs.fold import describe, finish, record
from utils.runs.guards import check_divergence, lock_fold
from utils.runs.progress import Clock, Progress
from utils.runs.samples import Sampler
from utils.trainers.shared import Fold
from utils.training.loop import predict, predict_averaged


class Observer:
    """Looks on at a training. Each method may be left as it is.

    Args:
        progress: what the observers of a training share.
    """

    def __init__(self, fold: Fold, progress: Progress):
        self.fold, self.progress, self.training = fold, progress, fold.training

    def begin(self, loop: str) -> None:
        """Training is about to begin, in a loop of this name."""

    def stepped(self) -> None:
        """``training.step`` has been counted up; its loss is the last of ``training.losses``."""

    def evaluated(self) -> None:
        """``progress.predictions`` has the raw weights' predictions of the held-out rows, as "last"."""

    def end(self, reason: str) -> None:
        """Training is over; ``reason``: as in result.json, "" at the end of the plan."""


class AverageWeights(Observer):
    """SWA, or EMA, as the Config says. The rates of SWA's phase, a group's own each, are the schedule's."""

    def stepped(self) -> None:
        training, averager = self.training, self.training.averager
        if averager is not None and averager.is_due(training.step, training.total_steps):
            averager.update(training.model, list(training.model.parameters()))

    def evaluated(self) -> None:
        self.progress.predictions |= predict_averaged(self.training)


class KeepFold(Observer):
    """Leaves the folder that our own loop leaves, with a history, the best weights and a seal."""

    def begin(self, loop: str) -> None:
        config, folder, self.stack = self.fold.config, self.fold.folder, contextlib.ExitStack()
        if not config.retrain and artifacts.is_finished(folder):
            raise InputError(
                f"{display_path(folder)} is finished already; set retrain=True, or another run."
            )
        self.stack.enter_context(lock_fold(folder))
        metadata = describe(self.training, self.fold.table, fingerprint(self.fold.table, config))
        distributed.run_on_main(lambda: artifacts.start_fold(folder, metadata | {"loop": loop}))
        self.clock = Clock(self.progress, self.training.step)

    def stepped(self) -> None:
        check_divergence(self.training)
        self.clock.tick()
        if self.training.evaluation_due():
            self.train_loss = float(torch.stack(self.training.losses).mean())
            self.speed = self.clock.samples_per_second(self.training)

    def evaluated(self) -> None:
        record(self.training, self.fold.folder, self.progress, self.train_loss, self.speed)
        self.clock.tick()
        self.clock.restart(self.training.step)

    def end(self, reason: str) -> None:
        with self.stack:
            finish(self.training, self.fold.table, self.fold.folder, self.progress, reason)


class ShowSamples(Observer):
    """Has the same few held-out rows shown as training goes on, in the fold's samples.jsonl as well."""

    def begin(self, loop: str) -> None:
        self.fold.folder.mkdir(parents=True, exist_ok=True)
        self.sampler = Sampler(self.training, self.fold.table, self.fold.folder, self.progress)

    def stepped(self) -> None:
        if not self.training.evaluation_due():
            self.sampler.look(evaluated=False)

    def evaluated(self) -> None:
        self.sampler.look(evaluated=True)


class Observers:
    """Some observers of one training, told in this order; a loop's callback hands on what it hears."""

    def __init__(self, fold: Fold, *kinds: type[Observer]):
        self.fold, self.kinds = fold, kinds or (AverageWeights, KeepFold, ShowSamples)

    def begin(self, loop: str) -> None:
        self.training, self.progress = self.fold.training, Progress()
        self.members = [kind(self.fold, self.progress) for kind in self.kinds]
        for member in self.members:
            member.begin(loop)

    def stepped(self, loss: torch.Tensor) -> None:
        """After each optimizer step; ``loss``: of the whole batch."""
        self.training.step += 1
        self.training.losses.append(loss.detach())
        for member in self.members:
            member.stepped()

    def evaluated(self, predictions: np.ndarray) -> bool:
        """After an evaluation, with the held-out rows' predictions, (rows, columns); whether to stop."""
        if self.training.evaluation_due():
            self.progress.predictions = {"last": predictions}
            for member in self.members:
                member.evaluated()
        return self.progress.out_of_patience(self.fold.config, self.training.task.metric)

    def end(self) -> None:
        """After the last step, with an evaluation if that had none."""
        training, rows = self.training, self.progress.rows
        stopped = self.progress.out_of_patience(self.fold.config, training.task.metric)
        if not stopped and rows and rows[-1]["step"] != training.step and training.evaluation_due():
            self.evaluated(predict(training, training.wrapped, training.held_out))
        for member in self.members:
            member.end("patience" if stopped else "")
