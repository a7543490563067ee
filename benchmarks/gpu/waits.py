"""Where a step waits for the GPU: synchronisations by source line, kernels, and how long the GPU is idle."""

import contextlib
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import common
from benchmarks.gpu import fast
from benchmarks.gpu.record import Options, Record
from benchmarks.measure import synchronize
from utils.config import Config
from utils.machine import runtime
from utils.runs.guards import check_divergence
from utils.training.loop import train_epoch
from utils.training.setup import Training, prepare

STEPS, WARM_UP = 10, 5
#: Calls after which the program goes on only when the GPU has caught up, and operations that make them.
RUNTIME = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
OPERATIONS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::_unique2")


def cases(options: Options) -> dict[str, dict]:
    """Settings of a fold by name."""
    shapes = {"base": ("base", 4, 128), "large": ("large", 32, 256), "tiny": ("tiny", 2, 16)}
    fastest = common.best_precision()
    wanted = [("base", fastest, "adamw"), ("base", "fp16", "madgrad")]
    wanted += [("large", fastest, "adamw"), ("base", "fp32", "adamw")]
    if options.dry_run:
        wanted = [("tiny", "fp32", "adamw")]
    made = {}
    for shape, name, optimizer in wanted:
        encoder, batch, length = shapes[shape]
        chosen = {"encoder": encoder, "batch_size": batch, "max_length": length, "optimizer": optimizer}
        made[f"{shape}, {batch} × {length}, {name}, {optimizer}"] = chosen | {"precision": name}
    return made


def prepare_case(data: Path, encoder: str, **chosen) -> Training:
    """A training with enough texts for all that is measured, whose average takes in every step."""
    averaging = {"epochs": 1, "swa_start": 0.0, "swa_every": 1}
    config = Config.make("clear", data=str(data), encoder=common.find_encoder(encoder), **averaging, **chosen)
    with contextlib.redirect_stdout(sys.stderr):
        return prepare(config, common.make_table(config, 60 * config.batch_size), 0)


def steps_of(training: Training) -> Iterator[int]:
    """Steps as a fold takes them: each followed by the look for a loss that is no number."""
    for step in train_epoch(training, 0):
        check_divergence(training)
        yield step


def take(steps: Iterator[int], number: int) -> None:
    for _ in range(number):
        next(steps)


# --- what is measured --------------------------------------------------------------------------------------


def measure_case(training: Training) -> dict:
    """Of ten steps each: seconds, what a profiler saw, and what torch itself calls synchronising."""
    steps = steps_of(training)
    take(steps, WARM_UP)
    synchronize()
    began = time.perf_counter()
    take(steps, STEPS)
    synchronize()
    seconds = (time.perf_counter() - began) / STEPS
    events = trace(steps)
    return {
        "seconds_per_step": seconds,
        **kernels(events, seconds),
        "profiler": synchronisations(events),
        "debug_mode": debug_mode(steps),
    }


def trace(steps: Iterator[int]) -> list[dict]:
    """What happened in ten steps: events in Chrome's trace format, with times in microseconds."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, with_stack=True) as profiler:
        take(steps, STEPS)
        synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return [event for event in events if event["ph"] == "X"]


def kernels(events: list[dict], seconds: float) -> dict:
    """Kernels in a step, and the GPU's idle share of an unwatched one's ``seconds``; None without a GPU."""
    if not torch.cuda.is_available():
        return {"kernels_per_step": None, "idle_share": None}
    on_gpu = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    seconds_of, calls = Counter[str](), Counter[str]()
    for event in on_gpu:
        seconds_of[event["name"][:80]] += event["dur"] / 1e6 / STEPS
        calls[event["name"][:80]] += 1
    longest = {name: [took, calls[name] / STEPS] for name, took in seconds_of.most_common(20)}
    busy = busy_seconds([(event["ts"], event["ts"] + event["dur"]) for event in on_gpu])
    return {
        "kernels_per_step": sum(event["cat"] == "kernel" for event in on_gpu) / STEPS,
        "idle_share": max(0.0, 1 - busy / STEPS / seconds),
        "longest_kernels": longest,  # seconds and calls in a step, by name
    }


def busy_seconds(spans: list[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the spans, each from start to end in microseconds."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def synchronisations(events: list[dict]) -> dict[str, float]:
    """How often a step made each call that waits, by the call and the function that made it.

    A function is named by its first line, as in a trace. The wait that ends the trace is left out.
    """
    functions = [event for event in events if event.get("cat") == "python_function"]
    inside = next(event for event in functions if event["name"].endswith(f": {take.__name__}"))
    sources = [event for event in functions if is_source(event["name"])]
    starts = np.array([event["ts"] for event in sources])
    ends = starts + np.array([event["dur"] for event in sources])
    counts: Counter = Counter()
    for event in events:
        if event["name"] in (*RUNTIME, *OPERATIONS) and is_within(event, inside):
            around = (starts <= event["ts"]) & (event["ts"] + event["dur"] <= ends)
            innermost = sources[int(np.where(around, starts, -np.inf).argmax())]
            counts[f"{event['name']} in {short_path(innermost['name'])}"] += 1
    return {where: count / STEPS for where, count in counts.most_common()}


def is_within(event: dict, other: dict) -> bool:
    return other["ts"] <= event["ts"] <= other["ts"] + other["dur"]


def is_source(line: str) -> bool:
    """Whether a line of a stack, such as "utils/training/loop.py(29): train_epoch", is not torch's own."""
    return ".py(" in line and "/torch/" not in line and not line.startswith(("torch/", "<"))


def short_path(line: str) -> str:
    """The line from the project's root on, or from the name of the package."""
    return line.replace(f"{runtime.ROOT}/", "").rpartition("site-packages/")[2]


def called_from(stack: list[traceback.FrameSummary]) -> str:
    """The innermost source line outside torch, and the innermost one of ours if that is another."""
    frames = [f"{frame.filename}({frame.lineno}): {frame.name}" for frame in reversed(stack)]
    lines = [short_path(frame) for frame in frames if is_source(frame)]
    ours = next((line for line in lines if line.startswith("utils/")), "")
    return ", called from ".join(dict.fromkeys(filter(None, [*lines[:1], ours])))


def debug_mode(steps: Iterator[int]) -> dict[str, float]:
    """How often a step did what torch's debug mode calls synchronising, by source line; empty on a CPU."""
    counts: Counter = Counter()
    if not torch.cuda.is_available():
        return {}

    def note(message, category, filename, lineno, file=None, line=None):
        if "synchronizing CUDA operation" in str(message):
            counts[called_from(traceback.extract_stack()[:-1])] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            take(steps, STEPS)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {where: count / STEPS for where, count in counts.most_common()}


def run(record: Record, folder: Path) -> None:
    """The part "waits"."""
    data, measured, errors = fast.long_texts(folder / "texts.csv"), {}, {}
    for name, chosen in cases(record.options).items():
        if record.seconds_left() < 5:
            errors[name] = "the part's time was over"
            continue
        try:
            measured[name] = measure_case(prepare_case(data, **chosen))
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        record.update(cases=measured, errors=errors)
        print(f"{name}: {summarize(measured[name]) if name in measured else errors[name]}", flush=True)


def summarize(case: dict) -> str:
    """A case in a line."""
    waits = sum(count for where, count in case["profiler"].items() if where.startswith("cuda"))
    text = f"{1000 * case['seconds_per_step']:.1f} ms a step, {waits:g} calls that wait"
    if case["kernels_per_step"] is not None:
        text += f", {case['kernels_per_step']:.0f} kernels, GPU idle {case['idle_share']:.0%}"
    return text
