"""How a task compares several predictions of a row, and makes one of them."""

import numpy as np


class Combining:
    """The mean, unless a task knows better."""

    def combine(self, predictions: list[np.ndarray]) -> np.ndarray:
        """One prediction from those of several folds or weights; by default their mean."""
        return np.mean(predictions, axis=0)

    def columns(self, weights: str) -> list[str]:
        raise NotImplementedError

    def disagreement(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """How far several models' predictions, (models, rows, columns), lie apart, (rows,), by column name.

        By default the standard deviation of each column.
        """
        return dict(zip(self.columns("spread"), predictions.std(axis=0).T, strict=True))

    def stack(self, predictions: np.ndarray, targets: np.ndarray):
        """A function that combines several models' predictions, (models, rows, columns), as fitted to these.

        None where the task knows no better than their mean.
        """
        return None

    def fit_states(self, states: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray | None:
        """Predictions for new rows by a linear layer that is fitted to pooled states, (rows, width).

        None where the task has none.
        """
        return None

    def comparable(self, predictions: np.ndarray) -> np.ndarray:
        """The columns of predictions that rounding changes but little; by default all."""
        return predictions

    def spread(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        """How much comparable columns differ from row to row, the measure for what rounding may do."""
        return float(np.nanstd(targets)) or 1.0
