"""What can go wrong around a training, said in one sentence, with what was saved kept."""

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from utils.config import Config, InputError
from utils.machine import distributed
from utils.machine.files import short_reason
from utils.machine.runtime import display_path
from utils.training.setup import Training

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


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


def run_again(config: Config) -> str:
    """How to go on from the last saved state."""
    return "run again without retrain" if config.retrain else "run again"


@contextlib.contextmanager
def readable_errors(folder: Path, config: Config) -> Iterator[None]:
    """What goes wrong around a training as an InputError with its cause; what has been saved stays."""
    try:
        yield
    except Exception as error:
        given = display_path(folder), run_again(config), config.num_workers
        cause = None if isinstance(error, InputError) else find_cause(error, *given)
        if cause is None:
            raise
        raise InputError(cause) from None


def find_cause(error: Exception, where: str, again: str = "run again", workers: int = 0) -> str | None:
    """What happened, in a sentence with the way out; None for what may be a fault of the code.

    Args:
        where: the fold's folder in messages.
        again: how to go on from the last saved state.
        workers: the number of loader processes.
    """
    text, kept = str(error), f"what was saved in {where} is kept"
    reason = short_reason(error) or type(error).__name__
    of_loader = "DataLoader worker" in text and isinstance(error, OSError | RuntimeError)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return (
            f"memory ran out ({reason}); {kept}: end other programs and {again}, or lower batch_size, "
            "eval_batch_size or max_length with retrain=True."
        )
    if of_loader or (workers and isinstance(error, ConnectionError | EOFError)):
        reason = text.strip().splitlines()[-1] if of_loader else reason  # an own error is below its traceback
        return f"a data-loader process died ({reason}); {kept}: {again}, or set num_workers=0."
    lost = isinstance(error, torch.distributed.DistError | ConnectionError | EOFError)
    if lost or re.search("Connection (closed|reset) by peer", text):
        return f"another process of this fold is gone ({reason}); {kept}: {again}."
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"the model cannot be compiled here ({reason}); {kept}: set compile=off and {again}."
    if is_disk_full(error):
        return f"{where} cannot be written ({reason}); {kept}: free some space, {again}."
    if isinstance(error, OSError) and error.filename:
        return (
            f"{display_path(Path(error.filename))} cannot be used ({reason}); {kept}: mend that and {again}."
        )
    if is_file_error(error):
        return f"a file of {where} cannot be used ({reason}); {kept}: mend that and {again}."
    return None


def is_file_error(error: Exception) -> bool:
    """Whether a file could not be read or written. tokenizers raises a bare Exception then."""
    return isinstance(error, OSError | SafetensorError) or "(os error " in str(error)


def is_disk_full(error: Exception) -> bool:
    """Whether no more can be written: the disk is full, or the quota or a file's largest size is reached."""
    written = re.search(r"(?:os error |Errno )(\d+)", str(error))  # of Rust's libraries, and of whole folders
    return (int(written[1]) if written else getattr(error, "errno", None)) in _FULL


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


def weights_bytes(training: Training) -> int:
    """Bytes that the weights take on the disk."""
    return sum(weight.numel() * 4 for weight in training.model.parameters())


def state_bytes(training: Training) -> int:
    """Bytes that a state takes on the disk, but for the best weights: they are linked where that can be."""
    in_state = 1 + (training.averager is not None) + (3 if training.config.optimizer == "madgrad" else 2)
    return weights_bytes(training) * in_state


def disk_needed(training: Training) -> int:
    """Bytes that a fold takes at most: its weights, and two states while one replaces the other."""
    return weights_bytes(training) * (3 + training.config.snapshots) + 2 * state_bytes(training)


def check_disk_space(training: Training, folder: Path) -> None:
    """Raise InputError if the disk cannot hold the fold, once what is in ``folder`` is gone or replaced."""
    needed, free = disk_needed(training), shutil.disk_usage(folder.parent).free
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if free + taken < needed:
        raise InputError(
            f"a fold of this model takes up to {needed / 2**30:.1f} GiB in {display_path(folder)}, and "
            f"{free / 2**30:.1f} GiB are free; free some, or set output_dir."
        )
