"""The state of an unfinished training: written whole or not at all, and proven whole before it is used.

A state is a folder ``step-<n>``: weights as safetensors, everything else in rest.pt (read with ``weights_only=True``,
so that no code comes with it), and manifest.json with what was trained and every file's sha256.
"""

import hashlib
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils import runtime
from utils.config import InputError

FORMAT = 2  # of the files; a state of another format is refused


class State(NamedTuple):
    """What ``save`` writes and ``load`` gives back."""

    step: int
    about: dict  # the fold's config.json
    weights: dict[str, dict[str, torch.Tensor]]  # by file
    rest: dict  # tensors, numbers, strings and plain containers of them


def save(folder: Path, state: State) -> None:
    """Write ``folder/step-<n>`` and remove what was there before. Killed at any moment, one whole state remains.

    Raises InputError when the disk is full or read-only; the earlier state is still there then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            for name, tensors in state.weights.items():
                # Clones, since safetensors refuses tensors that share memory.
                save_file({key: value.detach().cpu().clone() for key, value in tensors.items()}, whole / name)
            torch.save(state.rest, whole / "rest.pt")
            files = {path.name: digest(path) for path in sorted(whole.iterdir())}
            content = {"format": FORMAT, "step": state.step, "about": state.about, "files": files}
            sealed = {"content": content, "sha256": _seal(content)}
            (whole / "manifest.json").write_text(json.dumps(sealed), encoding="utf-8")
            for path in [*whole.iterdir(), whole]:
                _flush(path)
            os.replace(whole, folder / f"step-{state.step:08d}")
            _flush(folder)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        if "DataLoader worker" in str(error):
            raise  # the signal of its death may arrive just here
        kept = newest(folder)
        remains = f"the state of {kept.name} is still there" if kept else "there is no earlier one"
        raise InputError(
            f"the state of step {state.step} could not be saved in {runtime.shown(folder)} ({reason(error)}); "
            f"{remains}; free some space and run again."
        ) from None
    prune(folder, keep=folder / f"step-{state.step:08d}")


def newest(folder: Path) -> Path | None:
    """The state of the latest step, or None."""
    return max(folder.glob("step-*"), default=None)


def prune(folder: Path, keep: Path | None) -> None:
    """Remove every state but ``keep``, and what a killed run left half-written."""
    for path in [*folder.glob("step-*"), *folder.glob(".new-*")]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def read_manifest(path: Path) -> dict:
    """What the state at ``path`` says of itself, its files proven to be those that were written.

    Raises InputError naming the first file that is missing, cut short or altered, or a state of another format.
    """
    manifest = path / "manifest.json"
    where = runtime.shown(manifest)
    try:
        sealed = json.loads(manifest.read_text(encoding="utf-8"))
        content, seal = sealed["content"], sealed["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{where} is missing or damaged; {_WAY_OUT}") from None
    if not isinstance(content, dict) or _seal(content) != seal:
        raise InputError(f"{where} has been altered; {_WAY_OUT}")
    if content["format"] != FORMAT:
        raise InputError(f"{where} is of format {content['format']}, this version reads {FORMAT}; {_WAY_OUT}")
    for name, expected in content["files"].items():
        if not (path / name).is_file() or digest(path / name) != expected:
            raise InputError(f"{runtime.shown(path / name)} is missing, cut short or altered; {_WAY_OUT}")
    return content


_WAY_OUT = "set retrain=True to start anew."


def load(path: Path) -> State:
    """The state at ``path``, after ``read_manifest`` has proven it whole."""
    content = read_manifest(path)
    try:
        weights = {name: load_file(path / name) for name in content["files"] if name.endswith(".safetensors")}
        rest = torch.load(path / "rest.pt", map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise InputError(f"{runtime.shown(path / 'rest.pt')} or its weights cannot be read; {_WAY_OUT}") from None
    return State(content["step"], content["about"], weights, rest)


def digest(path: Path) -> str:
    """A file's sha256; empty if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Have the disk hold ``path`` before anything that counts on it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    if isinstance(error, shutil.Error):  # of a whole folder: a list of (from, to, what)
        return str(error.args[0][0][-1])
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
