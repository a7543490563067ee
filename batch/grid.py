"""The folds to train: every combination of the parameters' values, checked before anything starts."""

import dataclasses
import itertools
import operator
import re
from dataclasses import dataclass
from pathlib import Path

from batch.parameters import parse_values
from utils.config import PRESETS, Config, InputError, check_names
from utils.data.table import fingerprint
from utils.machine import runtime
from utils.machine.encoders import read_encoder_config
from utils.runs import artifacts, checkpoint
from utils.runs.resume import check_same_training, earlier_output, read_started
from utils.runs.seal import read_json
from utils.tasks import add_folds, load_table, make_task


@dataclass(frozen=True)
class Job:
    """One fold to train by executing notebook 02."""

    config: Config
    parameters: dict  # of the notebook; they make the same Config

    @property
    def name(self) -> str:
        return f"{self.config.run_name}, fold {self.config.fold}"

    @property
    def folder(self) -> Path:
        return artifacts.fold_folder(self.config)

    @property
    def run_folder(self) -> Path:
        return self.folder.parent

    @property
    def notebook(self) -> Path:
        """Where the executed notebook goes."""
        return self.run_folder / f"02_fold{self.config.fold}.ipynb"

    @property
    def finished(self) -> bool:
        return artifacts.is_finished(self.folder)

    @property
    def started(self) -> str:
        """When the training in the job's folder was begun; "" if there is none."""
        try:
            return str(read_json(self.folder / "run.json").get("started", ""))
        except InputError:
            return ""

    def replace(self, **values) -> "Job":
        """This job with other parameters."""
        return Job(dataclasses.replace(self.config, **values), {**self.parameters, **values})


def expand(parameters: dict) -> list[Job]:
    """A job per fold and combination of the parameters' values; all folds, unless ``fold`` is given.

    Raises InputError for unknown names and invalid values, and for combinations that would share a folder.
    """
    check_names(parameters)
    axes = {name: parse_values(name, value) for name, value in parameters.items()}
    folds = axes.pop("fold", None)
    jobs = []
    for values in itertools.product(*axes.values()):
        combination = name_run(dict(zip(axes, values, strict=True)), axes)
        for fold in folds or range(Config.make(**combination).n_folds):
            jobs.append(make_job({**combination, "fold": fold}))
    folders = [job.folder for job in jobs]
    if shared := [runtime.display_path(folder) for folder in folders if folders.count(folder) > 1]:
        raise InputError(f"two trainings would share {shared[0]}; name each value once, or set run.")
    return jobs


def name_run(combination: dict, axes: dict[str, list]) -> dict:
    """``combination`` with a run named after the values that vary, so that each has a folder of its own."""
    varied = [name for name, values in axes.items() if len(values) > 1]
    if "run" not in axes:
        varied = [name for name in varied if name not in ("preset", "data")]  # run_name has these already
    if not varied:
        return combination
    suffix = "".join(f"-{name}-{combination[name]}" for name in varied)
    run = Config.make(**combination).run_name + re.sub(r"[^\w.+-]+", "-", suffix)
    return {**combination, "run": run}


def make_job(parameters: dict) -> Job:
    """The job of one combination, its parameters as Config converts them."""
    config = Config.make(**parameters)
    make_task(config)  # checks task, loss and pooling
    values = {name: getattr(config, name) for name in ("preset", *parameters)}
    return Job(config, {k: ",".join(v) if isinstance(v, tuple) else v for k, v in values.items()})


def varied_names(jobs: list[Job]) -> list[str]:
    """The parameters in which the jobs differ, apart from fold and run."""
    names = [name for name in jobs[0].parameters if name not in ("fold", "run")]
    return [name for name in names if len({str(job.parameters[name]) for job in jobs}) > 1]


def batch_name(jobs: list[Job], parameters: dict) -> str:
    """The folder of the batch's summary: the run's; for a grid, one named after what varies."""
    if len({job.config.run_name for job in jobs}) == 1:
        return jobs[0].config.run_name
    presets = [name for name in PRESETS if any(job.config.preset == name for job in jobs)]
    names = [name for name in varied_names(jobs) if name != "preset"]
    return "-".join([str(parameters.get("run") or "+".join(presets)), *names])


def check(jobs: list[Job]) -> None:
    """Raise InputError for what would fail at the start: encoder, data, folders that hold other trainings."""
    for encoder in {job.config.encoder for job in jobs}:
        read_encoder_config(encoder)
    for group in group_by_data(jobs):
        table = add_folds(load_table(group[0].config), group[0].config)
        folds, data = set(table["fold"]), fingerprint(table, group[0].config)
        for job in group:
            if job.config.fold not in folds:
                raise InputError(f"fold {job.config.fold} holds no rows; choose from {sorted(folds)}.")
            check_folders(job, data, batch_folders={other.folder for other in jobs})


def group_by_data(jobs: list[Job]) -> list[list[Job]]:
    """Jobs that share a table and its folds, so that each table is read once."""
    names = ("task", "data", "id_column", "text_column", "pair_column", "target_columns", "group_column")
    folds = ("max_rows", "n_folds", "fold_by", "exact_copies", "near_copies", "seed")
    key = operator.attrgetter(*names, "no_answer", *folds)
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(key(job.config), []).append(job)
    return list(groups.values())


def check_folders(job: Job, data: str, batch_folders: set[Path]) -> None:
    """Raise InputError if the job's folder, or another fold of its run, holds a training that does not match.

    ``data`` is the fingerprint of the job's table. ``batch_folders`` are those that the batch itself trains.
    """
    if not job.config.retrain:
        started = artifacts.is_finished(job.folder) or checkpoint.latest(job.folder / "state")
        for folder in (job.folder if started else None, earlier_output(job.config)):
            if folder is not None:
                check_same_training(read_started(folder), job.config, data, folder)
    for folder in set(job.run_folder.glob("fold-*")) - batch_folders:  # the run is scored with these too
        if artifacts.is_finished(folder):
            metadata = artifacts.read_metadata(folder)
            config = dataclasses.replace(job.config, fold=metadata["config"]["fold"])
            check_same_training(metadata, config, data, folder)
