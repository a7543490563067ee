"""What a task reads: the columns of a table that hold its texts."""

from typing import ClassVar

import numpy as np
import pandas as pd
from transformers import BatchEncoding

from utils.config import Config, InputError
from utils.data.folds import groups_of
from utils.data.table import join_texts


class Texts:
    """One text per row, or two where ``pair_column`` names the second."""

    config: Config
    #: Whether rows share a text by design, such as questions on one context; a row's text alone then leaks
    #: nothing.
    repeats_texts: ClassVar[bool] = False

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
