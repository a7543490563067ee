"""A run's folds on this machine and their copies at a URL that fsspec knows (s3://, gs://, file://, ...)."""

import contextlib
import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import fsspec

from batch.grid import Job
from utils.config import InputError
from utils.machine.files import atomic_folder
from utils.runs.guards import lock_fold


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

    def pull(self, fold: str, if_equal: bool = False) -> None:
        """Replace the local fold as a whole if the remote one is further on (``if_equal``: or as far)."""
        self.remote.invalidate_cache()
        files = complete(self.remote_files(fold))
        remote, local = progress(files), progress(self.local_files(fold))
        if not files or remote < local or (remote == local and not if_equal):
            return
        with lock_fold(self.folder / fold), atomic_folder(self.folder / fold) as new:
            for file in files:
                target = new / PurePosixPath(file).relative_to(fold)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.remote.get_file(f"{self.root}/{file}", str(target))
        self.synced |= {file: self.stamp(file) for file in files}

    def push(self, *names: str) -> None:
        """Copy what has changed in these files and folders; remove remote files that are gone here.

        Raises FileNotFoundError if a file is replaced meanwhile; the next call copies the new one.
        """
        local = [file for name in names for file in self.local_files(name)]
        # What marks a state or a fold as complete is copied last.
        for file in sorted(local, key=lambda file: (file.endswith(("manifest.json", "result.json")), file)):
            stamp = self.stamp(file)
            if self.synced.get(file) != stamp:
                self.remote.makedirs(f"{self.root}/{PurePosixPath(file).parent}", exist_ok=True)
                self.remote.put_file(str(self.folder / file), f"{self.root}/{file}")
                self.synced[file] = stamp
        # Whoever wrote them: a state left beside a finished fold would make it look unfinished.
        self.remote.invalidate_cache()
        for file in {file for name in names for file in self.remote_files(name)} - set(local):
            with contextlib.suppress(FileNotFoundError):
                self.remote.rm_file(f"{self.root}/{file}")
            self.synced.pop(file, None)

    def is_ahead(self, fold: str) -> bool:
        """Whether the local fold is further on than the remote one."""
        return progress(self.local_files(fold)) > progress(self.remote_files(fold))

    def remove(self, fold: str) -> None:
        """Delete the remote fold."""
        if self.remote.exists(f"{self.root}/{fold}"):
            self.remote.rm(f"{self.root}/{fold}", recursive=True)

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


def complete(files: Collection[str]) -> list[str]:
    """The files without states whose copying was cut short: these lack the manifest, which comes last."""
    cut = [file for file in files if f"{PurePosixPath(file).parent}/manifest.json" not in files]
    return [file for file in files if "/state/" not in file or file not in cut]


def progress(files: Collection[str]) -> tuple[bool, str]:
    """How far the fold made of these files is, comparable: whether it is finished, and its latest state."""
    states = [PurePosixPath(file).parent.name for file in files if "/state/" in file]
    return not states and any(file.endswith("/result.json") for file in files), max(states, default="")


def discard(job: Job, mirror_url: str) -> None:
    """Remove a fold, and its copy at the mirror."""
    with lock_fold(job.folder):
        shutil.rmtree(job.folder, ignore_errors=True)
    if mirror_url:
        Mirror.of_run(job, mirror_url).remove(job.folder.name)


def synchronize(jobs: list[Job], mirror_url: str) -> None:
    """Pull the folds that are further on at the mirror; push those that were finished here without it."""
    for job in jobs:
        mirror = Mirror.of_run(job, mirror_url)
        try:
            mirror.pull(job.folder.name)
            if job.finished and mirror.is_ahead(job.folder.name):
                mirror.push(job.folder.name, job.notebook.name)
        except InputError:
            raise
        except Exception as error:  # each file system of fsspec has errors of its own
            reason = str(error).split("\n")[0] or type(error).__name__
            raise InputError(f"--mirror {mirror_url} cannot be used ({reason}).") from None
