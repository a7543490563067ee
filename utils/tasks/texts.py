"""What a task reads: the columns of a table that hold its texts."""

from typing import ClassVar

import numpy as np
import pandas as pd
from transformers import BatchEncoding, PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.data.folds import groups_of
from utils.data.table import join_texts
from utils.data.tokens import tokenize
from utils.tasks.excerpts import excerpt


class Texts:
    """One text per row, or two where ``pair_column`` names the second."""

    config: Config
    #: Whether rows share a text by design, such as questions on one context; a row's text alone then leaks
    #: nothing.
    repeats_texts: ClassVar[bool] = False
    #: Token-aligned extras that ``encode`` gives with the examples, for poolings that take them.
    extras: ClassVar[tuple[str, ...]] = ()
    #: Whether the model answers per token, by a pooling that keeps tokens apart.
    per_token: ClassVar[bool] = False
    #: The place of ``text_column`` among what the tokenizer joins; a task may put the second text first.
    text_place: ClassVar[int] = 0

    @property
    def text_settings(self) -> tuple[str, ...]:
        """The Config fields that say what is read."""
        return ("text_column", *(("pair_column", "pair_truncation") if self.config.pair_column else ()))

    @property
    def shown_columns(self) -> list[str]:
        """Columns that ``predict`` repeats beside its predictions, where an id does not say enough."""
        return []

    def prepare(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """The table as it was read, before it is checked and its texts are cleaned; by default as it is."""
        return table

    def table_of(self, rows: list) -> pd.DataFrame:
        """A table of texts, or of pairs of them. Raises InputError where the task reads the other."""
        columns = self.config.text_columns
        for row in rows:
            if isinstance(row, tuple | list) != (len(columns) > 1) or (len(columns) > 1 and len(row) != 2):
                reads = f"pairs ({', '.join(columns)})" if len(columns) > 1 else "single texts"
                raise InputError(
                    f"this model reads {reads}, and {str(row)[:40]!r} is none; pass a list of these."
                )
        return pd.DataFrame(rows, columns=columns)

    def tokens(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> tuple[dict[str, np.ndarray], list[int]]:
        """The model inputs of all rows, concatenated, and each row's length, as ``tokenize`` gives them."""
        texts, *pairs = (table[column].tolist() for column in self.config.text_columns)
        second = pairs[0] if pairs else None
        return tokenize(texts, tokenizer, max_length, second, self.config.pair_truncation)

    def encode_texts(
        self, texts: list[str], pairs: list[str] | None, tokenizer: PreTrainedTokenizerBase, **options
    ) -> BatchEncoding:
        """A few clean texts, with the second ones if there are two, cut to the Config's ``max_length``."""
        options |= {"truncation": self.config.pair_truncation, "max_length": self.config.max_length}
        return tokenizer(texts, pairs, **options)

    def token_extras(self, encoded: BatchEncoding, pairs: list) -> dict[str, list[np.ndarray]]:
        """Token-aligned extras of texts that come from no table, each a list of arrays, (tokens,)."""
        return {}

    def compared_texts(self, table: pd.DataFrame) -> pd.Series:
        """What makes a row a copy of another: by default its text, with the second one where there is one."""
        return join_texts(table, self.config.text_columns)

    def groups(self, table: pd.DataFrame) -> pd.Series:
        """What belongs together: rows of one group, or each row alone if folds are not by group."""
        return groups_of(table, self.config, self.repeats_texts, self.compared_texts(table))

    def counted_texts(self, table: pd.DataFrame) -> list[str]:
        """What baselines count of each row: by default its text, and the second one."""
        return join_texts(table, self.config.text_columns).tolist()

    def quoted_texts(self, table: pd.DataFrame) -> pd.Series:
        """Each row's text for a person to read; by default both, if there are two."""
        return join_texts(table, self.config.text_columns).str.replace("\n", " · ")

    def excerpts(self, table: pd.DataFrame, values: dict[str, np.ndarray], width: int) -> list[str]:
        """Each row's text for a person, in about ``width`` characters; by default its beginning.

        Args:
            values: targets, and predictions by name, (rows, columns), for tasks that mark them in the text.
        """
        columns = self.config.text_columns
        pairs = zip(*(table[column] for column in columns), strict=True)
        return [" · ".join(excerpt(text, width // len(columns)) for text in texts) for texts in pairs]
