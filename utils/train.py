"""The training loop: what a training holds on to, its epochs, steps, predictions and evaluations."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object, send_to_device, set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from utils import data, devices, precision, runtime
from utils.averaging import Averager, refresh_batch_norm
from utils.config import Config, InputError
from utils.losses import LOSSES
from utils.lowprecision import round_weights
from utils.model import TextRegressor, build_model
from utils.optim import LearningRates, count_steps, make_optimizer, parameter_groups
from utils.predict import predict_batches


@dataclass
class Training:
    """Everything that training one fold holds on to."""

    config: Config
    tokenizer: PreTrainedTokenizerBase
    train: data.Texts
    held_out: data.Texts
    model: TextRegressor
    wrapped: nn.Module  # the same model as the precision's backend wants it called
    optimizer: torch.optim.Optimizer
    rates: LearningRates
    averager: Averager | None
    choice: precision.Choice
    backend: precision.Native | precision.Apex
    steps_per_epoch: int
    total_steps: int
    step: int = 0  # optimizer steps taken
    parts: int = 1  # that each micro-batch is cut into, since memory ran out
    losses: list[torch.Tensor] = field(default_factory=list)  # since the last evaluation, left on the device

    def batches(self, epoch: int) -> list[list[int]]:
        """Row numbers of the epoch's micro-batches, whole ones, whatever the number of devices."""
        return data.training_batches(self.train.lengths, self.config.batch_size, self.config.seed, epoch)

    def evaluation_due(self) -> bool:
        every = self.config.eval_every or self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps


def prepare(config: Config, table: pd.DataFrame, fold: int) -> Training:
    """Build all that training ``fold`` of ``table`` needs. Writes nothing; raises InputError for what cannot work."""
    if "fold" not in table.columns:
        raise InputError('the table has no column "fold"; call add_folds first.')
    inside, outside = table[table["fold"] != fold], table[table["fold"] == fold]
    if inside.empty or outside.empty:
        folds = sorted(set(table["fold"]))
        raise InputError(f"fold {fold} leaves no rows to train on or to hold out; choose from {folds}.")
    choice = precision.choose(config.precision)
    runtime.seed_everything(config.seed)
    targets = inside[list(config.target_columns)].to_numpy(dtype=float)
    spread = np.where(np.ptp(targets, axis=0) > 0, targets.std(axis=0), 1.0)
    location_and_scale = (targets.mean(axis=0).tolist(), spread.tolist()) if config.standardize else (None, None)
    with devices.processes().main_process_first():  # which downloads it, or makes the tiny one
        model, tokenizer = build_model(config, *location_and_scale)
    train, held_out = (data.Texts.of(rows, tokenizer, config) for rows in (inside, outside))

    backend = precision.make(choice)
    model.to(backend.device)
    if backend.device.type == "cpu":
        runtime.keep_freed_memory()
        if choice.name == "bf16":  # in which torch's flash attention for CPUs costs a fifth of the whole step
            model.encoder.set_attn_implementation("eager")
    steps_per_epoch, total_steps = count_steps(config, len(train.ids))
    optimizer = make_optimizer(parameter_groups(model, config), config)
    averager = Averager(model, config, steps_per_epoch) if config.averaging != "none" else None
    if averager is not None and not any(averager.due(step, total_steps) for step in range(total_steps + 1)):
        raise InputError(
            f"swa_start={config.swa_start:g} and swa_every={config.swa_every} average nothing in {total_steps} steps; "
            "lower them."
        )
    if config.weight_format != "fp32" and choice.name == "apex-O2":
        raise InputError("weight_format rounds float32 weights, and apex-O2 trains float16 ones; set precision=fp32.")
    wrapped, stepped = backend.prepare(model, optimizer)
    if process := devices.processes().process_index:
        set_seed(config.seed + process)  # the same weights in every process so far, other dropout masks from here
    rates = LearningRates(optimizer, config, steps_per_epoch, total_steps)  # after amp.initialize, as Apex asks
    return Training(
        config, tokenizer, train, held_out, model, wrapped, stepped, rates, averager, choice, backend,
        steps_per_epoch, total_steps,
    )  # fmt: skip


def train_epoch(training: Training, epoch: int) -> Iterator[int]:
    """Train for one epoch, or for what the last one has left; yields after each optimizer step.

    Forward, backward, clip, step, average, in this order. The batches are a function of (seed, epoch), so that a
    resumed training finds its place in them; the seed is not set again, so that each epoch has its own dropout masks.
    """
    config, backend, averager = training.config, training.backend, training.averager
    loss, weights = LOSSES[config.loss], backend.weights()
    batches = training.batches(epoch)[training.step % training.steps_per_epoch * config.accumulation_steps :]
    shares = [devices.share(batch) for batch in batches]
    loader = iter(data.make_loader(training.train, [*filter(None, shares)], training.tokenizer, config.num_workers))
    for start in range(0, len(batches), config.accumulation_steps):
        step = slice(start, start + config.accumulation_steps)
        micro_batches = list(islice(loader, sum(map(bool, shares[step]))))
        mean = add_gradients(training, micro_batches, sum(map(len, batches[step])))
        if loss.slope is not None:
            torch._foreach_mul_([w.grad for w in weights if w.grad is not None], loss.slope(mean))
        backend.clip(config.max_grad_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.rates.step()
        training.step += 1
        if config.weight_format != "fp32":
            round_weights(weights, config.weight_format, config.seed * 1_000_003 + training.step)
        if averager is not None and averager.due(training.step, training.total_steps):
            averager.update(training.model, weights)
        training.losses.append(loss.outer(mean))
        yield training.step
        if training.step == training.total_steps:
            return


def add_gradients(training: Training, micro_batches: list[tuple], n_texts: int) -> torch.Tensor:
    """Forward and backward of one step's micro-batches; returns the mean elementwise loss over all of them.

    Where a device's memory runs out, the micro-batches are halved, for this step, which is repeated from the same
    random state, and for all that follow. Raises InputError when a single text is too much.

    Args:
        micro_batches: this process's share of them.
        n_texts: in the micro-batches of all processes.
    """
    backend, elementwise = training.backend, LOSSES[training.config.loss].elementwise
    # Errors are counted in units of the targets' scale, so that one learning rate suits 0 to 100 as well as -3 to 2.
    scale = training.model.target_std.float()
    n_errors = n_texts * len(scale)
    training.wrapped.train()
    while True:
        states = runtime.random_states(backend.device)
        parts = [part for batch in micro_batches for part in split(batch, training.parts)]
        mean = torch.zeros((), device=backend.device)
        try:
            for i, part in enumerate(parts):
                inputs, labels = send_to_device(part, backend.device, non_blocking=True)
                scores = training.wrapped(**inputs)["logits"]  # Apex O2 makes a plain dict of it
                share = elementwise(scores / scale, labels / scale).sum() / n_errors
                backend.backward(share, last=i + 1 == len(parts))
                mean += share.detach()
            if not parts:  # fewer texts than processes
                nothing = sum(weight.sum() for weight in training.model.parameters()) * 0
                backend.backward(nothing, last=True)
            devices.add_up(mean)
            return mean
        except torch.OutOfMemoryError as error:
            if not isinstance(error, devices.OutOfMemoryElsewhere):
                devices.largest(1)  # which the others wait to hear before they add up gradients
        if training.parts >= training.config.batch_size:
            raise InputError(
                "the device's memory does not hold one text at a time; lower max_length or take a smaller encoder."
            )
        training.parts *= 2
        inputs = labels = scores = share = None  # their graph would stay on the device beside the next attempt's
        training.optimizer.zero_grad()
        if backend.device.type == "cuda":
            torch.cuda.empty_cache()
        runtime.restore_random_states(states, backend.device)
        print(
            f"Step {training.step + 1}: out of memory, so micro-batches are taken in {training.parts} parts from here."
        )


def split(batch: tuple[dict[str, torch.Tensor], torch.Tensor], parts: int) -> list[tuple]:
    """A batch's rows in up to ``parts`` batches."""
    inputs, labels = batch
    pieces = {name: value.chunk(parts) for name, value in inputs.items()}
    return [({name: pieces[name][i] for name in pieces}, piece) for i, piece in enumerate(labels.chunk(parts))]


def predict(training: Training, model: nn.Module, texts: data.Texts) -> np.ndarray:
    """Scores of all texts, (rows, targets), in the order of the rows, in the precision of the training.

    Each process scores a share of the batches, and every process gets all scores.
    """
    config, device = training.config, training.backend.device
    batches = devices.share(data.evaluation_batches(texts.lengths, config.eval_batch_size))
    with training.backend.autocast():
        found = predict_batches(model, texts, batches, training.tokenizer, device, config.num_workers)
    scores = np.empty_like(texts.targets)
    for rows, values in gather_object(found):
        scores[rows] = values
    return scores


def evaluate(training: Training) -> dict[str, np.ndarray]:
    """Held-out predictions of the raw weights ("last") and, once there are any, of the averaged ones ("swa")."""
    predictions = {"last": predict(training, training.wrapped, training.held_out)}
    averager = training.averager
    if averager is not None and averager.n_averaged:
        loader = data.make_loader(training.train, training.batches(0), training.tokenizer)
        with training.backend.autocast():
            refresh_batch_norm(averager.model, (send_to_device(batch, training.backend.device) for batch in loader))
        predictions["swa"] = predict(training, averager.model, training.held_out)
    return predictions
