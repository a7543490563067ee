"""The folds to train, from what was asked for: names and values, of which lists and ranges make a grid."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from utils import checkpoint, runtime, state
from utils.config import PRESETS, Config, InputError
from utils.data import add_folds, fingerprint, load_table
from utils.model import read_encoder_config
from utils.resume import earlier_output, refuse_changes

#: A comma in these is part of the name.
WHOLE = ("run", "output_dir", "resume_from")
TYPES = {field.name: field.type for field in dataclasses.fields(Config)}


@dataclass(frozen=True)
class Job:
    """One fold to train, as notebook 02 does it."""

    config: Config
    given: dict  # the notebook's parameters

    @property
    def folder(self) -> Path:
        return checkpoint.fold_folder(self.config)

    @property
    def run_folder(self) -> Path:
        return self.folder.parent

    @property
    def notebook(self) -> Path:
        """Where the executed notebook goes."""
        return self.run_folder / f"02_fold{self.config.fold}.ipynb"

    @property
    def finished(self) -> bool:
        return checkpoint.is_finished(self.folder)

    def going_on(self) -> "Job":
        """The same without ``retrain``: the batch removes the old fold itself, once, before the first try."""
        if not self.config.retrain:
            return self
        own = {name: value for name, value in self.given.items() if name not in ("retrain", "resume_from")}
        return Job(dataclasses.replace(self.config, retrain=False, resume_from=""), own)


def read_words(words: list[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs, dashes in names standing for underscores."""
    given, words = {}, list(words)
    while words:
        word = words.pop(0)
        if not re.match(r"--\w", word):
            raise InputError(f"{word!r} has no name; write --NAME VALUE, such as --fold 0-4.")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words or re.match(r"--\w", words[0]):
                refuse_unknown([name.replace("-", "_")])  # a mistyped name is the likelier mistake
                raise InputError(f"{word} has no value; write {word} VALUE.")
            value = words.pop(0)
        given[name.replace("-", "_")] = value
    return given


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise InputError for a name that notebook 02 does not have, with the nearest that it has."""
    Config.make(**dict.fromkeys(set(names) - {"preset"}))


def read_yaml(path: str) -> dict:
    """The parameters in a YAML file: names and values, a list for a grid."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8'}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{path} is no YAML{f', line {mark.line + 1}' if mark else ''}; write NAME: VALUE.") from None
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{path} holds no parameters; write a line NAME: VALUE for each.")
    return given


def expand(given: dict) -> list[Job]:
    """All combinations of the values given, every fold of each unless some are named.

    Raises InputError for names and values that cannot be, and for two combinations that would share a folder.
    """
    refuse_unknown(given)
    given = {name: value for name, value in given.items() if value is not None}
    axes = {name: read_values(name, value) for name, value in given.items()}
    folds = axes.pop("fold", None)
    varied = [name for name, values in axes.items() if len(values) > 1]
    jobs = []
    for chosen in itertools.product(*axes.values()):
        combination = dict(zip(axes, chosen, strict=True))
        named = [name for name in varied if "run" in axes or name not in ("preset", "data")]  # these name a run already
        if named:
            suffix = "".join(f"-{name}-{combination[name]}" for name in named)
            combination["run"] = Config.make(**combination).run_name + re.sub(r"[^\w.+-]+", "-", suffix)
        for fold in range(Config.make(**combination).n_folds) if folds is None else folds:
            own = {**combination, "fold": fold}
            config = Config.make(**own)
            plain = {name: getattr(config, name) for name in ("preset", *own)}
            jobs.append(Job(config, {name: ",".join(v) if isinstance(v, tuple) else v for name, v in plain.items()}))
    places = [job.folder for job in jobs]
    for job in jobs:
        if places.count(job.folder) > 1:
            raise InputError(
                f"two trainings would share {runtime.shown(job.folder)}; name each value once, or set run."
            )
    return jobs


def read_values(name: str, value) -> list:
    """The values that one parameter takes: "1,2,5-7", "a,b", a list from YAML, or the value itself."""
    plural = str(TYPES[name]).startswith("tuple")
    if name in WHOLE:
        if isinstance(value, list):
            raise InputError(f"{name}={value!r} cannot be used; it takes one value.")
        found = [str(value)]
    elif isinstance(value, list):
        found = [value] if plural and not any(isinstance(each, list) for each in value) else value
        found = [",".join(map(str, each)) if isinstance(each, list) else each for each in found]
    elif not isinstance(value, str) or plural:
        found = [value]
    else:
        found = [part.strip() for part in value.split(",") if part.strip()]
        if TYPES[name] is int:
            found = [number for part in found for number in read_range(name, part)]
    if not found:
        raise InputError(f"{name} has no value; leave it out, or name one.")
    return found


def read_range(name: str, part: str) -> list:
    ends = re.fullmatch(r"(\d+)-(\d+)", part)
    if not ends:
        return [part]
    first, last = map(int, ends.groups())
    if first > last:
        raise InputError(f"{name}={part} runs backwards; write {last}-{first}.")
    if last - first > 10_000:
        raise InputError(f"{name}={part} are too many values.")
    return list(range(first, last + 1))


def check(jobs: list[Job]) -> None:
    """Raise InputError for what would make a fold fail at its start: encoder, data, folders of other trainings."""
    for encoder in {job.config.encoder for job in jobs}:
        read_encoder_config(encoder)
    for config, alike in by_data(jobs):
        table = add_folds(load_table(config), config)
        there, print_ = set(table["fold"]), fingerprint(table, config)
        for job in alike:
            if job.config.fold not in there:
                raise InputError(f"fold {job.config.fold} holds no rows; choose from {sorted(there)}.")
            if not job.config.retrain:
                begun = checkpoint.is_finished(job.folder) or state.newest(job.folder / "state")
                for place in (job.folder if begun else None, earlier_output(job.config)):
                    if place is not None:
                        refuse_changes(checkpoint.read_about(place), job.config, print_, place)
            # Folds of the same run that others have trained: the run's scores are of all of them.
            for place in set(job.run_folder.glob("fold-*")) - {other.folder for other in jobs}:
                if checkpoint.is_finished(place):
                    about = checkpoint.read_about(place)
                    like = dataclasses.replace(job.config, fold=about["config"]["fold"])
                    refuse_changes(about, like, print_, place)


def by_data(jobs: list[Job]) -> Iterator[tuple[Config, list[Job]]]:
    """Jobs that share a table and its folds, so that each is read once."""
    names = ("data", "id_column", "text_column", "target_columns", "group_column", "max_rows", "n_folds", "fold_by",
             "seed")  # fmt: skip
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(tuple(getattr(job.config, name) for name in names), []).append(job)
    for alike in groups.values():
        yield alike[0].config, alike


def varied(jobs: list[Job]) -> list[str]:
    """The parameters in which the jobs differ, beside fold and run."""
    names = [name for name in jobs[0].given if name not in ("fold", "run")]
    return [name for name in names if len({str(job.given[name]) for job in jobs}) > 1]


def base_name(jobs: list[Job], given: dict) -> str:
    """The folder of the batch's summary: the run's, or, of a grid, one named after what varies."""
    if len({job.config.run_name for job in jobs}) == 1:
        return jobs[0].config.run_name
    presets = [name for name in PRESETS if any(job.config.preset == name for job in jobs)]
    names = [name for name in varied(jobs) if name != "preset"]
    return "-".join([str(given.get("run") or "+".join(presets)), *names])
