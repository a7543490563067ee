"""Files and folders that appear whole or not at all, and are on the disk by the time they appear."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
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
    finally:
        temporary.unlink(missing_ok=True)


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
    """Remove what killed processes left of ``atomic_folder``. Nobody else may be writing these folders."""
    for folder in folders:
        for path in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(path, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """Wait until the disk holds ``path``, a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: dict) -> None:
    """JSON, with NaN as null."""
    clean = json.loads(json.dumps(content, default=str), parse_constant=lambda name: None)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(clean, indent=2) + "\n", encoding="utf-8")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV with full precision."""
    with atomic_file(path) as temporary:
        temporary.write_text(table.to_csv(index=False), encoding="utf-8", newline="")


def digest(path: Path) -> str:
    """A file's sha256; empty if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_reason(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, shutil.Error):  # of a whole folder: a list of (source, target, reason)
        return str(error.args[0][0][-1])
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
