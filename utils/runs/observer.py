"""What our own loop does beside stepping, for another loop that says when it has stepped and evaluated."""

import contextlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from utils.config import InputError
from utils.data.table import fingerprint
from utils.machine import distributed
from utils.machine.runtime import display_path, say
from utils.runs import artifacts, checkpoint, results
from utils.runs.fold import describe, finish, record, snapshot_steps
from utils.runs.guards import check_disk_space, check_divergence, lock_fold
from utils.runs.progress import Clock, Progress
from utils.runs.resume import check_second_stage
from utils.runs.samples import Sampler
from utils.tasks import find_leaks
from utils.training.loop import predict, predict_averaged
from utils.training.probe import probe
from utils.training.setup import Training


class Observer:
    """Averages the weights, shows the samples, and leaves the folder that our own loop leaves.

    The rates of SWA's phase, a group's own each, are the schedule's (``training.rates``).

    Args:
        keep: whether to show samples and leave a folder; False: only average.
    """

    _locks: ClassVar[dict[Path, contextlib.ExitStack]] = {}  # of this process's trainings, by folder

    def __init__(self, keep: bool = True):
        self.keep = keep

    def begin(self, training: Training, table: pd.DataFrame, loop: str) -> None:
        """Training is about to begin, in a loop of this name, which run.json keeps.

        Raises InputError for what cannot work, and for a fold that is finished, or that our own loop has not
        ended, unless it is to be trained anew.
        """
        self.training, self.table, self.progress = training, table, Progress()
        self.clock, self.folder = Clock(self.progress, training.step), artifacts.fold_folder(training.config)
        if not self.keep:
            return
        if not training.config.retrain:
            self._check_folder()
        data = fingerprint(table, training.config)
        check_second_stage(training.config, data)
        probe(training)
        self._locks.pop(self.folder, contextlib.ExitStack()).close()  # left by one that was interrupted here
        self._locks[self.folder] = self.stack = contextlib.ExitStack()
        self.stack.enter_context(lock_fold(self.folder))
        metadata = describe(training, table, data) | {"loop": loop}
        distributed.run_on_main(lambda: check_disk_space(training, self.folder))
        distributed.run_on_main(lambda: artifacts.start_fold(self.folder, metadata))
        if leaks := distributed.run_on_main(lambda: find_leaks(table, training.task)):
            say(leaks)
        self.sampler = Sampler(training, table, self.folder, self.progress)
        self.snapshots = snapshot_steps(training)

    def _check_folder(self) -> None:
        """Raise InputError for a folder that has what must not be lost."""
        where = display_path(self.folder)
        if artifacts.is_finished(self.folder):
            raise InputError(f"{where} is finished already; set retrain=True, or another run.")
        if checkpoint.latest(self.folder / "state"):
            raise InputError(
                f"{where} holds a training of our own loop that has not ended; end it with fit_fold, or set "
                "retrain=True, or another run."
            )

    def stepped(self, loss: torch.Tensor) -> None:
        """After each optimizer step and the schedule's; ``loss``: of the whole batch, a scalar."""
        training, averager = self.training, self.training.averager
        training.step += 1
        training.losses.append(loss.detach())
        if averager is not None and averager.is_due(training.step, training.total_steps):
            averager.update(training.model, training.backend.weights())
        check_divergence(training)
        self.clock.tick()
        if training.evaluation_due():
            self.train_loss = float(torch.stack(training.losses).mean())
            self.speed = self.clock.samples_per_second(training)
        elif self.keep:
            self.sampler.look(evaluated=False)
        if self.keep and training.step in self.snapshots:
            distributed.run_on_main(lambda: results.save_snapshot(training, self.folder / "snapshots"))

    def evaluated(self, predictions: np.ndarray) -> bool:
        """After an evaluation of the held-out rows, (rows, columns); whether patience is at an end."""
        if self.keep and self.training.evaluation_due():
            self.progress.predictions = {"last": predictions, **predict_averaged(self.training)}
            record(self.training, self.folder, self.progress, self.train_loss, self.speed)
            self.sampler.look(evaluated=True)
            self.clock.tick()
            self.clock.restart(self.training.step)
        return self.progress.out_of_patience(self.training.config, self.training.task.metric)

    def end(self) -> None:
        """After the last step; evaluates where that was due and has not been done."""
        training, rows = self.training, self.progress.rows
        if not self.keep:
            return
        if training.evaluation_due() and not (rows and rows[-1]["step"] == training.step):
            self.evaluated(predict(training, training.wrapped, training.held_out))
        stopped = self.progress.out_of_patience(training.config, training.task.metric)
        with self.stack:
            finish(training, self.table, self.folder, self.progress, "patience" if stopped else "")
