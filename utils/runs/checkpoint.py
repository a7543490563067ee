"""The state of an unfinished training: written whole or not at all, and proven whole before it is used.

A state is a sealed folder ``step-<n>``: weights as safetensors, the best weights as they lie in the fold's
best/, and everything else in rest.pt (read with ``weights_only=True``, so that no code comes with it).
"""

import io
import pickle
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.config import InputError
from utils.machine.files import atomic_folder, link_or_copy, short_reason
from utils.machine.runtime import display_path
from utils.runs import seal
from utils.runs.guards import is_file_error


class Checkpoint(NamedTuple):
    """What ``save`` writes and ``load`` gives back."""

    step: int
    metadata: dict  # the fold's run.json
    weights: dict[str, dict[str, torch.Tensor]]  # by file
    rest: dict  # tensors, numbers, strings and plain containers of them
    best: Path | None  # the folder of the best weights


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``folder/step-<n>`` and remove earlier states. Killed at any moment, one whole state remains.

    Raises InputError when the disk is full or read-only; the earlier state is still there then.
    """
    path = folder / f"step-{checkpoint.step:08d}"
    try:
        with atomic_folder(path) as new:
            _write(new, checkpoint)
    except Exception as error:
        if not is_file_error(error):
            raise
        kept = latest(folder)
        remains = f"the state of {kept.name} is still there" if kept else "there is no earlier one"
        raise InputError(
            f"the state of step {checkpoint.step} could not be saved in {display_path(folder)} "
            f"({short_reason(error)}); {remains}; free some space and run again."
        ) from None
    prune(folder, keep=path)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    for name, tensors in checkpoint.weights.items():
        save_file(apart(tensors), folder / name)
    rest = io.BytesIO()  # given a path or a file, torch hides why it could not write
    torch.save(checkpoint.rest, rest)
    (folder / "rest.pt").write_bytes(rest.getbuffer())
    if checkpoint.best is not None:
        copy_best(checkpoint.best, folder / "best")
    seal.seal(folder, step=checkpoint.step, metadata=checkpoint.metadata)


def apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``tensors`` on the CPU, no two of them in the same memory, which safetensors refuses."""
    result, taken = {}, set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        result[name] = value.clone() if memory in taken else value
        taken.add(memory)
    return result


def copy_best(source: Path, target: Path) -> None:
    """Replace ``target`` by the best weights in ``source``. It costs no space where files can be linked."""
    with atomic_folder(target) as new:
        shutil.copytree(source, new, copy_function=link_or_copy, dirs_exist_ok=True)


def latest(folder: Path) -> Path | None:
    """The state of the latest step, or None."""
    return max(folder.glob("step-*"), default=None)


def prune(folder: Path, keep: Path | None) -> None:
    """Remove every state but ``keep``, and what a killed run left half-written."""
    for path in [*folder.glob("step-*"), *folder.glob(".step-*")]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def load(path: Path) -> Checkpoint:
    """The state at ``path``, proven whole."""
    content = seal.verify(path)
    names = [name for name in content["files"] if name.endswith(".safetensors") and "/" not in name]
    try:
        weights = {name: load_file(path / name) for name in names}
        rest = torch.load(path / "rest.pt", map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError):
        raise InputError(
            f"{display_path(path / 'rest.pt')} or its weights cannot be read; {seal.WAY_OUT}"
        ) from None
    best = path / "best" if "best/model.safetensors" in content["files"] else None
    return Checkpoint(content["step"], content["metadata"], weights, rest, best)
