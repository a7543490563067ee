"""The state of an unfinished training: written whole or not at all, and proven whole before it is used.

A state is a folder ``step-<n>``: weights as safetensors, everything else in rest.pt (read with
``weights_only=True``, so that no code comes with it), and manifest.json with what was trained and every
file's sha256.
"""

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.config import InputError
from utils.machine.files import atomic_folder, digest, short_reason
from utils.machine.runtime import display_path

FORMAT = 3  # of the files; a state of another format is refused
_WAY_OUT = "set retrain=True to start anew."


class Checkpoint(NamedTuple):
    """What ``save`` writes and ``load`` gives back."""

    step: int
    metadata: dict  # the fold's run.json
    weights: dict[str, dict[str, torch.Tensor]]  # by file
    rest: dict  # tensors, numbers, strings and plain containers of them


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``folder/step-<n>`` and remove earlier states. Killed at any moment, one whole state remains.

    Raises InputError when the disk is full or read-only; the earlier state is still there then.
    """
    path = folder / f"step-{checkpoint.step:08d}"
    try:
        with atomic_folder(path) as new:
            _write(new, checkpoint)
    except (
        OSError,
        SafetensorError,
        RuntimeError,
    ) as error:  # torch.save reports a full disk as a RuntimeError
        if "DataLoader worker" in str(error):
            raise  # the signal of its death may arrive just here
        kept = latest(folder)
        remains = f"the state of {kept.name} is still there" if kept else "there is no earlier one"
        raise InputError(
            f"the state of step {checkpoint.step} could not be saved in {display_path(folder)} "
            f"({short_reason(error)}); {remains}; free some space and run again."
        ) from None
    prune(folder, keep=path)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    for name, tensors in checkpoint.weights.items():
        # Clones, since safetensors refuses tensors that share memory.
        save_file({key: value.detach().cpu().clone() for key, value in tensors.items()}, folder / name)
    torch.save(checkpoint.rest, folder / "rest.pt")
    files = {path.name: digest(path) for path in sorted(folder.iterdir())}
    content = {"format": FORMAT, "step": checkpoint.step, "metadata": checkpoint.metadata, "files": files}
    sealed = {"content": content, "sha256": _seal(content)}
    (folder / "manifest.json").write_text(json.dumps(sealed), encoding="utf-8")


def latest(folder: Path) -> Path | None:
    """The state of the latest step, or None."""
    return max(folder.glob("step-*"), default=None)


def prune(folder: Path, keep: Path | None) -> None:
    """Remove every state but ``keep``, and what a killed run left half-written."""
    for path in [*folder.glob("step-*"), *folder.glob(".step-*")]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def read_manifest(path: Path) -> dict:
    """What the state at ``path`` says of itself, its files proven to be those that were written.

    Raises InputError naming the first file that is missing, cut short or altered, or a state of another
    format.
    """
    manifest = path / "manifest.json"
    where = display_path(manifest)
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
            raise InputError(f"{display_path(path / name)} is missing, cut short or altered; {_WAY_OUT}")
    return content


def load(path: Path) -> Checkpoint:
    """The state at ``path``, after ``read_manifest`` has proven it whole."""
    content = read_manifest(path)
    try:
        weights = {name: load_file(path / name) for name in content["files"] if name.endswith(".safetensors")}
        rest = torch.load(path / "rest.pt", map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise InputError(
            f"{display_path(path / 'rest.pt')} or its weights cannot be read; {_WAY_OUT}"
        ) from None
    return Checkpoint(content["step"], content["metadata"], weights, rest)


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
