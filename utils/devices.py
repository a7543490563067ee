"""Several devices on one fold: a process each, started by Accelerate, which share every batch and stay in step.

A batch is split among the processes, so that a recipe comes to the same weights, to rounding, on one device and on
two. Gradients are summed once a step, after the last micro-batch, and not by DistributedDataParallel during it: where
memory ran out in one process, the others would wait for it forever.
"""

import contextlib
import functools
import gc
import logging
import os
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from accelerate import PartialState, notebook_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, patch_environment
from accelerate.utils.other import get_free_port
from safetensors import SafetensorError
from torch import nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from utils import runtime
from utils.config import InputError


class OutOfMemoryElsewhere(torch.OutOfMemoryError):
    """Another process's device has run out of memory in this step."""


def processes() -> PartialState:
    """Which process this is, of how many: ``process_index``, ``num_processes``, ``is_main_process``."""
    return PartialState(cpu=runtime.device().type == "cpu")


def to_launch(wanted: int) -> int:
    """How many processes a fold on ``wanted`` devices (0: every GPU) has yet to be launched in; 1: none but this."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return 1  # Accelerate has launched this one
    there = max(1, torch.accelerator.device_count()) if runtime.device().type != "cpu" else 0
    if there and wanted > there:
        raise InputError(f"devices={wanted}, and this machine has {there}; set devices=0 to use what there is.")
    number = wanted or max(there, 1)
    if number > 1 and torch.cuda.is_initialized():
        raise InputError("this process has used the GPU already, so others cannot share it; restart the kernel first.")
    return number


def launch(function: Callable, arguments: tuple, number: int) -> None:
    """Call ``function(*arguments)`` in ``number`` processes, of which the first one's output is shown here.

    Raises InputError with the sentence of the process that failed first, if it had one, or when it is interrupted.
    """
    log = logging.getLogger("torch.distributed.elastic")
    level = log.level
    try:
        log.setLevel(logging.CRITICAL)  # it would print every process's traceback
        AcceleratorState._reset_state(True)  # what a training in this process has left
        # A launch that failed may live on in its traceback, with a server thread that a forked process lacks: were it
        # collected there, the process would wait for that thread forever.
        gc.freeze()
        with patch_environment(OMP_NUM_THREADS=1):
            notebook_launcher(
                _in_one_thread, (function, arguments), num_processes=number, use_port=str(get_free_port())
            )
    except ChildFailedError as error:
        message = error.get_first_failure()[1].message  # a dict where the process could still write it down
        kind, _, sentence = (message["message"] if isinstance(message, dict) else message).partition(": ")
        if kind == InputError.__name__:
            raise InputError(sentence) from None
        raise
    except SignalException as error:
        raise InputError(f"stopped by {error.sigval.name}; what was saved is kept, run again to go on.") from None
    finally:
        gc.unfreeze()
        log.setLevel(level)


def _in_one_thread(function: Callable, arguments: tuple) -> None:
    # A forked process hangs when it computes with several OpenMP threads after the one that forked it has.
    torch.set_num_threads(1)
    function(*arguments)


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if not processes().is_main_process:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def on_main(function: Callable):
    """What ``function()`` returns in the main process; if it raises an error there, every process raises it."""
    if processes().num_processes == 1:
        return function()
    outcome = [None, None]
    if processes().is_main_process:
        try:
            outcome = [function(), None]
        except SafetensorError as error:  # which cannot be sent
            outcome = [None, OSError(0, str(error).split("\n")[0])]
        except Exception as error:
            outcome = [None, error]
    result, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return result


def largest(*numbers: int) -> list[int]:
    """Each number's maximum over all processes, agreed upon without waiting for a GPU."""
    if processes().num_processes == 1:
        return list(numbers)
    agreed = torch.tensor(numbers)
    dist.all_reduce(agreed, dist.ReduceOp.MAX, group=_host_group())
    return agreed.tolist()


@functools.cache
def _host_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def share(rows: list[int]) -> list[int]:
    """This process's part of a batch; none of it where there are more processes than rows."""
    return rows[processes().process_index :: processes().num_processes]


def add_up(tensor: torch.Tensor) -> None:
    """Replace ``tensor`` by its sum over all processes."""
    if processes().num_processes > 1:
        dist.all_reduce(tensor)


def add_up_gradients(model: nn.Module) -> None:
    """Replace ``model``'s gradients by their sums over all processes.

    Raises OutOfMemoryElsewhere, with nothing summed, if another process calls ``largest(1)`` meanwhile.
    """
    if processes().num_processes == 1:
        return
    for weight in model.parameters():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)  # before the vote, since memory may run out here
    if largest(0)[0]:
        raise OutOfMemoryElsewhere
    for each in [dist.all_reduce(weight.grad, async_op=True) for weight in model.parameters()]:
        each.wait()
