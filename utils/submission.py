"""A competition's submission: test predictions of every fold, two ensembles compared honestly, a checked file."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.metrics import root_mean_squared_error

from utils import checkpoint, runtime
from utils.config import Config, InputError, nearest
from utils.data import Texts, check_table
from utils.folds import Run
from utils.predict import predict_texts
from utils.sources import find_table, read_table


def load_test(config: Config, test: str | None = None) -> pd.DataFrame:
    """The test set, checked and cleaned like the training set; by default the test.csv beside it.

    Raises InputError naming what is wrong: no such file, other columns, missing or duplicate ids, empty texts.
    """
    path = find_table(test) if test else find_table(config.data).with_name("test.csv")
    if not path.is_file():
        raise InputError(f"there is no {runtime.shown(path)} to predict; name the test set with test.")
    return check_table(read_table(path), config, where=runtime.shown(path), targets=False)


def kinds_of(run: Run, wanted: str) -> list[str]:
    """The kinds of weights that "swa,last" names; those that the run has. Raises InputError for others, or for none."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in checkpoint.KINDS:
            raise InputError(f"weights={wanted!r} names {name!r}; choose from {', '.join(checkpoint.KINDS)}.")
    if not (found := [name for name in names if name in run.kinds]):
        raise InputError(f"weights={wanted!r}: these folds have only {', '.join(run.kinds)}.")
    return found


def predict_test(run: Run, table: pd.DataFrame, kinds: list[str]) -> dict[str, np.ndarray]:
    """For each kind of weights the scores by each fold's model, (folds, rows, targets)."""
    found = {}
    for kind in kinds:
        scores = []
        for folder in run.folders.values():
            model, tokenizer = checkpoint.load_model(folder, kind)
            scores.append(predict_texts(model, Texts.of(table, tokenizer, run.config), tokenizer, run.config))
        found[kind] = np.stack(scores)
    return found


class Ridge:
    """Weights for several models' predictions of one target, shrunk towards none; found by ``RidgeCV``."""

    def __init__(self, features: np.ndarray, targets: np.ndarray):
        self.model = RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(features, targets)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return self.model.predict(features)


def compare_ensembles(run: Run, kinds: list[str]) -> pd.DataFrame:
    """RMSE over all held-out rows of each kind alone, of their mean, and of ridge weights fitted on other folds alone.

    The nesting is what makes the last one honest: the weights that combine a fold's predictions have not seen that
    fold's targets. With one fold there is nothing to nest, and no ridge row.
    """
    targets = run.values("target")
    stacked = np.stack([run.values(kind) for kind in kinds])  # (kinds, rows, targets)
    found = {kind: stacked[i] for i, kind in enumerate(kinds)}
    if len(kinds) > 1:
        found["mean"] = stacked.mean(axis=0)
        if len(run.folders) > 1:
            folds, combined = run.predictions["fold"].to_numpy(), np.empty_like(targets)
            for fold in run.folders:
                inside, outside = folds != fold, folds == fold
                for i in range(targets.shape[1]):
                    ridge = Ridge(stacked[:, inside, i].T, targets[inside, i])
                    combined[outside, i] = ridge(stacked[:, outside, i].T)
            found["ridge"] = combined
    rows = [
        {"ensemble": name, "rmse": float(np.mean([root_mean_squared_error(targets[:, i], values[:, i])
                                                  for i in range(targets.shape[1])]))}
        for name, values in found.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).sort_values("rmse", ignore_index=True)


def choose(ensembles: pd.DataFrame, wanted: str | None) -> str:
    """The ensemble that is wanted, or the one of ``compare_ensembles`` with the lowest error."""
    if wanted and wanted not in (valid := {*ensembles["ensemble"], "mean", "ridge"}):
        raise InputError(f"ensemble={wanted!r} is not known; {nearest(wanted, valid)}")
    return wanted or ensembles["ensemble"].iloc[0]


def combine(run: Run, predictions: dict[str, np.ndarray], ensemble: str) -> np.ndarray:
    """The test scores, (rows, targets), of a row of ``compare_ensembles``: each kind's mean over folds, combined."""
    means = {kind: scores.mean(axis=0) for kind, scores in predictions.items()}
    if ensemble in means:
        return means[ensemble]
    stacked = np.stack(list(means.values()))
    if ensemble == "mean":
        return stacked.mean(axis=0)
    known, targets = np.stack([run.values(kind) for kind in means]), run.values("target")
    columns = [Ridge(known[:, :, i].T, targets[:, i])(stacked[:, :, i].T) for i in range(targets.shape[1])]
    return np.stack(columns, axis=1)


def submission_folder(config: Config) -> Path:
    """Where Kaggle looks for it: the current folder; elsewhere the run's."""
    return Path.cwd() if runtime.platform_name() == "kaggle" else checkpoint.fold_folder(config).parent


def write_submission(
    table: pd.DataFrame, scores: np.ndarray, config: Config, folder: Path, sample: str | None = None
) -> Path:
    """``folder/submission.csv`` in the competition's format, checked against its sample_submission.csv if there is one.

    Raises InputError, and writes nothing, for a sample with other columns or ids than the test set, or with ids twice.
    """
    names = list(config.target_columns)
    submission = pd.DataFrame({config.id_column: table[config.id_column], **dict(zip(names, scores.T, strict=True))})
    path = find_table(sample) if sample else find_table(config.data).with_name("sample_submission.csv")
    if path.is_file():
        expected, where = read_table(path), runtime.shown(path)
        if list(expected.columns) != list(submission.columns):
            raise InputError(
                f"{where} has the columns {', '.join(map(str, expected.columns))}, and the submission would have "
                f"{', '.join(submission.columns)}; set id_column and target_columns."
            )
        ids = expected[config.id_column].astype(str)
        if (twice := ids[ids.duplicated()]).size:
            raise InputError(f"{where} has the id {twice.iloc[0]!r} more than once; get the file anew.")
        if strangers := sorted(set(ids) ^ set(submission[config.id_column])):
            raise InputError(
                f"{len(strangers)} ids, such as {strangers[0]!r}, are only in {where} or only in the test set; "
                "the two do not belong together."
            )
        submission = submission.set_index(config.id_column).loc[ids].reset_index()
    if not np.isfinite(submission[names].to_numpy()).all():
        raise InputError("some predictions are no finite numbers; look at the folds' scores first.")
    target = folder / "submission.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_table(target, submission)
    except OSError as error:
        raise InputError(f"{runtime.shown(target)} cannot be written ({error.strerror}); set output_dir.") from None
    return target
