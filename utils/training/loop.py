"""The training loop: epochs, steps and evaluations."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from accelerate.utils import gather_object, send_to_device
from torch import nn

from utils.data import tokens
from utils.data.tokens import Batch, Examples
from utils.machine import distributed, runtime
from utils.training.batch_norm import refresh_batch_norm
from utils.training.lowprecision import round_weights
from utils.training.masks import known_padding
from utils.training.memory import retry_in_smaller_parts
from utils.training.predict import decode, predict_batches
from utils.training.setup import Training


def train_epoch(training: Training, epoch: int) -> Iterator[int]:
    """Train for one epoch, or for what the last one has left; yields after each optimizer step.

    Forward, backward, clip, step, average, in this order. The batches are a function of (seed, epoch), so
    that a resumed training finds its position in them. The seed is not set again: each epoch has its own
    dropout masks.
    """
    config, loss, weights = training.config, training.task.loss, training.backend.weights()
    for micro_batches in steps_of_epoch(training, epoch):
        means = retry_in_smaller_parts(training, micro_batches, add_gradients)
        training.backend.clip(config.max_grad_norm)
        training.optimizer.step()
        training.zero_grad()
        training.rates.step()
        training.step += 1
        if config.weight_format != "fp32":
            round_weights(weights, config.weight_format, config.seed * 1_000_003 + training.step)
        if training.averager is not None and training.averager.is_due(training.step, training.total_steps):
            training.averager.update(training.model, weights)
        training.losses.append(loss.reduce(means))
        yield training.step
        if training.step == training.total_steps:
            return


def steps_of_epoch(training: Training, epoch: int) -> Iterator[list[Batch]]:
    """This process's micro-batches of each remaining step; none where processes outnumber examples."""
    size = training.config.accumulation_steps
    batches = training.batches(epoch)[training.step % training.steps_per_epoch * size :]
    shards = [distributed.shard(batch) for batch in batches]
    loader = iter(
        tokens.make_loader(
            training.train, [*filter(None, shards)], training.tokenizer, training.config.num_workers
        )
    )
    for start in range(0, len(batches), size):
        yield list(islice(loader, sum(map(bool, shards[start : start + size]))))


def add_gradients(training: Training, batches: list[Batch]) -> torch.Tensor:
    """Forward and backward of one step: this process's share of the examples, in any number of batches.

    Returns:
        The means of the loss's statistics over the examples of all processes, (n_statistics,).
    """
    task, loss, backend = training.task, training.task.loss, training.backend
    counts = torch.zeros(loss.n_statistics)
    for batch in batches:
        counts += task.counts(batch)
    counts = runtime.to_device(counts, backend.device)
    distributed.all_reduce_sum(counts)
    training.wrapped.train()
    two_passes = loss.n_statistics > 1 and not loss.is_additive
    slopes = loss_slopes(training, batches, counts) if two_passes else torch.ones_like(counts)
    means = torch.zeros_like(counts)
    for i, batch in enumerate(batches):
        shares = forward(training, batch) / counts
        backend.backward((slopes * shares).sum(), last=i + 1 == len(batches))
        means += shares.detach()
    if not batches:  # fewer examples than processes
        nothing = sum(weight.sum() for weight in training.model.parameters()) * 0
        backend.backward(nothing, last=True)
    distributed.all_reduce_sum(means)
    if loss.n_statistics == 1 and not loss.is_additive:  # one slope can wait, and saves a pass for the means
        gradients = [weight.grad for weight in backend.weights() if weight.grad is not None]
        torch._foreach_mul_(gradients, loss.slopes(means)[0])
    return means


def forward(training: Training, batch: Batch) -> torch.Tensor:
    """The sums of the loss's statistics over a batch, (n_statistics,)."""
    with known_padding(batch):
        batch = send_to_device(batch, training.backend.device, non_blocking=True)
        outputs = training.wrapped(**batch.inputs, extras=batch.extras)  # Apex O2 makes a plain dict of it
    return training.task.statistics(outputs, batch)


@torch.no_grad()
def loss_slopes(training: Training, batches: list[Batch], counts: torch.Tensor) -> torch.Tensor:
    """The loss's derivative with respect to each statistic's mean, taken at the means of the whole batch.

    The random state is put back, so that the pass with gradients draws the same dropout masks.
    """
    states = runtime.random_states(training.backend.device)
    means = torch.zeros_like(counts)
    for batch in batches:
        means += forward(training, batch) / counts
    distributed.raise_if_out_of_memory_elsewhere()
    distributed.all_reduce_sum(means)
    runtime.restore_random_states(states, training.backend.device)
    return training.task.loss.slopes(means)


def predict(training: Training, model: nn.Module, examples: Examples) -> np.ndarray:
    """The task's predictions for all rows, (rows, columns), in the precision of the training.

    Each process reads a share of the batches, and every process gets all predictions.
    """
    config = training.config
    batches = distributed.shard(tokens.evaluation_batches(examples.lengths, config.eval_batch_size))
    with training.backend.autocast():
        pairs = predict_batches(
            model, examples, batches, training.tokenizer, training.backend.device, config.num_workers
        )
    return decode(training.task, examples, gather_object(pairs))


def evaluate(training: Training) -> dict[str, np.ndarray]:
    """Held-out predictions of the raw weights ("last") and, once there are any, of the averaged ones."""
    return {"last": predict(training, training.wrapped, training.held_out), **predict_averaged(training)}


def predict_averaged(training: Training) -> dict[str, np.ndarray]:
    """Held-out predictions of the averaged weights, by their name; none before the first average."""
    averager = training.averager
    if averager is None or not averager.n_averaged:
        return {}
    loader = tokens.make_loader(training.train, training.batches(0), training.tokenizer)
    with training.backend.autocast():
        refresh_batch_norm(
            averager.model, (send_to_device(batch, training.backend.device) for batch in loader)
        )
    return {"averaged": predict(training, averager.model, training.held_out)}
