"""What to do when a device's memory runs out: the same step again, in smaller parts."""

from collections.abc import Callable

import torch

from utils.config import InputError
from utils.data.tokens import Batch
from utils.machine import distributed, runtime
from utils.training.setup import Training


def retry_in_smaller_parts(
    training: Training,
    micro_batches: list[Batch],
    add_gradients: Callable[[Training, list[Batch]], torch.Tensor],
) -> torch.Tensor:
    """What ``add_gradients`` returns for one step's micro-batches.

    Where a device's memory runs out, the micro-batches are halved, for this step, which is repeated from the
    same random state, and for all that follow. Raises InputError when a single text is too much.
    """
    device = training.backend.device
    while True:
        states = runtime.random_states(device)
        try:
            return add_gradients(
                training, [part for batch in micro_batches for part in batch.split(training.parts)]
            )
        except torch.OutOfMemoryError as error:
            training.backend.sums.abandon(isinstance(error, distributed.OutOfMemoryElsewhere))
        # The error is gone from here on, and with it the failed attempt's graph.
        if training.parts >= training.config.batch_size:
            raise InputError(
                "the device's memory does not hold one text at a time; lower max_length or take a smaller "
                "encoder."
            )
        training.parts *= 2
        training.zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        runtime.restore_random_states(states, device)
        runtime.say(
            f"Step {training.step + 1}: out of memory, so micro-batches are taken in {training.parts} parts "
            "from here."
        )
