"""A competition's submission: every fold's test predictions, ensembles compared honestly, a checked file."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.config import Config, InputError, nearest
from utils.data.reading import read_table
from utils.data.sources import find_table
from utils.data.table import check_table
from utils.machine import runtime
from utils.machine.files import write_table
from utils.machine.runtime import display_path
from utils.runs import artifacts
from utils.runs.run import Run
from utils.tasks import Task, make_task
from utils.training.predict import predict_examples


def load_test(config: Config, test: str | None = None) -> pd.DataFrame:
    """The test set, checked and cleaned like the training set; by default the test.csv beside it.

    Raises InputError naming what is wrong: no such file, other columns, missing or duplicate ids. Warns of
    empty texts, which are predicted like others.
    """
    path = find_table(test) if test else find_table(config.data).with_name("test.csv")
    if not path.is_file():
        raise InputError(f"there is no {display_path(path)} to predict; name the test set with test.")
    where = display_path(path)
    return check_table(make_task(config).arrange(read_table(path), where), config, where, targets=False)


def choose_weights(run: Run, wanted: str) -> list[str]:
    """The weights that "averaged,last" names, as far as the run has them.

    Raises InputError for others, or for none.
    """
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in artifacts.WEIGHTS:
            raise InputError(
                f"weights={wanted!r} names {name!r}; choose from {', '.join(artifacts.WEIGHTS)}."
            )
    chosen = [name for name in names if name in run.weights]
    if not chosen:
        raise InputError(f"weights={wanted!r}: these folds have only {', '.join(run.weights)}.")
    return chosen


def predict_test(run: Run, table: pd.DataFrame, weights: list[str]) -> dict[str, np.ndarray]:
    """For each of the weights the predictions of each fold's model, (folds, rows, columns)."""
    return {
        name: np.stack([_predict(run.task, folder / name, table) for folder in run.folders.values()])
        for name in weights
    }


def _predict(task: Task, folder: Path, table: pd.DataFrame) -> np.ndarray:
    model, tokenizer = artifacts.load_model(folder)
    return predict_examples(model, task, task.encode(table, tokenizer), tokenizer)


def compare_ensembles(run: Run, weights: list[str]) -> pd.DataFrame:
    """The metric over all held-out rows of each of the weights, of their mean, and of a fitted combination.

    The last ("stacked", where the task knows how) is fitted to other folds alone: that nesting is what makes
    it honest. With one fold there is nothing to nest, and no such row.

    Returns:
        Columns ensemble and score, the best first.
    """
    stacked = np.stack([run.values(name) for name in weights])  # (weights, rows, columns)
    predictions = dict(zip(weights, stacked, strict=True))
    if len(weights) > 1:
        predictions["mean"] = run.task.combine(list(stacked))
        nested = _nested(run, stacked) if len(run.folders) > 1 else None
        if nested is not None:
            predictions["stacked"] = nested
    rows = [
        {"ensemble": name, "score": run.task.score(run.targets, values)}
        for name, values in predictions.items()
    ]
    ascending = not run.task.metric.higher_is_better
    return pd.DataFrame(rows).sort_values("score", ascending=ascending, ignore_index=True)


def _nested(run: Run, stacked: np.ndarray) -> np.ndarray | None:
    """Each fold's predictions, combined as fitted to the other folds; None if the task cannot."""
    folds, combined = run.predictions["fold"].to_numpy(), np.empty_like(stacked[0])
    for fold in run.folders:
        inside, outside = folds != fold, folds == fold
        combiner = run.task.stack(stacked[:, inside], run.targets[inside])
        if combiner is None:
            return None
        combined[outside] = combiner(stacked[:, outside])
    return combined


def choose(ensembles: pd.DataFrame, wanted: str | None) -> str:
    """The ensemble that is wanted, or the best of ``compare_ensembles``."""
    valid = {*ensembles["ensemble"], "mean", "stacked"}
    if wanted and wanted not in valid:
        raise InputError(f"ensemble={wanted!r} is not known; {nearest(wanted, valid)}")
    return wanted or ensembles["ensemble"].iloc[0]


def combine(run: Run, predictions: dict[str, np.ndarray], ensemble: str) -> np.ndarray:
    """The test predictions, (rows, columns), of one of ``compare_ensembles``'s ensembles."""
    by_weights = {name: run.task.combine(list(folds)) for name, folds in predictions.items()}
    if ensemble in by_weights:
        return by_weights[ensemble]
    if ensemble == "mean":
        return run.task.combine(list(by_weights.values()))
    known = np.stack([run.values(name) for name in by_weights])
    combiner = run.task.stack(known, run.targets)
    if combiner is None:
        raise InputError(f'ensemble="stacked": {run.task.name} has no such ensemble; use "mean".')
    return combiner(np.stack(list(by_weights.values())))


def submission_folder(config: Config) -> Path:
    """Where Kaggle looks for it: the current folder; elsewhere the run's."""
    return Path.cwd() if runtime.platform_name() == "kaggle" else artifacts.fold_folder(config).parent


def write_submission(
    table: pd.DataFrame, predictions: np.ndarray, task: Task, folder: Path, sample: str | None = None
) -> Path:
    """``folder/submission.csv`` in the competition's format, checked against its sample if there is one.

    Raises InputError, and writes nothing, for a sample with other columns or ids than the test set, or with
    ids twice.
    """
    config = task.config
    path = find_table(sample) if sample else find_table(config.data).with_name("sample_submission.csv")
    form = read_table(path) if path.is_file() else None
    submission = task.submission(table[config.id_column], predictions, form)
    if form is not None:
        submission = _in_format_of(form, submission, config, display_path(path))
    if not np.isfinite(submission.select_dtypes("number").to_numpy()).all():
        raise InputError("some predictions are no finite numbers; look at the folds' scores first.")
    target = folder / "submission.csv"
    try:
        write_table(target, submission)
    except OSError as error:
        raise InputError(
            f"{display_path(target)} cannot be written ({error.strerror}); set output_dir."
        ) from None
    return target


def _in_format_of(sample: pd.DataFrame, submission: pd.DataFrame, config: Config, where: str) -> pd.DataFrame:
    """The submission in the sample's order, or InputError if the two do not belong together."""
    if list(sample.columns) != list(submission.columns):
        raise InputError(
            f"{where} has the columns {', '.join(map(str, sample.columns))}, and the submission would have "
            f"{', '.join(submission.columns)}; set id_column and target_columns."
        )
    ids = sample[config.id_column].astype(str)
    if (twice := ids[ids.duplicated()]).size:
        raise InputError(f"{where} has the id {twice.iloc[0]!r} more than once; get the file anew.")
    if strangers := sorted(set(ids) ^ set(submission[config.id_column])):
        raise InputError(
            f"{len(strangers)} ids, such as {strangers[0]!r}, are only in {where} or only in the test set; "
            "the two do not belong together."
        )
    return submission.set_index(config.id_column).loc[ids].reset_index()
