"""What another loop takes from us: the parts of a fold, its batches, and the loss of a step."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader

from utils.config import Config, InputError
from utils.data import tokens
from utils.data.tokens import Batch
from utils.machine import distributed, precision
from utils.runs import artifacts
from utils.training.setup import Training, prepare

#: Settings that are our own loop's work.
OURS_ALONE = ("accumulation_steps", "weight_format", "compile", "time_limit_hours", "save_every", "resume_from")


@dataclass
class Fold:
    """A fold for another loop to train, and the table it comes from."""

    config: Config
    table: pd.DataFrame  # from ``load_table`` and ``add_folds``

    @functools.cached_property
    def training(self) -> Training:
        """Model, task, optimizer, rates and examples, made when first asked for, in the process that trains.

        Raises InputError for what cannot work in another loop.
        """
        check_settings(self.config)
        if torch.distributed.is_initialized():
            AcceleratorState._reset_state(True)  # the loop may have started processes since we looked
        training = prepare(self.config, self.table, self.config.fold)
        check_shares(training)
        return training

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return artifacts.fold_folder(self.config)

    def train_loader(self) -> DataLoader:
        """The batches of an epoch, this process's share of each."""
        training, workers = self.training, self.config.num_workers
        return tokens.make_loader(training.train, EpochBatches(training), training.tokenizer, workers)

    def held_out_batches(self) -> list[list[int]]:
        """Example numbers of the held-out rows, this process's share of the batches."""
        lengths = self.training.held_out.lengths
        return distributed.shard(tokens.evaluation_batches(lengths, self.config.eval_batch_size))


class EpochBatches:
    """The example numbers of an epoch's batches, the same as in our loop, as a batch sampler."""

    def __init__(self, training: Training):
        self.training, self.epoch = training, 0
        self.sampler = self.batch_sampler = self  # where Lightning and the Trainer look for set_epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.training.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        return map(distributed.shard, self.training.batches(self.epoch))


def step_loss(training: Training, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss to go backward from, and the loss of the whole batch, both scalars.

    A loss need not be a mean over texts, so that a mean over processes is not it. Each process goes backward
    from its share of the whole batch's loss; it is multiplied by their number, since
    DistributedDataParallel divides by that.
    """
    loss, outputs = training.task.loss, model(**batch.inputs, extras=batch.extras)
    counts = training.task.counts(batch).to(batch.targets.device)
    distributed.all_reduce_sum(counts)
    shares = training.task.statistics(outputs, batch) / counts
    means = shares.detach().clone()
    distributed.all_reduce_sum(means)
    own = (loss.slopes(means) * shares).sum()
    return own * distributed.processes().num_processes, loss.reduce(means)


def check_settings(config: Config) -> None:
    """Raise InputError for a setting that only our own loop carries out."""
    for name in OURS_ALONE:
        if getattr(config, name) != getattr(Config, name):
            raise InputError(
                f"{name}={getattr(config, name)} is for our own loop; leave it out, or use fit_fold."
            )
    if precision.choose(config.precision).name.startswith("apex"):
        raise InputError("Apex needs our own loop; set precision to fp16, bf16 or fp32, or use fit_fold.")


def check_shares(training: Training) -> None:
    """Raise InputError if a process would find no example in an epoch's smallest batch."""
    number, size = distributed.processes().num_processes, training.config.batch_size
    smallest = len(training.train) % size or size
    if smallest < number:
        raise InputError(
            f"batch_size={size} leaves a batch of {smallest} for {number} processes; set another batch_size."
        )
