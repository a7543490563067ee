"""Attention masks that are made without waiting for the GPU."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from utils.data.tokens import Batch


@contextlib.contextmanager
def known_padding(batch: Batch) -> Iterator[None]:
    """Inside, transformers knows from a batch on the CPU whether anything in it is masked.

    That is its padding, and what an extra of bool keeps from a second reading.

    It leaves out the attention mask of a batch without any, which is faster. To find that out it reads the
    mask on the device, in each forward pass, and so waits for all that is queued there. The masks made here
    are the same.
    """
    masks = [value for value in batch.extras.values() if value.dtype == torch.bool]
    padded = not all(mask.all() for mask in (batch.inputs["attention_mask"], *masks))
    makers = {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ("sdpa", "eager")}
    for name, make in makers.items():
        ALL_MASK_ATTENTION_FUNCTIONS[name] = _answer(make, padded)
    try:
        yield
    finally:
        for name, make in makers.items():
            ALL_MASK_ATTENTION_FUNCTIONS[name] = make


def _answer(make: Callable, padded: bool) -> Callable:
    """``make``, which need not ask whether a batch is ``padded``."""

    def make_mask(*arguments, attention_mask=None, **options):
        if padded:
            options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make(*arguments, attention_mask=attention_mask if padded else None, **options)

    return make_mask
