"""The trained folds of a run, read back: which there are, what they predict, how their weights compare."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils import checkpoint, runtime
from utils.config import Config, InputError
from utils.data import add_folds, fingerprint, groups_of, load_table
from utils.metrics import batch_rmse, paired_test, rmse_interval, score
from utils.resume import earlier_output
from utils.sources import KAGGLE_INPUT

#: Presets of which a missing fold is trained on the spot, since that takes a minute.
QUICK = ("demo", "tiny")


@dataclass
class Run:
    """The finished folds of a run, with the table they were trained on."""

    config: Config  # of its first fold
    folders: dict[int, Path]
    table: pd.DataFrame
    predictions: pd.DataFrame  # of the held-out rows: predictions.csv of every fold, and fold, group

    @property
    def kinds(self) -> list[str]:
        """The kinds of weights that every fold has; one that stopped early may have averaged nothing."""
        there = self.predictions.dropna(axis=1).columns
        return [kind for kind in checkpoint.KINDS if self.column(kind, 0) in there]

    def column(self, kind: str, target: int) -> str:
        """The name in ``predictions`` of a target's ("target") or its predictions' column."""
        names = self.config.target_columns
        return f"{names[target]} {kind}" if len(names) > 1 else kind

    def values(self, kind: str) -> np.ndarray:
        """(rows, targets): the targets or what the weights of that kind predict."""
        columns = [self.column(kind, i) for i in range(len(self.config.target_columns))]
        return self.predictions[columns].to_numpy()

    def squared_errors(self, kind: str) -> np.ndarray:
        return (self.values(kind) - self.values("target")) ** 2


def open_run(config: Config, at_least: int = 2) -> Run:
    """The finished folds of ``output/<run>``, ``resume_from`` and attached Kaggle outputs, saying which are missing.

    Of the demo, as many as ``at_least`` are trained first where they are missing. Raises InputError if there is none,
    if they were trained with different settings, or if the data have changed since.
    """
    folders = _finished(config)
    for fold in range(config.n_folds):
        if config.preset in QUICK and len(folders) < at_least and fold not in folders:
            print(f"Fold {fold} of {config.run_name} is missing; it is trained now.")
            like = config
            if folders:  # the same settings, or the two could not be compared
                settings = checkpoint.read_about(folders[min(folders)])["config"]
                place = {name: getattr(config, name) for name in ("run", "output_dir", "data", "devices")}
                like = Config.make(**{**settings, **place})
            train_in_a_process(dataclasses.replace(like, fold=fold))
            folders = _finished(config)
    if not folders:
        raise InputError(
            f"{runtime.shown(checkpoint.fold_folder(config).parent)} holds no finished fold; train one first with "
            f"notebook 02 (preset={config.preset}), or say which run to read."
        )
    missing = [str(fold) for fold in range(config.n_folds) if fold not in folders]
    print(
        f"Folds {', '.join(map(str, folders))} of {config.run_name}"
        + (f"; not trained: {', '.join(missing)}." if missing else ", all of them.")
    )
    abouts = {fold: checkpoint.read_about(folder) for fold, folder in folders.items()}
    own = Config.make(**{**abouts[min(folders)]["config"], "data": config.data})
    for fold, about in abouts.items():
        if changes := [name for name in own.differences(about["config"]) if name != "fold"]:
            raise InputError(
                f"{runtime.shown(folders[fold])} was trained with another {changes[0]} than fold {own.fold}; "
                "train it again, or move it away."
            )
    table = add_folds(load_table(own), own)
    for fold, about in abouts.items():
        if about["data"]["fingerprint"] != fingerprint(table, own):
            raise InputError(f"the data have changed since {runtime.shown(folders[fold])} was trained; set data.")
    predictions = pd.concat(
        [checkpoint.read_predictions(folder).assign(fold=fold) for fold, folder in folders.items()], ignore_index=True
    )
    by_id = dict(zip(table[own.id_column], groups_of(table, own), strict=True))
    return Run(own, folders, table, predictions.assign(group=predictions["id"].map(by_id)))


def _finished(config: Config) -> dict[int, Path]:
    found = {}
    for fold in range(config.n_folds):
        places = [checkpoint.fold_folder(config, fold)]
        if config.resume_from:
            with contextlib.suppress(InputError):  # it may be the folder of another fold alone
                places.append(earlier_output(dataclasses.replace(config, fold=fold)))
        places += sorted(KAGGLE_INPUT.glob(f"**/{config.run_name}/fold-{fold}"))  # outputs of kernels, attached
        if finished := [place for place in places if place and checkpoint.is_finished(place)]:
            found[fold] = finished[0]
    return found


def train_in_a_process(config: Config) -> Path:
    """Train a fold in a process of its own, as Apex asks, showing what it says; the fold's folder.

    Raises InputError with its last line if it fails.
    """
    config = dataclasses.replace(config, resume_from="", retrain=False, time_limit_hours=0.0)
    usual = Config.make(config.preset).to_dict()
    command = [sys.executable, "-m", "utils.fold", "-p", "preset", config.preset]
    for name, value in config.to_dict().items():
        if value != usual[name]:
            command += ["-p", name, ",".join(value) if isinstance(value, tuple) else str(value)]
    path = os.pathsep.join(filter(None, [str(runtime.ROOT), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        last = ""
        for last in process.stdout:
            print(last, end="")
    if process.returncode:
        raise InputError(f"fold {config.fold} could not be trained: {last.strip().removeprefix('InputError: ')}")
    return checkpoint.fold_folder(config)


def compare_weights(run: Run) -> pd.DataFrame:
    """A row a fold and kind of weights, and of all held-out rows together (fold "all").

    Columns: rmse with its 95 % interval (low, high), r2, spearman, batch_rmse, and p, of the averaged weights against
    these (``paired_test``).
    """
    rows = []
    folds = run.predictions["fold"].to_numpy()
    for fold in [*run.folders, "all"]:
        chosen = np.ones(len(folds), dtype=bool) if fold == "all" else folds == fold
        groups = run.predictions["group"].to_numpy()[chosen]
        for kind in run.kinds:
            targets, predictions = run.values("target")[chosen], run.values(kind)[chosen]
            errors = (predictions - targets) ** 2
            low, high = rmse_interval(errors, groups)
            scores = score(targets, predictions, list(run.config.target_columns))
            p = float("nan")
            if kind != "swa" and "swa" in run.kinds:
                p = paired_test(run.squared_errors("swa")[chosen], errors, groups)
            rows.append({"fold": fold, "weights": kind, "rmse": scores["rmse"], "low": low, "high": high,
                         "r2": scores["r2"], "spearman": scores["spearman"],
                         "batch_rmse": batch_rmse(targets, predictions), "p": p})  # fmt: skip
    return pd.DataFrame(rows)


def verdict(comparison: pd.DataFrame) -> str:
    """What the averaging did, in a sentence or two, over all held-out texts; if it did not help, that."""
    overall = comparison[comparison["fold"] == "all"].set_index("weights")
    if "swa" not in overall.index:
        return "Nothing was averaged in this run."
    said = []
    for kind, name in {"last": "the last weights", "best": "the best epoch's"}.items():
        if kind not in overall.index:
            continue
        gain, p = overall.loc[kind, "rmse"] - overall.loc["swa", "rmse"], overall.loc[kind, "p"]
        sure = "a difference that chance would seldom make" if p < 0.05 else "no more than chance would make"
        word = "lower" if gain > 0 else "higher"
        difference = f"{abs(gain):.4f} {word} than" if abs(gain) >= 5e-5 else "to four digits the same as"
        said.append(f"{difference} with {name} (p = {p:.2g}: {sure})")
    others = overall.drop(index="swa")
    lower, sure = others["rmse"] > overall.loc["swa", "rmse"], others["p"] < 0.05
    if (sure & ~lower).any():
        opening = "Averaging helped in part" if (sure & lower).any() else "Averaging did not help"
    elif (sure & lower).any():
        opening = "Averaging helped" if lower.all() else "Averaging helped in part"
    else:
        opening = "Averaging may have helped, or luck has" if lower.any() else "Averaging did not help"
    return f"**{opening}**: over all held-out texts, the RMSE of the averaged weights is {', and '.join(said)}."
