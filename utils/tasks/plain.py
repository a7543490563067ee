"""What most tasks leave as it is: a text per row, in columns that the file has, and one answer per text."""

from typing import ClassVar

import numpy as np
import pandas as pd


class Plain:
    """Defaults that a task changes whose file, model or predictions have a form of their own."""

    #: Whether rows share a text by design, such as questions on one context; a row's text alone then leaks
    #: nothing.
    repeats_texts: ClassVar[bool] = False
    #: Whether the model answers per token, by a pooling that keeps tokens apart.
    per_token: ClassVar[bool] = False

    def arrange(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """``table`` as a file holds it, with the columns that the Config names; by default as it is.

        Any table comes through here before it is checked, one without targets too.
        """
        return table

    def comparable(self, predictions: np.ndarray) -> np.ndarray:
        """The columns of predictions that rounding changes but little; by default all."""
        return predictions

    def spread(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """By how much comparable columns differ from row to row, as a measure for what rounding does."""
        return float(np.nanstd(targets)) or 1.0
