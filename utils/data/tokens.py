"""Examples and batches: texts as a model reads them, in batches of similar length."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import BatchEncoding, DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from utils.config import InputError


@dataclass
class Examples:
    """What a model reads of some rows, tokenised once, before training; by default an example per row.

    The tokens of all examples lie one after the other, at four bytes each; Python's lists take ten times as
    much.
    """

    ids: list[str]  # of the rows
    tokens: dict[
        str, np.ndarray
    ]  # each of the model's inputs but the mask, unpadded, int32 (tokens of all examples,)
    ends: np.ndarray  # where each example's tokens end, (examples,)
    targets: np.ndarray  # what the loss compares the outputs with, (examples, ...)
    row: np.ndarray  # which row each example belongs to, (examples,)
    #: Aligned with the tokens, each (tokens of all examples,); kept from the encoder.
    extras: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return np.diff(self.ends, prepend=0).tolist()

    def slice(self, example: int) -> slice:
        """Where an example's tokens lie."""
        return slice(self.ends[example - 1] if example else 0, self.ends[example])


class Batch(NamedTuple):
    """Some examples, padded to the same length."""

    inputs: dict[str, torch.Tensor]  # what the encoder takes, each (batch, tokens)
    targets: torch.Tensor  # float32 (batch, ...)
    extras: dict[str, torch.Tensor]  # token-aligned, each (batch, tokens), 0 at padding

    def split(self, parts: int) -> list["Batch"]:
        """The examples in up to ``parts`` batches."""
        inputs = {name: value.chunk(parts) for name, value in self.inputs.items()}
        extras = {name: value.chunk(parts) for name, value in self.extras.items()}
        return [
            Batch({n: inputs[n][i] for n in inputs}, targets, {n: extras[n][i] for n in extras})
            for i, targets in enumerate(self.targets.chunk(parts))
        ]


def tokenize(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    pairs: list[str] | None = None,
    truncation: str = "longest_first",
) -> tuple[dict[str, np.ndarray], list[int]]:
    """The model inputs of all texts, cut to ``max_length`` tokens, concatenated; and each one's length.

    A text of which nothing is left, without special tokens, is read as one token (``_stand_in``).

    Args:
        pairs: a second text for each, which the tokenizer sets apart by its own special tokens and, where it
            has them, segment ids.
        truncation: of pairs: "longest_first", or "only_second".
    """
    parts, lengths = [], []
    for encoded in encode_in_slices(texts, tokenizer, max_length, pairs, truncation):
        for row, ids in enumerate(encoded["input_ids"]):
            if not ids:
                for name in encoded:
                    encoded[name][row] = [_stand_in(tokenizer) if name == "input_ids" else 0]
        lengths += map(len, encoded["input_ids"])
        parts.append(
            {name: np.fromiter(chain.from_iterable(rows), np.int32) for name, rows in encoded.items()}
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, lengths


def encode_in_slices(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    pairs: list[str] | None = None,
    truncation: str = "longest_first",
    **options,
) -> Iterator[BatchEncoding]:
    """``tokenize``'s texts as the tokenizer gives them, a thousand at a time.

    The lists of all texts would take many times the tokens. Raises InputError for a first text that leaves no
    room for a second.
    """
    options |= {"truncation": truncation, "max_length": max_length, "return_attention_mask": False}
    for start in range(0, len(texts), 1000):
        rows = slice(start, start + 1000)
        if truncation == "only_second" and pairs is not None:
            _check_room(texts[rows], tokenizer, max_length)
        yield tokenizer(texts[rows], None if pairs is None else pairs[rows], **options)


def _check_room(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) >= room:
            raise InputError(
                f"the text {text[:40]!r} leaves no room for a second one in max_length={max_length} tokens; "
                "shorten it, or train with a larger max_length or pair_truncation=longest_first."
            )


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that an empty text is read as: of the special ones, that which says most nearly "nothing"."""
    names = ("eos_token_id", "bos_token_id", "unk_token_id", "pad_token_id")
    known = (getattr(tokenizer, name) for name in names)
    return next((number for number in known if number is not None), 0)


def training_batches(lengths: list[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The example numbers of one epoch's batches: similar lengths together, batches in random order.

    A function of (seed, epoch) and nothing else, so that any batch of any epoch can be made again.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = get_length_grouped_indices(lengths, batch_size, generator=generator)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def evaluation_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Example numbers in batches, the longest first: little padding, and memory runs out at once or never."""
    order = sorted(range(len(lengths)), key=lambda example: -lengths[example])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def make_loader(
    examples: Examples, batches: Iterable[list[int]], tokenizer: PreTrainedTokenizerBase, num_workers: int = 0
) -> DataLoader:
    """A loader of the given batches of example numbers, each a Batch.

    Each is padded to its longest example and on to a multiple of 8. Few different lengths keep each one's
    kernels in oneDNN's cache, and suit a GPU's matrix units. A ``max_length`` that 8 does not divide lowers
    the multiple: the encoder may have no positions beyond it.
    """
    pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=math.gcd(8, tokenizer.model_max_length))
    return DataLoader(
        range(len(examples)),  # type: ignore[arg-type] # any sequence will do
        batch_sampler=batches,
        collate_fn=partial(_collate, examples, pad),  # picklable: processes may be spawned
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else making an iterator would draw from the global random state
    )


def _collate(examples: Examples, pad: DataCollatorWithPadding, numbers: list[int]) -> Batch:
    """The batch of the examples with these numbers."""
    slices = [examples.slice(number) for number in numbers]
    inputs = pad([{name: values[s].tolist() for name, values in examples.tokens.items()} for s in slices])
    targets = torch.as_tensor(examples.targets[numbers], dtype=torch.float32)
    mask = inputs["attention_mask"].bool()
    extras = {name: align([values[s] for s in slices], mask) for name, values in examples.extras.items()}
    return Batch(dict(inputs), targets, extras)


def align(values: list[np.ndarray], mask: torch.Tensor) -> torch.Tensor:
    """Values of each example's tokens as (batch, tokens), on whichever side the tokenizer pads."""
    flat = torch.as_tensor(np.concatenate(values))
    return torch.zeros(mask.shape, dtype=flat.dtype).masked_scatter_(mask, flat)
