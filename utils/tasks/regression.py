"""Regression: one or several numbers for a text."""

import contextlib

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import r2_score, root_mean_squared_error

from utils.modeling.heads import HeadConfig
from utils.modeling.losses import LOSSES, RegressionLoss
from utils.tasks.base import Task
from utils.tasks.baselines import predict_from_counts, predict_from_tfidf
from utils.tasks.metrics import Metric, rmse_interval


class Regression(Task):
    """Numbers, judged by the RMSE; with several targets by the mean of theirs (MCRMSE)."""

    name = "regression"
    metric = Metric("rmse", "RMSE", "target's units")
    loss_family = RegressionLoss

    def __init__(self, config):
        super().__init__(config)
        self.location = (0.0,) * len(self.outputs)
        self.scale = (1.0,) * len(self.outputs)

    def fit(self, train: pd.DataFrame) -> None:
        """With ``standardize``, targets are learnt in units of their standard deviation."""
        if self.config.standardize:
            targets = self.targets(train)
            spread = np.where(np.ptp(targets, axis=0) > 0, targets.std(axis=0), 1.0)
            self.location, self.scale = tuple(targets.mean(axis=0).tolist()), tuple(spread.tolist())
        self.loss = LOSSES[self.config.loss](self.scale)

    def head(self) -> HeadConfig:
        return HeadConfig(
            self.outputs, self.location, self.scale, self.config.head_dropout, self.config.n_dropouts
        )

    def predictions_table(self, ids: list[str], values: dict[str, np.ndarray]) -> pd.DataFrame:
        """With several targets, the columns of each target stand together."""
        by_target = zip(*(self.columns(name) for name in values), strict=True)
        return super().predictions_table(ids, values)[
            ["id", *(name for names in by_target for name in names)]
        ]

    def scores(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Scores over all rows, in the targets' own units.

        Returns:
            "rmse", and with several targets "rmse <name>" of each. "pearson", "spearman" and "r2": means over
            the targets; NaN where a target is constant. "batch_rmse": the published notebook's number.
        """
        pairs = list(zip(targets.T, predictions.T, strict=True))
        errors = [root_mean_squared_error(*pair) for pair in pairs]
        scores = {"rmse": float(np.mean(errors))}
        if len(pairs) > 1:
            names = self.config.target_columns
            scores |= {f"rmse {name}": float(error) for name, error in zip(names, errors, strict=True)}
        varied = len(targets) > 1 and all(np.ptp(column) > 0 for pair in pairs for column in pair)
        correlations = {
            "pearson": lambda x, y: pearsonr(x, y)[0],
            "spearman": lambda x, y: spearmanr(x, y)[0],
            "r2": r2_score,
        }
        for name, function in correlations.items():
            scores[name] = float(np.mean([function(*pair) for pair in pairs])) if varied else float("nan")
        return scores | {"batch_rmse": batch_rmse(targets, predictions)}

    def score(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return float(
            np.mean([root_mean_squared_error(*pair) for pair in zip(targets.T, predictions.T, strict=True)])
        )

    def errors(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Squared errors, (rows, targets)."""
        return (predictions - targets) ** 2

    def interval(
        self, targets: np.ndarray, predictions: np.ndarray, groups: np.ndarray
    ) -> tuple[float, float]:
        return rmse_interval(self.errors(targets, predictions), groups)

    def stack(self, predictions: np.ndarray, targets: np.ndarray):
        """Ridge weights for the models' predictions of each target, their strength cross-validated."""
        alphas = np.logspace(-3, 3, 13)
        ridges = [
            RidgeCV(alphas=alphas).fit(predictions[:, :, i].T, targets[:, i]) for i in range(targets.shape[1])
        ]
        return lambda new: np.stack([ridge.predict(new[:, :, i].T) for i, ridge in enumerate(ridges)], axis=1)

    def baselines(self, train: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, np.ndarray]:
        """The training rows' mean; least squares on two counts of each text; ridge on TF-IDF."""
        texts, new = (rows[self.config.text_column].tolist() for rows in (train, held_out))
        targets = self.targets(train)
        predictions = {
            "mean": np.repeat(targets.mean(axis=0, keepdims=True), len(new), axis=0),
            "two counts": predict_from_counts(texts, targets, new),
        }
        ridge = Ridge(alpha=1.0, solver="sparse_cg")
        with contextlib.suppress(ValueError):  # no word occurs twice
            predictions["TF-IDF, ridge"] = predict_from_tfidf(texts, targets, new, ridge).reshape(
                len(new), -1
            )
        return predictions


def batch_rmse(targets: np.ndarray, predictions: np.ndarray, batch_size: int = 4) -> float:
    """The published notebook's number: RMSE within each batch of four rows, averaged over the batches.

    It reads lower than the true RMSE, since the root of a mean is more than the mean of roots.
    """
    errors = ((targets - predictions) ** 2).mean(axis=1)
    starts = range(0, len(errors), batch_size)
    return float(np.mean([np.sqrt(errors[start : start + batch_size].mean()) for start in starts]))
