"""Texts as an Explainer takes them: one alone, or a question with its context."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from utils.data.table import clean_text
from utils.data.windows import cut

#: A text; or a question and its context, of which the latter is explained.
Text = str | tuple[str, str]


class Encoded(NamedTuple):
    """Texts as the model takes them."""

    inputs: dict[str, torch.Tensor]  # padded, on the model's device, each (batch, tokens)
    positions: list[np.ndarray]  # of each text's tokens in its row of the inputs, without the special ones
    spans: list[list[tuple[int, int]]]  # where each of these tokens lies in the cleaned text

    def of_texts(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """The logits of each text, or of its tokens; a float32 near 1 cannot tell probabilities apart."""
        logits = logits.cpu().double()
        if logits.dim() == 2:
            return list(logits)
        return [row[positions] for row, positions in zip(logits, self.positions, strict=True)]


def explained_text(text: Text) -> str:
    """The clean text whose tokens are explained."""
    return clean_text(text if isinstance(text, str) else text[1])


def tokenize_texts(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_length: int, **options
) -> BatchEncoding:
    """The tokenizer's output, unpadded, of texts and contexts as far as ``max_length`` leaves room for them.

    With ``return_special_tokens_mask``, the tokens of a question count as special ones too.
    """
    cleaned = [explained_text(text) for text in texts]
    questions = [clean_text(text[0]) for text in texts if not isinstance(text, str)]
    if not questions:
        return tokenizer(cleaned, truncation=True, max_length=max_length, **options)
    asked = cut(questions, tokenizer, max_length // 4)
    encoded = tokenizer(asked, cleaned, truncation="only_second", max_length=max_length, **options)
    if "special_tokens_mask" in encoded:
        numbers = [encoded.sequence_ids(row) for row in range(len(texts))]
        encoded["special_tokens_mask"] = [[int(number != 1) for number in row] for row in numbers]
    return encoded


def encode_texts(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_length: int, device: torch.device
) -> Encoded:
    """The texts as ``tokenize_texts`` cuts them, with the places of the tokens that are explained."""
    options = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
    encoded = tokenize_texts(texts, tokenizer, max_length, **options)
    special, offsets = encoded.pop("special_tokens_mask"), encoded.pop("offset_mapping")
    positions = [np.flatnonzero(np.array(row) == 0) for row in special]
    # The space before a word, which some tokenizers count as part of it, is left out.
    spans = [
        [(start + (text[start:stop][:1] == " "), stop) for start, stop in (row[i] for i in numbers)]
        for text, row, numbers in zip(map(explained_text, texts), offsets, positions, strict=True)
    ]
    padded = tokenizer.pad(encoded, return_tensors="pt")
    if tokenizer.padding_side == "left":
        longest = padded["input_ids"].shape[1]
        positions = [numbers + longest - len(row) for numbers, row in zip(positions, special, strict=True)]
    return Encoded(dict(padded.to(device)), positions, spans)
