"""The trained folds of a run, read back: which there are, and what they predict."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.config import PRESETS, Config, InputError
from utils.data.folds import groups_of
from utils.data.sources import KAGGLE_INPUT
from utils.data.table import fingerprint
from utils.machine.processes import run_in_process
from utils.machine.runtime import display_path, say
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.runs.resume import earlier_output
from utils.runs.seal import RETRAIN, WAY_OUT, verify
from utils.tasks import Task, add_folds, load_table, make_task

#: Presets of which missing folds are trained on the spot, since that takes a minute.
QUICK = ("demo", "tiny")


@dataclass
class Run:
    """The finished folds of a run, with the table they were trained on."""

    config: Config  # of its first fold
    task: Task
    folders: dict[int, Path]
    table: pd.DataFrame
    predictions: pd.DataFrame  # of the held-out rows: predictions.csv of every fold, and fold, group

    @property
    def weights(self) -> list[str]:
        """The weights that every fold has; one that stopped early may have averaged nothing."""
        return [weights for weights in artifacts.WEIGHTS if self.task.has(self.predictions, weights)]

    @property
    def targets(self) -> np.ndarray:
        """(rows, columns), of the held-out rows."""
        return self.task.values(self.predictions, "target")

    def values(self, weights: str) -> np.ndarray:
        """What some weights predict for the held-out rows, (rows, columns)."""
        return self.task.values(self.predictions, weights)

    def errors(self, weights: str) -> np.ndarray:
        """The error of each held-out row, (rows, columns)."""
        return self.task.errors(self.targets, self.values(weights))


def open_run(config: Config) -> Run:
    """The finished folds of ``output/<run>``, ``resume_from`` and attached Kaggle outputs.

    Prints which folds are missing. Raises InputError if there is none, if any file of theirs is damaged, if
    they were trained with different settings, or if the data have changed since.
    """
    folders = finished_folds(config)
    if not folders:
        raise InputError(
            f"{display_path(artifacts.fold_folder(config).parent)} holds no finished fold; train one first "
            f"with notebook 02 (preset={config.preset}), or say which run to read."
        )
    name, config = config.run_name, common_config(folders, config)
    missing = [str(fold) for fold in range(config.n_folds) if fold not in folders]
    rest = f"; not trained: {', '.join(missing)}." if missing else ", all of them."
    say(f"Folds {', '.join(map(str, folders))} of {name}{rest}")
    table = add_folds(load_table(config), config)
    for folder in folders.values():
        if artifacts.read_metadata(folder)["data"]["fingerprint"] != fingerprint(table, config):
            raise InputError(
                f"the data have changed since {display_path(folder)} was trained; set data, or {RETRAIN}"
            )
    task = make_task(config, table)
    by_fold = [read_checked(folder, fold, table, task).assign(fold=fold) for fold, folder in folders.items()]
    predictions = pd.concat(by_fold, ignore_index=True)
    groups = dict(zip(table[config.id_column], groups_of(table, config, task.repeats_texts), strict=True))
    predictions["group"] = predictions["id"].map(groups)
    return Run(config, task, folders, table, predictions)


def read_checked(folder: Path, fold: int, table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """A fold's predictions.csv. Raises InputError unless it has the held-out ids and result.json's scores."""
    predictions, where = artifacts.read_predictions(folder), display_path(folder / "predictions.csv")
    if predictions["id"].tolist() != table.loc[table["fold"] == fold, task.config.id_column].tolist():
        raise InputError(f"{where} holds other ids than the table's fold {fold}; {WAY_OUT}")
    targets = task.values(predictions, "target")
    for weights, known in artifacts.read_result(folder)["scores"].items():
        scores = task.scores(targets, task.values(predictions, weights))
        now, then = np.array([(scores[name], known[name]) for name in scores if name in known], float).T
        if not np.allclose(now, then, rtol=1e-6, equal_nan=True):
            raise InputError(f"{where} does not have the scores of result.json; {WAY_OUT}")
    return predictions


def common_config(folders: dict[int, Path], asked: Config) -> Config:
    """The settings of the first of some folds, with the data that are asked for.

    Raises InputError if another was trained with other settings.
    """
    settings = {fold: artifacts.read_metadata(folder)["config"] for fold, folder in folders.items()}
    config = Config.make(**{**settings[min(folders)], "data": _data(asked, settings[min(folders)])})
    for fold, other in settings.items():
        if changes := [name for name in config.differences(other) if name != "fold"]:
            raise InputError(
                f"{display_path(folders[fold])} was trained with another {changes[0]} than fold "
                f"{config.fold}; move one of them away, or {RETRAIN}"
            )
    return config


def _data(asked: Config, settings: dict) -> str:
    """The data that are asked for; a preset's own stand back behind those that a fold was trained on."""
    usual = PRESETS[asked.preset].get("data", Config.data)
    return settings["data"] if asked.data == usual else asked.data


def finished_folds(config: Config) -> dict[int, Path]:
    """The folder of each finished fold, wherever it lies. Raises InputError for a damaged one."""
    folders = {}
    written = artifacts.fold_folder(config).parent.glob("fold-*")  # perhaps more than the preset's
    numbers = [int(path.name[5:]) for path in written if path.name[5:].isdecimal()]
    for fold in sorted({*range(config.n_folds), *numbers}):
        candidates = [artifacts.fold_folder(config, fold)]
        if config.resume_from:
            with contextlib.suppress(InputError):  # it may be the folder of another fold alone
                candidates += filter(None, [earlier_output(dataclasses.replace(config, fold=fold))])
        attached = KAGGLE_INPUT.glob(f"**/{config.run_name}/fold-{fold}")  # outputs of other kernels
        finished = [folder for folder in [*candidates, *sorted(attached)] if artifacts.is_finished(folder)]
        if finished:
            verify(finished[0])
            folders[fold] = finished[0]
    return folders


def train_missing_folds(config: Config, at_least: int = 2) -> None:
    """Of a quick preset, train folds until ``at_least`` are finished, with the settings of those that are."""
    for fold in range(config.n_folds if config.preset in QUICK else 0):
        folders = finished_folds(config)
        if len(folders) >= at_least:
            return
        if fold not in folders:
            say(f"Fold {fold} of {config.run_name} is missing; it is trained now.")
            train_in_process(dataclasses.replace(like_finished(config, folders), fold=fold))


def like_finished(config: Config, folders: dict[int, Path]) -> Config:
    """``config`` with the settings of the finished folds, or the folds could not be compared."""
    if not folders:
        return config
    settings = artifacts.read_metadata(folders[min(folders)])["config"]
    kept = {name: getattr(config, name) for name in ("run", "output_dir", "devices")}
    return Config.make(**{**settings, **kept, "data": _data(config, settings)})


def train_in_process(config: Config) -> Path:
    """Train a fold in a process of its own, as Apex asks; the fold's folder."""
    config = dataclasses.replace(config, resume_from="", retrain=False, time_limit_hours=0.0)
    return run_in_process(train, config)


def train(config: Config) -> Path:
    """Train a fold in this process; the fold's folder."""
    return fit_fold(config, add_folds(load_table(config), config))
