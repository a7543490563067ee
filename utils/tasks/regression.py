"""Regression: one or several numbers for a text."""

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import r2_score, root_mean_squared_error

from utils.config import InputError
from utils.data.table import check_rows
from utils.modeling.heads import HeadConfig
from utils.modeling.losses import RegressionLoss
from utils.tasks.base import Task
from utils.tasks.baselines import number_baselines
from utils.tasks.metrics import Metric, batch_rmse, rmse_interval
from utils.tasks.numbers import MISSING
from utils.tasks.stacking import fit_numbers, known_rows, stack_by_ridge


class Regression(Task):
    """Numbers, judged by the RMSE; with several targets by the mean of theirs (MCRMSE)."""

    name = "regression"
    metric = Metric("rmse", "RMSE", "target's units")
    metrics = tuple(
        Metric(name, label, higher_is_better=True, needs="two different targets and predictions")
        for name, label in {"pearson": "Pearson's r", "spearman": "Spearman's ρ", "r2": "R²"}.items()
    )
    loss_family = (RegressionLoss,)
    default_loss = "mse"
    error = "squared error"
    problem_type = "regression"

    def __init__(self, config):
        super().__init__(config)
        self.location, self.scale = (0.0,) * len(self.outputs), (1.0,) * len(self.outputs)

    def check(self, table: pd.DataFrame, where: str) -> pd.DataFrame:
        """Of several targets some may be missing, but not all of a row's: they become NaN."""
        columns = list(self.config.target_columns)
        if len(columns) == 1:
            return super().check(table, where)
        missing = table[columns].map(lambda value: str(value).strip().lower() in MISSING)
        check_rows(table, missing.all(axis=1), columns[0], "is missing, as are the other targets,", where)
        if (empty := missing.all()).any():
            raise InputError(f"{where}: column {empty.idxmax()!r} is empty; leave it out of target_columns.")
        filled = table[columns].astype(object).mask(missing, 0)
        checked = super().check(table.assign(**filled), where)
        return checked.assign(**checked[columns].mask(missing))

    def check_fold(self, train: pd.DataFrame, held_out: pd.DataFrame) -> None:
        for name, rows in {"trains on": train, "holds out": held_out}.items():
            for column in self.config.target_columns:
                if rows[column].isna().all():
                    raise InputError(
                        f"the fold {name} no row with a value of {column!r}; choose another fold_by or seed, "
                        "or leave it out of target_columns."
                    )
        super().check_fold(train, held_out)

    def fit(self, train: pd.DataFrame) -> None:
        """With ``standardize``, targets are learnt in units of their standard deviation."""
        if self.config.standardize:
            targets = self.targets(train)
            constant = np.nanmax(targets, axis=0) == np.nanmin(targets, axis=0)
            spread = np.where(constant, 1.0, np.nanstd(targets, axis=0))
            self.location, self.scale = tuple(np.nanmean(targets, axis=0).tolist()), tuple(spread.tolist())
        self.loss = self.make_loss(self.scale)

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
        pairs = list(_known(targets, predictions))
        errors = _rmses(targets, predictions)
        scores = {"rmse": float(np.nanmean(errors))}
        if len(pairs) > 1:
            names = self.config.target_columns
            scores |= {f"rmse {name}": float(error) for name, error in zip(names, errors, strict=True)}
        varied = all(len(column) > 1 and np.ptp(column) > 0 for pair in pairs for column in pair)
        correlations = {
            "pearson": lambda x, y: pearsonr(x, y)[0],
            "spearman": lambda x, y: spearmanr(x, y)[0],
            "r2": r2_score,
        }
        for name, function in correlations.items():
            scores[name] = float(np.mean([function(*pair) for pair in pairs])) if varied else float("nan")
        return scores | {"batch_rmse": batch_rmse(targets, predictions)}

    def score(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        if self.metric.name == "rmse":  # much faster alone
            return float(np.nanmean(_rmses(targets, predictions)))
        return super().score(targets, predictions)

    def errors(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Squared errors, (rows, targets); NaN where a target is missing."""
        return (predictions - targets) ** 2

    def interval(
        self, targets: np.ndarray, predictions: np.ndarray, groups: np.ndarray
    ) -> tuple[float, float]:
        if self.metric.name == "rmse":
            return rmse_interval(self.errors(targets, predictions), groups)
        return super().interval(targets, predictions, groups)

    stack = staticmethod(stack_by_ridge)

    def fit_states(self, states: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
        return fit_numbers(states, targets, new)

    def baselines(self, train: pd.DataFrame, held_out: pd.DataFrame) -> dict[str, np.ndarray]:
        """The training rows' mean; least squares on two counts of each text; ridge on TF-IDF.

        Where targets are missing, each target has a model of its own, fitted to the rows that have it.
        """
        texts, new = (np.array(self.counted_texts(rows), dtype=object) for rows in (train, held_out))
        targets = self.targets(train)
        known = ~np.isnan(targets)
        if known.all():
            return number_baselines(texts.tolist(), targets, new.tolist())
        by_target = [
            number_baselines(texts[rows].tolist(), column[rows, np.newaxis], new.tolist())
            for column, rows in zip(targets.T, known.T, strict=True)
        ]
        common = [name for name in by_target[0] if all(name in predictions for predictions in by_target)]
        return {name: np.hstack([predictions[name] for predictions in by_target]) for name in common}


def _known(targets: np.ndarray, predictions: np.ndarray):
    """Each target's known values, with their predictions."""
    for target, predicted in zip(targets.T, predictions.T, strict=True):
        rows = known_rows(target)
        yield target[rows], predicted[rows]


def _rmses(targets: np.ndarray, predictions: np.ndarray) -> list[float]:
    """The RMSE of each target; NaN where none of its values is known."""
    pairs = _known(targets, predictions)
    return [root_mean_squared_error(*pair) if len(pair[0]) else float("nan") for pair in pairs]
