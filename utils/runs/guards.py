"""What can go wrong around a training, said in one sentence, with what was saved kept."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from utils.config import InputError
from utils.machine import distributed
from utils.machine.files import short_reason
from utils.machine.runtime import display_path
from utils.training.setup import Training


@contextlib.contextmanager
def lock_fold(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this run; the system releases it however the run ends."""
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    where = display_path(folder)
    try:
        distributed.run_on_main(lambda: folder.parent.mkdir(parents=True, exist_ok=True))
        distributed.run_on_main(lambda: bool(lock.acquire()))
    except Timeout:
        raise InputError(f"another run is training {where}; wait for it, or set another run.") from None
    except OSError as error:
        raise InputError(f"{where} cannot be written ({error.strerror}); set output_dir.") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """A full disk and a dead loader process as InputErrors; what has been saved stays."""
    where = display_path(folder)
    kept = f"what was saved in {where} is kept"
    try:
        yield
    except Exception as error:
        if reason := _worker_failure(error):
            raise InputError(
                f"{reason}; {kept}: run again, with num_workers=0 if it happens again."
            ) from None
        if not isinstance(error, OSError | SafetensorError):
            raise
        raise InputError(
            f"{where} cannot be written ({short_reason(error)}); {kept}: free some space, run again."
        ) from None


def _worker_failure(error: Exception) -> str:
    """What happened to a loader's process; empty if the error is another."""
    caught = re.match(r"Caught (\w+) in DataLoader worker process", str(error))
    if caught:
        detail = str(error).strip().splitlines()[-1].removeprefix(f"{caught[1]}: ")
        return f"a data-loader process failed ({caught[1]}: {detail})"
    return "a data-loader process died" if "DataLoader worker" in str(error) else ""


def check_divergence(training: Training) -> None:
    """Raise InputError, naming step and texts, once a loss is no number.

    Looking waits for the GPU, so not always.
    """
    on_cpu = training.backend.device.type == "cpu"
    if on_cpu or training.step % 25 == 0 or training.evaluation_due():
        check_finite_losses(training)


def check_finite_losses(training: Training) -> None:
    """Look at once, as before a state is saved, which must not replace a good one by a diverged one."""
    if not training.losses:
        return
    finite = torch.stack(training.losses).isfinite()
    if finite.all():
        return
    index = int((~finite).nonzero()[0])
    value, step = float(training.losses[index]), training.step - len(finite) + 1 + index
    ids = ", ".join(texts_of_step(training, step))
    raise InputError(
        f"training diverged: the loss of step {step} is {value}, on the texts {ids}; lower lr, or look at "
        "these texts (the last state that was saved is kept)."
    )


def texts_of_step(training: Training, step: int) -> list[str]:
    """The ids of the texts that an optimizer step, counted from 1, was taken on."""
    epoch, position = divmod(step - 1, training.steps_per_epoch)
    size = training.config.accumulation_steps
    batches = training.batches(epoch)[position * size : (position + 1) * size]
    return [training.train.ids[training.train.row[example]] for batch in batches for example in batch]


def disk_needed(training: Training) -> int:
    """Bytes that a fold takes at most: its weights, and two states while one replaces the other."""
    weights = sum(weight.numel() * 4 for weight in training.model.parameters())
    in_state = 1 + (training.averager is not None) + (3 if training.config.optimizer == "madgrad" else 2)
    return weights * (3 + training.config.snapshots + 2 * in_state)


def check_disk_space(training: Training, folder: Path) -> None:
    """Raise InputError if the disk cannot hold the fold."""
    needed, free = disk_needed(training), shutil.disk_usage(folder).free
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if free + taken < needed:
        raise InputError(
            f"a fold of this model takes up to {needed / 2**30:.1f} GiB in {display_path(folder)}, and "
            f"{free / 2**30:.1f} GiB are free; free some, or set output_dir."
        )
