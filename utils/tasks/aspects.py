"""Aspects: of a sentence, what it says about one thing that it names."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from transformers import BatchEncoding, PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.data.aspects import locate, split_marked
from utils.data.table import check_columns, clean_text, match_columns
from utils.data.tokens import Examples, encode_in_slices
from utils.modeling.pooling import POOLINGS
from utils.tasks.excerpts import excerpt
from utils.tasks.labels import Multiclass

Place = tuple[int, int]  # where an aspect starts and ends in its sentence, in characters

NEIGHBOURS = 4  # words on either side of an aspect that the baseline counts once more


class Aspects(Multiclass):
    """The polarity of an aspect, read as the pair (sentence, aspect).

    The table's columns start and end say where the aspect stands, counted in characters; they may be missing
    where each aspect occurs once. All aspects of a sentence are held out together.
    """

    name = "aspects"
    extras = ("distance", "left_distance", "right_distance", "alone")

    def __init__(self, config: Config):
        super().__init__(config)
        if not config.pair_column:
            raise InputError("task=aspects reads two columns; set pair_column, that of the aspects.")
        if config.exact_copies == "split":
            raise InputError(
                "exact_copies=split would train on a sentence that is held out with another aspect; set "
                "exact_copies=group."
            )
        self.seen: dict[str, set[Place]] = {}  # of each sentence of the whole table, its aspects

    def see(self, table: pd.DataFrame) -> None:
        super().see(table)
        if "start" in table:
            self.seen = self._by_sentence(table)

    def settings(self) -> dict:
        return {**super().settings(), "pooling": self.config.pooling}  # which decides about the extras

    @property
    def shown_columns(self) -> list[str]:
        return [*self.config.text_columns, "start", "end"]

    # --- the table ------------------------------------------------------------------------------------------

    def prepare(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """``table`` with a row per aspect and its place; sentences may mark their aspects instead."""
        text, aspect = self.config.text_columns
        table = match_columns(table, [text, aspect, "start"], where)
        check_columns(table, [text], where)
        table = table.reset_index(drop=True)
        if aspect not in table.columns and table[text].astype(str).str.contains("[B-ASP]", regex=False).any():
            table = self._number(split_marked(table, text, aspect, where))
        check_columns(table, [aspect], where)
        return locate(table, text, aspect, where)

    def _number(self, table: pd.DataFrame) -> pd.DataFrame:
        """Ids that are told apart, "7-1" and "7-2", where a sentence has several aspects."""
        if self.config.id_column not in table.columns:
            return table
        ids = table[self.config.id_column].astype(str)
        numbered = ids + "-" + (ids.groupby(ids).cumcount() + 1).astype(str)
        return table.assign(**{self.config.id_column: ids.where(~ids.duplicated(keep=False), numbered)})

    def table_of(self, rows: list) -> pd.DataFrame:
        """Pairs of sentence and aspect, or sentences that mark their aspects as [B-ASP]food[E-ASP]."""
        if not all(isinstance(row, str) for row in rows):
            return super().table_of(rows)
        if unmarked := [row for row in rows if "[B-ASP]" not in row]:
            raise InputError(
                f"{unmarked[0][:40]!r} marks no aspect; write [B-ASP] before it and [E-ASP] behind it, or "
                "pass pairs of sentence and aspect."
            )
        return pd.DataFrame({self.config.text_column: rows})

    def compared_texts(self, table: pd.DataFrame) -> pd.Series:
        """The sentence alone: its other aspects must not be trained on."""
        return table[self.config.text_column]

    def counted_texts(self, table: pd.DataFrame) -> list[str]:
        """The sentence; and once more, as words of their own, the aspect and its neighbours."""
        texts = []
        for text, aspect, start in self._places(table):
            end = start + len(aspect)
            near = [*text[:start].split()[-NEIGHBOURS:], aspect, *text[end:].split()[:NEIGHBOURS]]
            texts.append(" ".join([text, *(f"near_{word}" for word in re.findall(r"\w+", " ".join(near)))]))
        return texts

    def quoted_texts(self, table: pd.DataFrame) -> pd.Series:
        """The sentence with the aspect in square brackets."""
        return pd.Series(self.excerpts(table, {}, sys.maxsize), index=table.index, dtype=object)

    def excerpts(self, table: pd.DataFrame, values: dict[str, np.ndarray], width: int) -> list[str]:
        """The sentence around the aspect, which is in square brackets."""
        return [
            excerpt(text, width, {"[]": (start, start + len(aspect))})
            for text, aspect, start in self._places(table)
        ]

    def _places(self, table: pd.DataFrame) -> Iterator[tuple[str, str, int]]:
        """Of each row the sentence, the aspect, and where it starts."""
        return zip(*(table[column] for column in (*self.config.text_columns, "start")), strict=True)

    def _by_sentence(self, table: pd.DataFrame) -> dict[str, set[Place]]:
        known = defaultdict(set)
        for text, aspect, start in self._places(table):
            known[text].add((start, start + len(aspect)))
        return dict(known)

    # --- examples -------------------------------------------------------------------------------------------

    def encode(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> Examples:
        """Pairs, and with each token its ``token_distances`` and what else the pooling takes.

        Raises InputError where a tokenizer cannot tell them.
        """
        examples = super().encode(table, tokenizer, max_length)
        if tokenizer.is_fast:
            examples.extras = self._table_extras(table, tokenizer, max_length)
        elif POOLINGS[self.config.pooling].extras:
            raise InputError(
                f"pooling={self.config.pooling!r} needs to know where tokens stand, which this encoder's "
                "tokenizer does not say; choose another pooling or encoder."
            )
        return examples

    def _table_extras(self, table, tokenizer, max_length) -> dict[str, np.ndarray]:
        """Of each extra, (tokens of all rows,)."""
        texts, pairs = (table[column].tolist() for column in self.config.text_columns)
        longest, cut = max_length or tokenizer.model_max_length, self.config.pair_truncation
        rows = ((text, (start, start + len(aspect))) for text, aspect, start in self._places(table))
        others, slices = self._by_sentence(table), []
        for encoded in encode_in_slices(texts, tokenizer, longest, pairs, cut, return_offsets_mapping=True):
            slices.append(self._extras_of(encoded, list(islice(rows, 1000)), others))
        return {name: np.concatenate([a for part in slices for a in part[name]]) for name in slices[0]}

    def _extras_of(
        self, encoded: BatchEncoding, rows: list[tuple[str, Place]], others: dict[str, set[Place]]
    ) -> dict[str, list[np.ndarray]]:
        """Of each extra the values of each pair's tokens.

        Args:
            rows: the sentence and the place of each aspect; others: places of aspects by their sentence.
        """
        needed, own = POOLINGS[self.config.pooling].extras, [place for _, place in rows]
        extras = {"distance": distances_of(encoded, own)}
        if "left_distance" in needed:
            pairs = [neighbours(own, {*others.get(text, ()), *self.seen.get(text, ())}) for text, own in rows]
            left, right = zip(*pairs, strict=True)
            extras |= {"left_distance": distances_of(encoded, left)}
            extras |= {"right_distance": distances_of(encoded, right)}
        if "alone" in needed:
            extras["alone"] = [alone(encoded.sequence_ids(number)) for number in range(len(rows))]
        return extras

    def token_extras(self, encoded: BatchEncoding, pairs: list[tuple[str, str]]) -> dict[str, list]:
        """Distances in texts whose places nobody has told, such as edited ones: the first place counts."""
        cleaned = [(clean_text(text), clean_text(aspect)) for text, aspect in pairs]
        rows = [(text, first_place(text, aspect)) for text, aspect in cleaned]
        return self._extras_of(encoded, rows, {})


def first_place(text: str, aspect: str) -> Place:
    """Where the aspect first stands in the text; (-1, -1) if nowhere."""
    start = text.find(aspect)
    return (start, start + len(aspect)) if start >= 0 else (-1, -1)


def neighbours(place: Place, others: set[Place]) -> tuple[Place, Place]:
    """The aspects before and after one in its sentence; itself where it is the first or the last."""
    places = sorted({*others, place})
    number = places.index(place)
    return places[max(number - 1, 0)], places[min(number + 1, len(places) - 1)]


def alone(parts: list[int | None]) -> np.ndarray:
    """The tokens of a pair that its first text would have without the second, (tokens,), bool.

    Of the special tokens between the two that is the first.

    Args:
        parts: to which text each token belongs, 0 or 1; None: it is a special token.
    """
    end = parts.index(1) if 1 in parts else len(parts)
    last = max((number for number, part in enumerate(parts) if part == 0), default=0)
    return np.arange(len(parts)) < min(last + 2, end)


def distances_of(encoded: BatchEncoding, places: Sequence[Place]) -> list[np.ndarray]:
    """``token_distances`` of each encoded pair, int32, from the place of its aspect."""
    distances = []
    for number, (start, end) in enumerate(places):
        in_sentence = np.array([part == 0 for part in encoded.sequence_ids(number)], dtype=bool)
        spans = np.array(encoded["offset_mapping"][number]).reshape(-1, 2)
        distances.append(token_distances(spans, in_sentence, start, end).astype(np.int32))
    return distances


def token_distances(spans: np.ndarray, in_sentence: np.ndarray, start: int, end: int) -> np.ndarray:
    """How far each token lies from an aspect, (tokens,): 1 inside it, 1 more with every token away.

    0 is left for what is no part of the sentence: special tokens, the second text and padding. An aspect that
    was cut off lies behind the last token.

    Args:
        spans: of the tokens in their text, (tokens, 2).
        in_sentence: (tokens,); start, end: of the aspect, in characters.
    """
    positions = np.flatnonzero(in_sentence)
    if not len(positions):
        return np.zeros(len(spans), dtype=int)
    starts, ends = spans[positions].T
    inside = positions[(starts < end) & (ends > start)]
    first, last = (inside[0], inside[-1]) if len(inside) else (positions[-1] + 1,) * 2
    tokens = np.arange(len(spans))
    return np.where(in_sentence, 1 + np.maximum(0, np.maximum(first - tokens, tokens - last)), 0)
