"""Tokens and words for people to read, whatever kind of tokenizer made them."""

import numpy as np
from transformers import PreTrainedTokenizerBase


def readable_vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every token of the vocabulary, by its id, written as WordPiece would write it.

    Byte-level BPE (RoBERTa: "Ġread", "ing") and SentencePiece ("▁read", "ing") become "read", "##ing".
    Bytes that are not a whole character are shown in angle brackets.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    counts = {mark: sum((token or "").startswith(mark) for token in tokens) for mark in ("Ġ", "▁")}
    mark = max(counts, key=lambda name: counts[name])
    if counts[mark] < len(tokens) / 50:  # neither kind
        return [token or "" for token in tokens]
    special = {None, *tokenizer.all_special_tokens}
    return [
        token or "" if token in special else _readable(token, tokenizer, in_bytes=mark == "Ġ")
        for token in tokens
    ]


def _readable(token: str, tokenizer: PreTrainedTokenizerBase, in_bytes: bool) -> str:
    text = tokenizer.convert_tokens_to_string([token]) if in_bytes and token else token.replace("▁", " ")
    if "\ufffd" in text or not text.strip():
        return f"<{token}>"
    if text.startswith(" ") or not text[0].isalnum():
        return text.strip()
    return f"##{text}"


def readable_tokens(ids: list[int], vocabulary: list[str]) -> list[str]:
    """The tokens of a text; one that follows nothing, or a quotation mark, does not continue a word."""
    tokens = [vocabulary[number] for number in ids]
    return [
        token if previous[-1:].isalnum() else token.removeprefix("##")
        for previous, token in zip(["", *tokens], tokens, strict=False)
    ]


def words_of(text: str, spans: list[tuple[int, int]], values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The words of a cleaned text, and for each the sum of its tokens' values.

    Words are separated by spaces. Words beyond ``max_length``, which the model did not read, are left out.

    Args:
        spans: where each token lies in the text, as in a Reading.
        values: (tokens,).

    Returns:
        The words as they are written, and their values, (words,).
    """
    words, sums, end = [], [], 0
    starts, stops = np.array(spans).reshape(-1, 2).T
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        inside = (starts < end) & (stops > start)
        if inside.any():
            words.append(word)
            sums.append(values[inside].sum())
    return words, np.array(sums)
