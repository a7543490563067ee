"""A run's folds on this machine and their copies at a URL that fsspec knows (s3://, gs://, file://, ...)."""

import contextlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

import fsspec

from batch.grid import Job
from utils.config import InputError
from utils.machine.files import atomic_folder
from utils.runs.fold import close_fold
from utils.runs.guards import lock_fold
from utils.runs.seal import MANIFEST, verify


class Mirror:
    """A local ``folder`` and its copy at ``url``; of each fold, the copy that is further on is kept."""

    def __init__(self, folder: Path, url: str):
        self.folder = folder
        try:
            self.remote, self.root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(f"{url!r} cannot be used: {error}.") from None
        self.synced: dict[str, tuple[int, int]] = {}  # stamps of the files whose two copies are the same

    @classmethod
    def of_run(cls, job: Job, url: str) -> "Mirror":
        """The mirror of a job's run; ``url`` is the folder of all runs."""
        return cls(job.run_folder, f"{url}/{job.config.run_name}")

    def pull(self, fold: str, always: bool = False) -> None:
        """Replace the local fold as a whole if the remote one is further on, or ``always``.

        Raises InputError, and leaves the local one, if the remote one is finished and damaged.
        """
        self.remote.invalidate_cache()
        files = complete(self.remote_files(fold))
        ahead = progress(files) > progress(self.local_files(fold)) and not self.is_replaced(fold)
        if not files or not (ahead or always):
            return
        with lock_fold(self.folder / fold), atomic_folder(self.folder / fold) as new:
            for file in files:
                target = new / PurePosixPath(file).relative_to(fold)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.remote.get_file(f"{self.root}/{file}", str(target))
            if f"{fold}/{MANIFEST}" in files:
                verify(new, where=f"{self.root}/{fold}")
        self.synced |= {file: self.stamp(file) for file in files}

    def push(self, *names: str) -> None:
        """Copy what has changed in these files and folders; remove remote files that are gone here.

        Raises FileNotFoundError if a file is replaced meanwhile; the next call copies the new one.
        """
        local = [file for name in names for file in self.local_files(name)]
        self.remote.invalidate_cache()
        # Whoever wrote them; but nothing is gone of a fold that never began here.
        copied = [name for name in names if any(file.split("/")[0] == name for file in local)]
        gone = {file for name in copied for file in self.remote_files(name)} - set(local)
        self.remove(file for file in gone if is_sealed([file]))  # of a fold that is trained anew
        # What marks a state as complete, and then a fold, is copied last.
        for file in sorted(local, key=lambda file: (file.endswith(MANIFEST), -file.count("/"), file)):
            stamp = self.stamp(file)
            if self.synced.get(file) != stamp:
                self.remote.makedirs(f"{self.root}/{PurePosixPath(file).parent}", exist_ok=True)
                self.remote.put_file(str(self.folder / file), f"{self.root}/{file}")
                self.synced[file] = stamp
        self.remove(gone)

    def remove(self, files: Iterable[str]) -> None:
        """Delete remote files."""
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                self.remote.rm_file(f"{self.root}/{file}")
            self.synced.pop(file, None)

    def is_replaced(self, fold: str) -> bool:
        """Whether the remote fold is of an earlier training than the local one."""
        remote, local = f"{self.root}/{fold}/run.json", self.folder / fold / "run.json"
        try:
            begun = [
                json.loads(text)["started"] for text in (self.remote.cat_file(remote), local.read_bytes())
            ]
            return begun[0] < begun[1]
        except (OSError, ValueError, KeyError, TypeError):  # there is no such training
            return False

    def is_ahead(self, fold: str) -> bool:
        """Whether the local fold is further on than the remote one."""
        return progress(self.local_files(fold)) > progress(self.remote_files(fold))

    def local_files(self, name: str) -> list[str]:
        """The file or the folder's files, except those being written, which begin with a dot."""
        paths = [self.folder / name, *(self.folder / name).rglob("*")]
        files = [path.relative_to(self.folder) for path in paths if path.is_file()]
        return [file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)]

    def remote_files(self, name: str) -> list[str]:
        return [path.removeprefix(f"{self.root}/") for path in self.remote.find(f"{self.root}/{name}")]

    def stamp(self, file: str) -> tuple[int, int]:
        status = (self.folder / file).stat()
        return status.st_mtime_ns, status.st_size


def state_of(file: str) -> str:
    """The state that a fold's file belongs to, such as "step-00000012"; "" for another file."""
    parts = PurePosixPath(file).parts
    return parts[2] if len(parts) > 3 and parts[1] == "state" else ""


def is_sealed(files: Collection[str]) -> bool:
    """Whether these are the files of a fold that has been trained to its end."""
    return any(file.count("/") == 1 and file.endswith(f"/{MANIFEST}") for file in files)


def complete(files: Collection[str]) -> list[str]:
    """The files without states whose copying was cut short: these lack the manifest, which comes last.

    A finished fold needs no states.
    """
    whole = {state_of(file) for file in files if file.count("/") == 3 and file.endswith(MANIFEST)}
    whole = set() if is_sealed(files) else whole
    return [file for file in files if state_of(file) in whole | {""}]


def progress(files: Collection[str]) -> tuple[bool, str]:
    """How far the fold made of these files is, comparable: whether it is finished, and its latest state."""
    states = [] if is_sealed(files) else [state_of(file) for file in files if state_of(file)]
    return not states and any(file.endswith("/result.json") for file in files), max(states, default="")


def synchronize(jobs: list[Job], mirror_url: str) -> None:
    """Pull the folds that are further on at the mirror; push those that were finished here without it.

    Folds that are to be trained anew are left as they are.
    """
    for job in jobs:
        if job.config.retrain:
            continue
        mirror = Mirror.of_run(job, mirror_url)
        try:
            mirror.pull(job.folder.name)
            if job.finished and mirror.is_ahead(job.folder.name):
                close_fold(job.folder)
                mirror.push(job.folder.name, job.notebook.name)
        except InputError:
            raise
        except Exception as error:  # each file system of fsspec has errors of its own
            reason = str(error).split("\n")[0] or type(error).__name__
            raise InputError(f"--mirror {mirror_url} cannot be used ({reason}).") from None
