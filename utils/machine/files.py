"""Files and folders that appear whole or not at all, and are on the disk by the time they appear."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It replaces ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        temporary.touch()
        mode = _mode(temporary)
        yield temporary
        _set_mode(temporary, mode)
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file. Killed meanwhile, part of ``content`` may be there."""
    with path.open("ab") as file:
        file.write(content)
    flush_to_disk(path)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill. It replaces ``folder`` when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        mode = _mode(new)
        yield new
        for path in [*new.rglob("*"), new]:
            _set_mode(path, mode if path.is_dir() else mode & 0o666)
            flush_to_disk(path)
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(new, folder)
        flush_to_disk(folder.parent)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _set_mode(path: Path, mode: int) -> None:
    """Give the permissions that umask asks for: safetensors writes files that only their owner can read."""
    if _mode(path) != mode:
        path.chmod(mode)


def remove_leftovers(*folders: Path) -> None:
    """Remove what killed processes left of ``atomic_folder``, and of ``atomic_file`` inside these folders.

    A folder that was killed between its two renames is put back. Nobody else may be writing these folders.
    """
    for folder in folders:
        for path in folder.parent.glob(f".{folder.name}-*"):
            if not folder.exists() and (path / "old").is_dir():
                os.replace(path / "old", folder)
            shutil.rmtree(path, ignore_errors=True)
        for path in folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def link_or_copy(source: str, target: str) -> None:
    """``target`` as a second name of a file that nobody changes in place; a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def flush_to_disk(path: Path) -> None:
    """Wait until the disk holds ``path``, a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_json(content: dict) -> dict:
    """``content`` as it comes back from a JSON file, with NaN as null."""
    return json.loads(json.dumps(content, default=str), parse_constant=lambda name: None)


def write_json(path: Path, content: dict) -> None:
    """JSON, with NaN as null."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(as_json(content), indent=2) + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV with full precision."""
    with atomic_file(path) as temporary:
        temporary.write_text(table.to_csv(index=False), encoding="utf-8", newline="")


_digests: dict[tuple[int, int, int, int], str] = {}  # of files that have not changed since they were hashed


def digest(path: Path) -> str:
    """A file's sha256; empty if there is no such file. Hashing takes about 0.1 s per 100 MB, once a process.

    A file that was written less than two seconds ago is hashed again next time: the clock of file systems is
    too coarse to tell two such changes apart.
    """
    if not path.is_file():
        return ""
    status = path.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if stamp not in _digests or time.time() - status.st_mtime < 2:
        with path.open("rb") as file:
            _digests[stamp] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[stamp]


def short_reason(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, shutil.Error):  # of a whole folder: a list of (source, target, reason)
        return str(error.args[0][0][-1])
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
