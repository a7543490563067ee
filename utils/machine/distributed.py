"""One fold on several devices: Accelerate starts a process for each, and they share every batch.

Each batch is split among the processes, so a recipe gives the same weights, up to rounding, on one device and
on two. buckets.py sums the gradients.
"""

import contextlib
import functools
import gc
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState, notebook_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, patch_environment
from accelerate.utils.other import get_free_port
from safetensors import SafetensorError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from utils.config import InputError
from utils.errors import StoppedError
from utils.machine import runtime

Item = TypeVar("Item")


class OutOfMemoryElsewhere(torch.OutOfMemoryError):
    """Another process's device ran out of memory in this step."""


def processes() -> PartialState:
    """This process and the number of all: ``process_index``, ``num_processes``, ``is_main_process``."""
    return PartialState(cpu=runtime.device().type == "cpu")


def processes_to_launch(wanted: int) -> int:
    """How many processes to launch for a fold on ``wanted`` devices (0: every GPU); 1: this one is enough."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return 1  # Accelerate has launched this one
    gpus = max(1, torch.accelerator.device_count()) if runtime.device().type != "cpu" else 0
    if gpus and wanted > gpus:
        raise InputError(f"devices={wanted}, and this machine has {gpus}; set devices=0 to use all of them.")
    count = wanted or max(gpus, 1)
    if count > 1 and torch.cuda.is_initialized():
        raise InputError(
            "this process has used the GPU already, so others cannot share it; restart the kernel first."
        )
    return count


def launch(function: Callable, arguments: tuple, count: int) -> None:
    """Call ``function(*arguments)`` in ``count`` processes; only the first one's output is shown here.

    Raises the InputError of the process that failed first, if that is what it raised, and InputError when the
    launch is interrupted.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process_arguments = (function, arguments, sender)
    with receiver, sender, _ready_to_fork():
        try:
            notebook_launcher(
                _run_in_one_thread, process_arguments, num_processes=count, use_port=str(get_free_port())
            )
        except ChildFailedError as error:
            check_killed(error)
            first_rank, _ = error.get_first_failure()
            errors = _receive_errors(receiver)
            if first_rank in errors:
                raise errors[first_rank] from None
            raise
        except SignalException as error:
            name = error.sigval.name
            raise StoppedError(f"stopped by {name}; what was saved is kept, run again to resume.") from None


def check_killed(error: ChildFailedError) -> None:
    """Raise InputError if one of the processes was killed from outside, whichever failure was seen first."""
    for rank, failure in error.failures.items():
        if failure.exitcode in (-signal.SIGKILL, -signal.SIGBUS):
            name = signal.Signals(-failure.exitcode).name
            raise InputError(
                f"process {rank} was killed ({name}), as the system does when memory runs out; "
                "what was saved is kept, run again to resume."
            ) from None


@contextlib.contextmanager
def _ready_to_fork() -> Iterator[None]:
    AcceleratorState._reset_state(True)  # left by an earlier training in this process
    log = logging.getLogger("torch.distributed.elastic")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it would print every process's traceback
    # A failed launch may live on in its traceback, with a server thread that forked processes lack. If one of
    # them garbage-collected it, it would wait for that thread forever.
    gc.freeze()
    try:
        with patch_environment(OMP_NUM_THREADS=1):
            yield
    finally:
        gc.unfreeze()
        log.setLevel(level)


def _run_in_one_thread(function: Callable, arguments: tuple, errors: Connection) -> None:
    # A forked process hangs if it computes with several OpenMP threads after its parent has done so.
    torch.set_num_threads(1)
    try:
        function(*arguments)
    except InputError as error:
        errors.send((int(os.environ["RANK"]), error))
        # The launcher looks every 0.1 s and names one of the processes that have ended. If this error is that
        # another one was killed, it is that one that the launcher must find.
        time.sleep(0.5)
        raise


def _receive_errors(receiver: Connection) -> dict[int, InputError]:
    """The errors that processes have sent, by rank."""
    errors = {}
    while receiver.poll():
        rank, error = receiver.recv()
        errors[rank] = error
    return errors


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    """Discard what the other processes print."""
    with contextlib.ExitStack() as stack:
        if not processes().is_main_process:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def run_on_main(function: Callable):
    """What ``function()`` returns in the main process; its error there is raised in every process."""
    if processes().num_processes == 1:
        return function()
    outcome: list = [None, None]
    if processes().is_main_process:
        try:
            outcome = [function(), None]
        except SafetensorError as error:  # which cannot be pickled
            outcome = [None, OSError(0, str(error).split("\n")[0])]
        except Exception as error:
            outcome = [None, error]
    result, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return result


def all_reduce_max(*numbers: int) -> list[int]:
    """The maximum of each number over all processes, computed on the CPU without waiting for a GPU."""
    if processes().num_processes == 1:
        return list(numbers)
    maxima = torch.tensor(numbers)
    dist.all_reduce(maxima, dist.ReduceOp.MAX, group=_cpu_group())
    return maxima.tolist()


@functools.cache
def _cpu_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def shard(rows: list[Item]) -> list[Item]:
    """This process's part of a batch's rows; empty for some processes if there are more of them than rows."""
    return rows[processes().process_index :: processes().num_processes]


def all_reduce_sum(tensor: torch.Tensor) -> None:
    """Replace ``tensor``, in place, by its sum over all processes."""
    if processes().num_processes > 1:
        dist.all_reduce(tensor)


def raise_if_out_of_memory_elsewhere() -> None:
    """Raise OutOfMemoryElsewhere if another process, which ran out of memory, calls ``all_reduce_max(1)``.

    All processes that have memory left must call this at the same point of a step. One process does nothing.
    """
    if all_reduce_max(0)[0]:
        raise OutOfMemoryElsewhere
