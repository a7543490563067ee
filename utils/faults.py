"""What can go wrong around a training, each told in one sentence with what was saved kept."""

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from utils import devices, runtime, state
from utils.config import InputError
from utils.train import Training


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this run; the system lets go of it however the run ends."""
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        devices.on_main(lambda: folder.parent.mkdir(parents=True, exist_ok=True))
        devices.on_main(lambda: bool(lock.acquire()))
    except Timeout:
        raise InputError(f"another run is training {runtime.shown(folder)}; wait for it, or set another run.") from None
    except OSError as error:
        raise InputError(f"{runtime.shown(folder)} cannot be written ({error.strerror}); set output_dir.") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def told_in_a_sentence(folder: Path) -> Iterator[None]:
    """A full disk and a dead loader process as InputErrors; what has been saved stays."""
    kept = f"what was saved in {runtime.shown(folder)} is kept"
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{runtime.shown(folder)} cannot be written ({state.reason(error)}); {kept}: free some space, run again."
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a data-loader process died; {kept}: run again, with num_workers=0 if it happens again."
        ) from None


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """SIGTERM, SIGHUP and SIGINT (an interrupted cell), in a list, to be read between steps; a second stops at once.

    Not so in one of several processes: a launcher hands on what the terminal has already sent.
    """
    caught: list[int] = []

    def note(number, frame):
        if caught and devices.processes().num_processes == 1:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def refuse_divergence(training: Training) -> None:
    """Raise InputError, naming step and texts, once a loss is no number. To look is to wait for the GPU: not always."""
    on_cpu = training.backend.device.type == "cpu"
    if on_cpu or training.step % 25 == 0 or training.evaluation_due():
        refuse_infinite_losses(training)


def refuse_infinite_losses(training: Training) -> None:
    """Look at once, as before a state is saved, which must not replace a good one by a diverged one."""
    if not training.losses:
        return
    finite = torch.stack(training.losses).isfinite()
    if finite.all():
        return
    index = int((~finite).nonzero()[0])
    value, step = float(training.losses[index]), training.step - len(finite) + 1 + index
    epoch, place = divmod(step - 1, training.steps_per_epoch)
    parts = training.config.accumulation_steps
    rows = [row for batch in training.batches(epoch)[place * parts : (place + 1) * parts] for row in batch]
    ids = ", ".join(training.train.ids[row] for row in rows)
    raise InputError(
        f"training diverged: the loss of step {step} is {value}, on the texts {ids}; lower lr, or look at these texts "
        "(the last state that was saved is kept)."
    )


def disk_needed(training: Training) -> int:
    """Bytes that a fold takes at most: last, best and averaged weights, and two states while one replaces another."""
    weights = sum(weight.numel() * 4 for weight in training.model.parameters())
    in_state = 1 + (training.averager is not None) + (3 if training.config.optimizer == "madgrad" else 2)
    return weights * (3 + training.config.snapshots + 2 * in_state)


def refuse_too_small_a_disk(training: Training, folder: Path) -> None:
    needed, free = disk_needed(training), shutil.disk_usage(folder).free
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if free + there < needed:
        raise InputError(
            f"a fold of this model takes up to {needed / 2**30:.1f} GiB in {runtime.shown(folder)}, and "
            f"{free / 2**30:.1f} GiB are free; free some, or set output_dir."
        )
