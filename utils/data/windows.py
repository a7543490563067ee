"""Questions and their contexts as a model reads them: in windows of a context that overlap."""

import re
from itertools import chain

import numpy as np
from transformers import PreTrainedTokenizerBase

from utils.config import InputError
from utils.data.table import clean_text
from utils.data.tokens import Examples

#: Extras of the examples: where each token of the context starts and stops in the text as it was given, in
#: characters; both 0 for all other tokens.
START, STOP = "start", "stop"
SLICE = 1000  # rows tokenised at once


def encode_windows(
    questions: list[str],
    contexts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
) -> Examples:
    """An example per window: the question, and as much of its context as fits into ``max_length`` tokens.

    A question is cut to a quarter of ``max_length``. How long the others are changes nothing, so that its
    windows are the same in any table.

    Args:
        contexts: as they were given. The model reads them with each run of white space as one space.
        stride: tokens that two windows share; at most half of the context that a window has room for.

    Returns:
        Examples without ids and targets. Raises InputError for a tokenizer that knows no offsets.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in a text; choose an encoder "
            "with a tokenizer.json."
        )
    limit = max_length // 4
    room = max_length - limit - tokenizer.num_special_tokens_to_add(pair=True)
    options = {
        "truncation": "only_second",
        "max_length": max_length,
        "stride": min(stride, max(room // 2, 0)),
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
        "return_attention_mask": False,
    }
    parts: list[dict[str, np.ndarray]] = []
    lengths, rows = [], []
    for first in range(0, len(questions), SLICE):
        asked = cut(questions[first : first + SLICE], tokenizer, limit)
        given = contexts[first : first + SLICE]
        read = [clean_text(text) for text in given]
        encoded = tokenizer(asked, read, **options)
        offsets, row = encoded.pop("offset_mapping"), encoded.pop("overflow_to_sample_mapping")
        places = [kept_characters(text) for text in given]
        inside = [np.array(encoded.sequence_ids(window)) == 1 for window in range(len(row))]
        spans = [
            _in_original(np.array(window), mask, read[number], places[number])
            for window, mask, number in zip(offsets, inside, row, strict=True)
        ]
        lengths += map(len, encoded["input_ids"])
        rows += [first + number for number in row]
        arrays = {name: np.fromiter(chain.from_iterable(part), np.int32) for name, part in encoded.items()}
        parts.append(arrays | dict(zip((START, STOP), np.concatenate(spans).T, strict=True)))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    extras = {name: values.pop(name) for name in (START, STOP)}
    return Examples([], values, np.cumsum(lengths), np.empty((len(rows), 0)), np.array(rows), extras)


def cut(texts: list[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """Each text as far as its first ``limit`` tokens reach."""
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        text[: spans[limit - 1][1]] if len(spans) > limit else text
        for text, spans in zip(texts, encoded, strict=True)
    ]


def kept_characters(text: str) -> np.ndarray:
    """Where each character of ``clean_text(text)`` stands in ``text``, (characters,)."""
    places: list[int] = []
    for word in re.finditer(r"\S+", text):
        if places:
            places.append(word.start() - 1)  # of the space before it
        places.extend(range(*word.span()))
    return np.array(places, dtype=np.int32)


def _in_original(spans: np.ndarray, inside: np.ndarray, text: str, places: np.ndarray) -> np.ndarray:
    """Spans of a window's tokens, (tokens, 2), from the clean text's characters to the original's.

    The space before a word, which some tokenizers count as part of it, is left out. Outside the context, and
    for a token of no character, a span is (0, 0).

    Args:
        inside: which tokens are the context's, (tokens,); text: clean; places: its ``kept_characters``.
    """
    inside = inside & (spans[:, 1] > spans[:, 0])
    starts, stops = spans[inside].T
    starts = starts + np.array([text[start] == " " for start in starts], dtype=int)
    original = np.zeros(spans.shape, dtype=np.int32)
    original[inside] = np.stack([places[np.minimum(starts, stops - 1)], places[stops - 1] + 1], axis=1)
    original[np.flatnonzero(inside)[starts == stops]] = 0
    return original


def tokens_of(spans: np.ndarray, examples: Examples) -> np.ndarray:
    """The first and last token of each row's span in each window, (examples, 2).

    They are counted from the window's first token. Both are 0 where the window does not hold all of the span.

    Args:
        spans: where each row's answer starts and stops, in characters of its context, (rows, 2); -1 where
            there is none.
    """
    positions = np.zeros((len(examples), 2))
    for window, row in enumerate(examples.row):
        part, (start, stop) = examples.slice(window), spans[row]
        starts, stops = (examples.extras[name][part] for name in (START, STOP))
        touched = np.flatnonzero((stops > start) & (starts < stop) & (stops > starts))
        if start >= 0 and len(touched) and starts[touched[0]] <= start and stops[touched[-1]] >= stop:
            positions[window] = touched[0], touched[-1]
    return positions
