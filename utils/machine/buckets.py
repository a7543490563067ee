"""Gradients of several processes, summed while backward goes on."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from utils.machine import distributed

#: Bytes of a bucket: many small sums would cost more than they gain, as in DistributedDataParallel.
SIZE = 25 * 2**20


class Bucket:
    """Gradients of some weights, of one type, side by side in one tensor."""

    def __init__(self, weights: list[nn.Parameter]):
        self.weights = weights
        sizes = [weight.numel() for weight in weights]
        self.flat = torch.zeros(sum(sizes), dtype=weights[0].dtype, device=weights[0].device)
        parts = self.flat.split(sizes)
        self.views = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        self.missing = len(weights)  # gradients that backward has not come to

    def fill(self) -> None:
        """Copy the gradients; one that backward did not come to counts as 0."""
        for weight, view in zip(self.weights, self.views, strict=True):
            view.zero_() if weight.grad is None else view.copy_(weight.grad)


class GradientSums:
    """Sums a model's gradients over all processes, bucket by bucket, during a step's last backward pass.

    Every process sums every bucket once in each attempt at a step, in the same order. So does one whose
    memory has run out, with whatever its buckets hold: otherwise the others would wait for it forever, as in
    DistributedDataParallel. Then they hear of it, and all drop the sums. One process does nothing, and takes
    no memory for it.
    """

    def __init__(self, model: nn.Module):
        self.buckets: list[Bucket] = []
        self.pending: list[dist.Work] = []
        self.active = False
        if distributed.processes().num_processes == 1:
            return
        for weights in grouped([weight for weight in model.parameters() if weight.requires_grad]):
            bucket = Bucket(weights)
            self.buckets.append(bucket)
            for weight in weights:
                weight.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._note(bucket))

    @contextlib.contextmanager
    def during(self, last: bool) -> Iterator[None]:
        """Around a backward pass; after a step's ``last`` one, each gradient is its sum over all processes.

        Raises OutOfMemoryElsewhere, with the gradients as they were, if memory ran out in another process.
        """
        self.active = last and bool(self.buckets)
        yield
        if self.active:
            self._sum_rest()
            distributed.raise_if_out_of_memory_elsewhere()
            self._wait()
            for bucket in self.buckets:
                for weight, view in zip(bucket.weights, bucket.views, strict=True):
                    weight.grad = view

    def abandon(self, elsewhere: bool) -> None:
        """End an attempt at a step in which memory ran out, here or in another process (``elsewhere``)."""
        self._sum_rest(filled=False)
        if not elsewhere:
            distributed.all_reduce_max(1)  # which the others wait to hear
        self._wait()  # only now: another process may be waiting to hear, before it comes to its sums

    def _note(self, bucket: Bucket) -> None:
        """A weight of ``bucket`` has its gradient: sum the next buckets in order, as far as they are full."""
        if self.active:
            bucket.missing -= 1
            while len(self.pending) < len(self.buckets) and not self.buckets[len(self.pending)].missing:
                self._sum_next()

    def _sum_next(self, filled: bool = True) -> None:
        bucket = self.buckets[len(self.pending)]
        if filled:
            bucket.fill()
        self.pending.append(dist.all_reduce(bucket.flat, async_op=True))

    def _sum_rest(self, filled: bool = True) -> None:
        while len(self.pending) < len(self.buckets):
            self._sum_next(filled)

    def _wait(self) -> None:
        for work in self.pending:
            work.wait()
        self.pending.clear()
        self.active = False
        for bucket in self.buckets:
            bucket.missing = len(bucket.weights)


def grouped(weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Weights in groups of one type and about ``SIZE`` bytes, the last first, as backward comes to them."""
    group: list[nn.Parameter] = []
    for weight in reversed(weights):
        if group and (weight.dtype != group[0].dtype or sum(w.nbytes for w in group) >= SIZE):
            yield group
            group = []
        group.append(weight)
    if group:
        yield group
