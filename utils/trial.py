"""The precisions of this machine, side by side: the same steps of the same training, each in a process of its own."""

import math
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pandas as pd
import torch
from tqdm.auto import tqdm

from utils import precision, runtime
from utils.config import Config, InputError
from utils.train import prepare, train_epoch

WARM_UP = 3  # steps before the clock starts: first calls choose kernels and fill caches


def compare_precisions(config: Config, table: pd.DataFrame, steps: int = 40) -> pd.DataFrame:
    """Train ``steps`` steps in every precision that this machine has, from the same seed, one after the other.

    Args:
        table: from ``load_table`` and ``add_folds``.

    Returns:
        A row a step: precision, step, loss, and, the same in all rows of a precision, samples_per_second (without
        the first steps), peak_memory in bytes (of the GPU, or of the whole process on the CPU), loss_scale at the
        end, and problem: empty, or why this precision could not be tried. Raises InputError if none could.
    """
    names = precision.available()
    parts = []
    for name in tqdm(names, unit="precision", disable=not runtime.progress_wanted(), leave=False):
        # Apex patches torch for good, a peak of memory is one of a process, and one may be killed for its memory.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            job = pool.submit(_run, replace(config, precision=name), table, steps, torch.get_num_threads())
            try:
                parts.append(job.result().assign(precision=name, problem=""))
            except Exception as error:  # out of memory, no kernel for this GPU: the others still tell something
                problem = str(error).strip().split("\n")[0][:200]
                parts.append(pd.DataFrame({"precision": [name], "problem": [problem or type(error).__name__]}))
    if all(part["problem"].any() for part in parts):
        raise InputError(f"no precision could train on this machine: {parts[0]['problem'][0]}.")
    return pd.concat(parts, ignore_index=True)


def _run(config: Config, table: pd.DataFrame, steps: int, threads: int) -> pd.DataFrame:
    torch.set_num_threads(threads)
    rows = int((table["fold"] != config.fold).sum())
    epochs = max(1, math.ceil(steps * config.batch_size * config.accumulation_steps / rows))
    training = prepare(replace(config, averaging="none", epochs=epochs), table, config.fold)
    began = 0.0
    for step in (step for epoch in range(epochs) for step in train_epoch(training, epoch)):
        if step in (WARM_UP, steps):
            losses = torch.stack(training.losses).tolist()  # waits for the GPU
            elapsed, began = time.perf_counter() - began, time.perf_counter()
        if step == steps:
            break
    samples = len(training.train.ids) / training.steps_per_epoch * (len(losses) - WARM_UP)  # some batches are smaller
    return pd.DataFrame(
        {
            "step": range(1, len(losses) + 1), "loss": losses, "samples_per_second": samples / elapsed,
            "peak_memory": _peak_memory(), "loss_scale": training.backend.loss_scale(),
        }
    )  # fmt: skip


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
