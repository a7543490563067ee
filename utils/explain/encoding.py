"""What a model reads, as LIT's rows have it, in the form in which the model takes it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from utils.config import Config
from utils.data.table import clean_text
from utils.data.tokens import align
from utils.modeling.model import TextModel
from utils.tasks import Task

#: What a model reads: a text, or two where its task reads pairs, as in ``Config.text_columns``. Tokens and
#: their values are the first's.
Read = str | tuple[str, str]


def read_by(config: Config, example: Mapping[str, Any]) -> Read:
    """What a model of these settings reads of an example: its text, or the pair of its texts."""
    text = example[config.text_column]
    return (text, example[config.pair_column]) if config.pair_column else text


class Encoded(NamedTuple):
    """Texts as the model takes them."""

    inputs: dict[str, torch.Tensor]  # padded, on the model's device, each (batch, tokens)
    positions: list[np.ndarray]  # of each text's tokens in its row of the inputs, without the special ones
    spans: list[list[tuple[int, int]]]  # where each of these tokens lies in the cleaned text
    extras: dict[str, torch.Tensor]  # what the pooling takes besides, each (batch, tokens)

    def of_texts(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """The logits of each text, or of its tokens; a float32 near 1 cannot tell probabilities apart."""
        logits = logits.cpu().double()
        if logits.dim() == 2:
            return list(logits)
        return [row[positions] for row, positions in zip(logits, self.positions, strict=True)]


class Encoder:
    """Encodes texts as in training, and tells where their tokens lie."""

    def __init__(self, model: TextModel, tokenizer: PreTrainedTokenizerBase, task: Task):
        self.model, self.tokenizer = model, tokenizer
        self.task, self.config = task, task.config

    def encode(self, texts: list[Read]) -> Encoded:
        encoded = self.tokenize(texts, return_special_tokens_mask=True, return_offsets_mapping=True)
        firsts = [text if isinstance(text, str) else text[0] for text in texts]
        are_pairs = not any(isinstance(text, str) for text in texts)  # of one alone, spans may be wanted
        extras = self.task.token_extras(encoded, texts) if are_pairs and self.model.pooling.extras else {}
        other = 1 - self.task.text_place if are_pairs else 1
        others = [[part == other for part in encoded.sequence_ids(row)] for row in range(len(texts))]
        special, offsets = encoded.pop("special_tokens_mask"), encoded.pop("offset_mapping")
        positions = [
            np.flatnonzero((np.array(row) == 0) & ~np.array(second, dtype=bool))
            for row, second in zip(special, others, strict=True)
        ]
        # The space before a word, which some tokenizers count as part of it, is left out.
        spans = [
            [(start + (text[start:stop][:1] == " "), stop) for start, stop in (row[i] for i in numbers)]
            for text, row, numbers in zip(map(clean_text, firsts), offsets, positions, strict=True)
        ]
        padded = self.tokenizer.pad(encoded, return_tensors="pt")
        if self.tokenizer.padding_side == "left":
            longest = padded["input_ids"].shape[1]
            positions = [
                numbers + longest - len(row) for numbers, row in zip(positions, special, strict=True)
            ]
        mask = padded["attention_mask"].bool()
        aligned = {name: align(values, mask).to(self.model.device) for name, values in extras.items()}
        return Encoded(dict(padded.to(self.model.device)), positions, spans, aligned)

    def tokenize(self, texts: list[Read], **options) -> BatchEncoding:
        """The tokenizer's output, unpadded, for texts cleaned and cut as in training."""
        pairs = [text if isinstance(text, tuple) else (text,) for text in texts]
        columns = [[clean_text(text) for text in column] for column in zip(*pairs, strict=True)] or [[]]
        second = columns[1] if len(columns) > 1 else None
        return self.task.encode_texts(columns[0], second, self.tokenizer, **options)
