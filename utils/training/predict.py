"""Predictions of a model for some examples: in training, on a landscape, for a submission."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedTokenizerBase

from utils.data import tokens
from utils.data.tokens import Examples
from utils.machine import runtime
from utils.tasks import Task
from utils.training.masks import known_padding


@torch.no_grad()  # not inference_mode: Apex keeps casts of weights that training may meet again
def predict_batches(
    model: nn.Module,
    examples: Examples,
    batches: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    num_workers: int = 0,
    advance: Callable[[int], object] = lambda examples: None,
) -> list[tuple[int, np.ndarray]]:
    """Pairs of an example's number and its logits, (outputs,), in the order of the batches.

    Of a model that answers per token they are (tokens, outputs), without the padding. ``advance`` is called
    after each batch with how many examples it had.
    """
    model.eval()
    loader = tokens.make_loader(examples, batches, tokenizer, num_workers)
    logits, masks = [], []
    for batch in loader:
        masks.append(batch.inputs["attention_mask"].numpy().astype(bool))
        with known_padding(batch):
            inputs, _, extras = send_to_device(batch, device, non_blocking=True)
            logits.append(model(**inputs, extras=extras)["logits"].clone())  # CUDA graphs use it again
        advance(len(masks[-1]))
    arrays = [part.cpu().double().numpy() for part in logits]
    return [
        (number, values if values.ndim == 1 else values[kept])
        for numbers, array, mask in zip(batches, arrays, masks, strict=True)
        for number, values, kept in zip(numbers, array, mask, strict=True)
    ]


def decode(task: Task, examples: Examples, pairs: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """The task's predictions, (rows, columns), from ``predict_batches``'s pairs, in whatever order."""
    logits = dict(pairs)
    return task.decode([logits[number] for number in range(len(examples))], examples)


def predict_examples(
    model: nn.Module, task: Task, examples: Examples, tokenizer: PreTrainedTokenizerBase, **options
) -> np.ndarray:
    """The task's predictions for all rows, (rows, columns), in float32 on the device there is.

    ``options``: of ``predict_batches``.
    """
    batches = tokens.evaluation_batches(examples.lengths, task.config.eval_batch_size)
    device = runtime.device()
    pairs = predict_batches(model.to(device), examples, batches, tokenizer, device, **options)
    return decode(task, examples, pairs)
