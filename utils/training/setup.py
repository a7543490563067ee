"""What a training holds on to, and building all of it."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.data import tokens
from utils.data.tokens import Examples
from utils.machine import distributed, precision, runtime
from utils.machine.apex_amp import Apex
from utils.modeling.model import TextModel
from utils.tasks import Task, make_task
from utils.training import compiling
from utils.training.averaging import Averager
from utils.training.build import build_model, value_errors_as_input_errors
from utils.training.optim import make_optimizer, parameter_groups
from utils.training.schedules import LearningRates, count_steps, evaluates_after


@dataclass
class Training:
    """Everything that training one fold holds on to."""

    config: Config
    task: Task
    tokenizer: PreTrainedTokenizerBase
    train: Examples
    held_out: Examples
    targets: np.ndarray  # of the held-out rows, (rows, columns)
    model: TextModel
    wrapped: nn.Module  # the same model as the precision's backend wants it called
    optimizer: torch.optim.Optimizer
    rates: LearningRates
    averager: Averager | None
    choice: precision.Choice
    backend: precision.Native | Apex
    steps_per_epoch: int
    total_steps: int
    compiled: str = "off"  # or "on", or "graphs"
    compiled_before: float = 0.0  # seconds of compiling that this process spent on earlier trainings
    step: int = 0  # optimizer steps taken
    parts: int = 1  # that each micro-batch is cut into, since memory ran out
    losses: list[torch.Tensor] = field(default_factory=list)  # since the last evaluation, left on the device

    def batches(self, epoch: int) -> list[list[int]]:
        """Example numbers of the epoch's micro-batches, whole ones, whatever the number of devices."""
        return tokens.training_batches(self.train.lengths, self.config.batch_size, self.config.seed, epoch)

    def zero_grad(self) -> None:
        """Forget the gradients. CUDA graphs must find tensors outside their own memory, to add theirs to."""
        if self.compiled == "graphs":
            self.optimizer.zero_grad(set_to_none=False)
        else:
            self.optimizer.zero_grad()

    def compile_seconds(self) -> float:
        """What compiling has taken in this training so far."""
        return 0.0 if self.compiled == "off" else compiling.compile_seconds() - self.compiled_before

    def evaluation_due(self) -> bool:
        due = evaluates_after(self.step, self.config, self.steps_per_epoch)
        return due or self.step == self.total_steps


def prepare(config: Config, table: pd.DataFrame, fold: int) -> Training:
    """Build all that training ``fold`` of ``table`` needs.

    Writes nothing; raises InputError for what cannot work.
    """
    train_rows, held_out_rows = split_rows(table, fold)
    choice = precision.choose(config.precision)
    compiled = compiling.choose(config, choice, runtime.device())
    if config.weight_format != "fp32" and choice.name == "apex-O2":
        raise InputError(
            "weight_format rounds float32 weights, and apex-O2 trains float16 ones; set precision=fp32."
        )
    make_task(config, table).check_fold(train_rows, held_out_rows)
    runtime.seed_everything(config.seed)
    task = make_task(config, table, train_rows)
    with distributed.processes().main_process_first():  # which downloads it, or makes the tiny one
        model, tokenizer = build_model(config, task)
    train, held_out = (task.encode(rows, tokenizer) for rows in (train_rows, held_out_rows))
    backend = precision.make(choice)
    place_model(model, backend.device, choice)
    task.loss.to(backend.device)
    steps_per_epoch, total_steps = count_steps(config, len(train))
    with value_errors_as_input_errors():
        optimizer = make_optimizer(parameter_groups(model, config), config)
    averager = make_averager(model, config, steps_per_epoch, total_steps)
    wrapped, stepped = backend.prepare(model, optimizer)
    compiling.compile_models(compiled, wrapped, None if averager is None else averager.model)
    if process := distributed.processes().process_index:
        # The weights are the same in every process so far; dropout masks differ from here.
        set_seed(config.seed + process)
    # Made after amp.initialize, as Apex asks.
    rates = LearningRates(optimizer, config, steps_per_epoch, total_steps)
    return Training(
        config=config,
        task=task,
        tokenizer=tokenizer,
        train=train,
        held_out=held_out,
        targets=task.targets(held_out_rows),
        model=model,
        wrapped=wrapped,
        optimizer=stepped,
        rates=rates,
        averager=averager,
        choice=choice,
        backend=backend,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        compiled=compiled,
        compiled_before=0.0 if compiled == "off" else compiling.compile_seconds(),
    )


def split_rows(table: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows to train on and those that ``fold`` holds out."""
    if "fold" not in table.columns:
        raise InputError('the table has no column "fold"; call add_folds first.')
    train, held_out = table[table["fold"] != fold], table[table["fold"] == fold]
    if train.empty or held_out.empty:
        folds = sorted(set(table["fold"]))
        raise InputError(f"fold {fold} leaves no rows to train on or to hold out; choose from {folds}.")
    return train, held_out


def place_model(model: TextModel, device: torch.device, choice: precision.Choice) -> None:
    """Move the model to its device, with what makes a CPU fast."""
    model.to(device)
    if device.type == "cpu":
        runtime.keep_freed_memory()
        if choice.name == "bf16":  # in which torch's flash attention for CPUs costs a fifth of the whole step
            model.encoder.set_attn_implementation("eager")


def make_averager(
    model: TextModel, config: Config, steps_per_epoch: int, total_steps: int
) -> Averager | None:
    """The average of the weights that the Config asks for. Raises InputError if it would average nothing."""
    if config.averaging == "none":
        return None
    averager = Averager(model, config, steps_per_epoch)
    if not any(averager.is_due(step, total_steps) for step in range(total_steps + 1)):
        raise InputError(
            f"swa_start={config.swa_start:g} and swa_every={config.swa_every} average nothing in "
            f"{total_steps} steps; lower them."
        )
    return averager
