"""What another loop takes from us: the parts of a fold, its batches, and the loss of a step."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader

from utils.config import Config, InputError
from utils.data import tokens
from utils.data.tokens import Batch
from utils.machine import distributed, precision
from utils.training.setup import Training, prepare

#: Settings that are our own loop's work.
OURS = ["accumulation_steps", "weight_format", "compile", "save_every", "save_minutes", "time_limit_hours"]
OURS += ["resume_from", "eval_from"]


@dataclass
class Fold:
    """A fold for another loop to train."""

    config: Config
    table: pd.DataFrame  # from ``load_table`` and ``add_folds``

    @functools.cached_property
    def training(self) -> Training:
        """Model, task, optimizer, rates and examples; to be asked for once the loop has its processes.

        Raises InputError for what cannot work in another loop.
        """
        check_settings(self.config)
        if torch.distributed.is_initialized():
            AcceleratorState._reset_state(True)  # from before there were several
        return prepare(self.config, self.table, self.config.fold)

    def train_loader(self) -> DataLoader:
        """The batches of an epoch, this process's share of each."""
        training, workers = self.training, self.config.num_workers
        return tokens.make_loader(training.train, EpochBatches(training), training.tokenizer, workers)

    def held_out_batches(self) -> list[list[int]]:
        """Example numbers of the held-out rows, this process's share of the batches."""
        lengths, size = self.training.held_out.lengths, self.config.eval_batch_size
        return distributed.shard(tokens.evaluation_batches(lengths, size))


class EpochBatches:
    """The example numbers of an epoch's batches, the same as in our loop, as a batch sampler."""

    def __init__(self, training: Training):
        self.training, self.epoch = training, 0
        self.sampler = self.batch_sampler = self  # where Lightning and the Trainer look for set_epoch
        number, size = distributed.processes().num_processes, training.config.batch_size
        if (rest := len(training.train) % size or size) < number:
            message = f"batch_size={size} leaves a batch of {rest} for {number} processes; set another one."
            raise InputError(message)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.training.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        return map(distributed.shard, self.training.batches(self.epoch))


def step_loss(training: Training, model: nn.Module, batch: Batch) -> torch.Tensor:
    """A scalar with the value of the whole batch's loss, and this process's share of its gradient.

    A mean over processes gives no root or ratio. So each goes backward from its share of the whole batch's
    loss, times their number, by which DistributedDataParallel divides.
    """
    loss, outputs = training.task.loss, model(**batch.inputs, extras=batch.extras)
    counts = training.task.counts(batch).to(batch.targets.device)
    distributed.all_reduce_sum(counts)
    shares = training.task.statistics(outputs, batch) / counts
    means = shares.detach().clone()
    distributed.all_reduce_sum(means)
    own = (loss.slopes(means) * shares).sum() * distributed.processes().num_processes
    return own + (loss.reduce(means) - own).detach()


def check_settings(config: Config) -> str:
    """The precision's name. Raises InputError for a setting that only our own loop carries out."""
    for name in OURS:
        if (value := getattr(config, name)) != getattr(Config, name):
            raise InputError(f"{name}={value} is for our own loop; leave it out, or use fit_fold.")
    if (name := precision.choose(config.precision).name).startswith("apex"):
        raise InputError("Apex needs our own loop; set precision to fp16, bf16 or fp32, or use fit_fold.")
    return name
