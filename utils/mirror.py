"""A run's folds here and their copies at an address that fsspec knows (s3://, gs://, file://, ...)."""

import contextlib
import os
import shutil
from pathlib import Path, PurePosixPath

import fsspec

from utils.config import InputError
from utils.faults import only_run


class Mirror:
    """``folder`` here and its copy at ``address``; of a fold, the one that is further on replaces the other."""

    def __init__(self, folder: Path, address: str):
        self.folder = folder
        try:
            self.files, self.root = fsspec.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise InputError(f"{address!r} cannot be used: {error}.") from None
        self.same: dict[str, tuple[int, int]] = {}  # stamps of the files that are the same here and there

    def pull(self, fold: str, again: bool = False) -> None:
        """Bring a fold here if it is further on there (``again``: or as far); it appears when it is whole."""
        self.files.invalidate_cache()
        there = {path.removeprefix(f"{self.root}/"): path for path in self.files.find(f"{self.root}/{fold}")}
        # States that were being copied when their writer died lack the manifest, which comes last.
        there = {name: path for name, path in there.items()
                 if "/state/" not in name or f"{PurePosixPath(name).parent}/manifest.json" in there}  # fmt: skip
        ahead, here = progress(there), progress(self.names(fold))
        if not there or ahead < here or (ahead == here and not again):
            return
        with only_run(self.folder / fold):
            part = self.folder / f".{fold}.part"
            shutil.rmtree(part, ignore_errors=True)
            for name, path in there.items():
                target = part / PurePosixPath(name).relative_to(fold)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.files.get_file(path, str(target))
            shutil.rmtree(self.folder / fold, ignore_errors=True)
            os.replace(part, self.folder / fold)
        self.same |= {name: self.stamp(name) for name in there}

    def push(self, *names: str) -> None:
        """Copy the named files and folders there as far as they have changed, and remove what is gone.

        Raises FileNotFoundError if a file is replaced meanwhile; the next call makes good for it.
        """
        here = [name for each in names for name in self.names(each)]
        # What makes a state or a fold whole is copied last.
        for name in sorted(here, key=lambda name: (name.endswith(("manifest.json", "result.json")), name)):
            stamp = self.stamp(name)
            if self.same.get(name) != stamp:
                self.files.makedirs(f"{self.root}/{PurePosixPath(name).parent}", exist_ok=True)
                self.files.put_file(str(self.folder / name), f"{self.root}/{name}")
                self.same[name] = stamp
        # Whoever wrote them: a state that stayed beside a finished fold would make it look unfinished.
        self.files.invalidate_cache()
        there = [
            path.removeprefix(f"{self.root}/") for each in names for path in self.files.find(f"{self.root}/{each}")
        ]
        for name in set(there) - set(here):
            with contextlib.suppress(FileNotFoundError):
                self.files.rm_file(f"{self.root}/{name}")
            self.same.pop(name, None)

    def is_ahead(self, fold: str) -> bool:
        """Whether a fold is further on here than there."""
        there = [path.removeprefix(f"{self.root}/") for path in self.files.find(f"{self.root}/{fold}")]
        return progress(self.names(fold)) > progress(there)

    def remove(self, fold: str) -> None:
        """Forget a fold, here and there."""
        with only_run(self.folder / fold):
            shutil.rmtree(self.folder / fold, ignore_errors=True)
        if self.files.exists(f"{self.root}/{fold}"):
            self.files.rm(f"{self.root}/{fold}", recursive=True)

    def names(self, name: str) -> list[str]:
        """The files here that ``name`` stands for, but for those that are being written: they begin with a dot."""
        paths = [self.folder / name, *(self.folder / name).rglob("*")]
        found = [path.relative_to(self.folder).as_posix() for path in paths if path.is_file()]
        return [path for path in found if not any(part.startswith(".") for part in path.split("/"))]

    def stamp(self, name: str) -> tuple[int, int]:
        found = (self.folder / name).stat()
        return found.st_mtime_ns, found.st_size


def progress(names) -> tuple[bool, str]:
    """How far a fold has come that consists of these files, to be compared: finished, and else its newest state."""
    states = [PurePosixPath(name).parent.name for name in names if "/state/" in name]
    return not states and any(name.endswith("/result.json") for name in names), max(states, default="")
