"""Measuring on a CPU or an NVIDIA GPU: seconds, memory, and the rates that limit a machine."""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import PreTrainedConfig

from utils.machine import runtime

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# --- time --------------------------------------------------------------------------------------------------


def synchronize() -> None:
    """Wait until the GPU, if there is one, has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable, seconds: list[float]) -> Callable:
    """``function``, with the seconds of each call appended to ``seconds``, its work on the GPU included."""

    def call(*arguments, **options):
        synchronize()
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            synchronize()
            seconds.append(time.perf_counter() - began)

    return call


def median_seconds(call: Callable[[], object], repeats: int = 10, warm_up: int = 2) -> float:
    """Median seconds of ``repeats`` calls, after ``warm_up`` calls that do not count.

    On a GPU, each repeat is the mean of 20 consecutive calls: as in training, launching one overlaps with the
    end of another. Otherwise a short call would measure the launch and the wait.
    """
    calls = 20 if torch.cuda.is_available() else 1
    seconds = []
    for _ in range(warm_up + repeats):
        synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        seconds.append((time.perf_counter() - began) / calls)
    return statistics.median(seconds[warm_up:])


# --- limits and costs --------------------------------------------------------------------------------------


def matrix_rate(name: str, repeats: int = 10) -> float:
    """Floating-point operations per second of a large matrix product in this precision."""
    size = 8192 if torch.cuda.is_available() else 2048
    a, b = (torch.randn(size, size, device=runtime.device()).to(DTYPES[name]) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b, repeats)


def copy_rate() -> float:
    """Bytes per second, read plus written, of copying a large tensor."""
    size = 2**28 if torch.cuda.is_available() else 2**25  # far more than a cache holds
    source = torch.zeros(size, device=runtime.device())
    target = torch.zeros_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source))


def training_flops(encoder: PreTrainedConfig, lengths: list[int]) -> float:
    """Floating-point operations of the matrix products in a forward and backward pass over texts.

    Counts the layers' products with weights and the two products within attention; backward takes twice as
    many as forward. Embeddings and the head are left out.

    Args:
        lengths: tokens of each text.
    """
    width, inner = encoder.hidden_size, encoder.intermediate_size
    tokens = np.asarray(lengths, dtype=float)
    forward = 2 * (4 * width**2 + 2 * width * inner) * tokens + 4 * width * tokens**2
    return float(3 * encoder.num_hidden_layers * forward.sum())


# --- memory ------------------------------------------------------------------------------------------------


def reset_peak() -> float:
    """Start measuring peak memory. Returns the GiB in use now, by the GPU's allocator or by this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss / 2**30


def peak_memory() -> float:
    """The most GiB in use since ``reset_peak``, or since the start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage's peak, which starts from that of the parent process.
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20
