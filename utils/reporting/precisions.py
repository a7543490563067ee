"""The precisions of this machine compared: the same steps of the same training in a process for each."""

import math
import resource
import sys
import time
from dataclasses import replace

import pandas as pd
import torch
from tqdm.auto import tqdm

from utils.config import Config, InputError
from utils.machine import precision, runtime
from utils.machine.files import short_reason
from utils.machine.processes import run_in_process
from utils.training.loop import train_epoch
from utils.training.setup import prepare

WARM_UP = 3  # steps before the clock starts: first calls choose kernels and fill caches


def compare_precisions(config: Config, table: pd.DataFrame, steps: int = 40) -> pd.DataFrame:
    """Train ``steps`` steps from the same seed in every precision that this machine has, one by one.

    Args:
        table: from ``load_table`` and ``add_folds``.

    Returns:
        A row per step: precision, step, loss, and, the same in all rows of a precision, samples_per_second
        (without the first steps), peak_memory in bytes (of the GPU, or of the whole process on the CPU),
        loss_scale at the end, and problem: empty, or why this precision failed. Raises InputError if all of
        them failed.
    """
    names, hidden = precision.available(), not runtime.progress_wanted()
    parts = []
    for name in tqdm(names, unit="precision", disable=hidden, leave=False):
        arguments = replace(config, precision=name), table, steps, torch.get_num_threads()
        try:
            # A process each: Apex patches torch for good, and peak memory is known for whole processes only.
            part = run_in_process(_run, *arguments)
            parts.append(part.assign(precision=name, problem=""))
        except Exception as error:  # out of memory, no kernel for this GPU, ...: go on with the others
            problem = short_reason(error)[:200] or type(error).__name__
            parts.append(pd.DataFrame({"precision": [name], "problem": [problem]}))
    if all(part["problem"].any() for part in parts):
        raise InputError(f"no precision could train on this machine: {parts[0]['problem'][0]}.")
    return pd.concat(parts, ignore_index=True)


def _run(config: Config, table: pd.DataFrame, steps: int, threads: int) -> pd.DataFrame:
    """The columns of ``compare_precisions`` for the precision of ``config``."""
    torch.set_num_threads(threads)
    rows = int((table["fold"] != config.fold).sum())
    epochs = max(1, math.ceil(steps * config.batch_size * config.accumulation_steps / rows))
    training = prepare(replace(config, averaging="none", epochs=epochs), table, config.fold)
    start = seconds = 0.0
    for step in (step for epoch in range(epochs) for step in train_epoch(training, epoch)):
        if step in (WARM_UP, steps):
            losses = torch.stack(training.losses).tolist()  # waits for the GPU
            now = time.perf_counter()
            seconds, start = now - start, now
        if step == steps:
            break
    samples_per_step = len(training.train) / training.steps_per_epoch  # on average: some batches are smaller
    columns = {
        "step": range(1, len(losses) + 1),
        "loss": losses,
        "samples_per_second": samples_per_step * (len(losses) - WARM_UP) / seconds,
        "peak_memory": _peak_memory(),
        "loss_scale": training.backend.loss_scale(),
    }
    return pd.DataFrame(columns)


def _peak_memory() -> int:
    """The peak of this process's memory, in bytes: on the GPU if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
