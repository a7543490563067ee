"""Where a step waits for the GPU: synchronisations by source line, kernels, and how long the GPU is idle."""

import contextlib
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import common
from benchmarks.gpu import fast
from benchmarks.gpu.mechanics import prepare_fold
from benchmarks.gpu.record import Options, Record
from benchmarks.measure import synchronize
from utils.machine import precision, runtime
from utils.runs.guards import check_divergence
from utils.training.loop import train_epoch
from utils.training.setup import Training

STEPS, WARM_UP = 10, 5
#: Calls after which the program goes on only when the GPU has caught up, and operations that make them.
RUNTIME = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
OPERATIONS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::_unique2")


def cases(options: Options) -> dict[str, dict]:
    """Settings of a fold by name; all average at each step, so that averaging is seen too."""
    shapes = {"base": ("base", 4, 128), "large": ("large", 32, 256)}
    names = [name for name in ("bf16", "fp16", "fp32") if name in precision.available()]
    if options.dry_run:
        shapes, names = {"tiny": ("tiny", 2, 16)}, ["fp32"]
    wanted = [(names[0], "adamw", shape) for shape in shapes]
    wanted += [("fp16", "madgrad", "base")] * ("fp16" in names) + [("fp32", "adamw", "base")] * (
        len(names) > 1
    )
    made = {}
    for name, optimizer, shape in wanted:
        encoder, batch, length = shapes[shape]
        chosen = {"encoder": encoder, "batch_size": batch, "max_length": length, "optimizer": optimizer}
        made[f"{shape}, {batch} × {length}, {name}, {optimizer}"] = chosen | {"precision": name}
    return made


def prepare_case(data: Path, encoder: str, **chosen) -> Training:
    """A training whose average takes in every step."""
    averaging = {"epochs": 1, "swa_start": 0.0, "swa_every": 1}
    with contextlib.redirect_stdout(sys.stderr):
        return prepare_fold(
            preset="clear", data=str(data), encoder=common.find_encoder(encoder), **averaging, **chosen
        )


def steps_of(training: Training) -> Iterator[int]:
    """Steps as a fold takes them: each followed by the look for a loss that is no number."""
    while True:
        training.step = 0  # the epoch anew, whatever its length
        for step in train_epoch(training, 0):
            check_divergence(training)
            training.losses[:-25] = []
            yield step


def take(steps: Iterator[int], number: int) -> None:
    for _ in range(number):
        next(steps)


# --- what is measured --------------------------------------------------------------------------------------


def measure_case(training: Training) -> dict:
    """Of ten steps each: seconds, what the profiler saw, and what torch itself calls synchronising."""
    steps = steps_of(training)
    take(steps, WARM_UP)
    synchronize()
    began = time.perf_counter()
    take(steps, STEPS)
    synchronize()
    seconds = (time.perf_counter() - began) / STEPS
    return {
        "seconds_per_step": seconds,
        **kernels(steps, seconds),
        "profiler": synchronisations(steps),
        "debug_mode": debug_mode(steps),
    }


def kernels(steps: Iterator[int], seconds: float) -> dict:
    """Kernels in a step, and the GPU's idle share of a step that nobody watches; None without a GPU."""
    if not torch.cuda.is_available():
        take(steps, STEPS)
        return {"kernels_per_step": None, "idle_share": None}
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        take(steps, STEPS)
        synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    launched = [event for event in events if not event.name.startswith(("Memcpy", "Memset"))]
    busy = busy_seconds([(event.time_range.start, event.time_range.end) for event in events])
    return {
        "kernels_per_step": len(launched) / STEPS,
        "idle_share": max(0.0, 1 - busy / STEPS / seconds),
    }


def busy_seconds(spans: list[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the spans, each from start to end in microseconds."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def synchronisations(steps: Iterator[int]) -> dict[str, float]:
    """How often a step made each call that waits, by the call and the source line that made it."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, with_stack=True) as profiler:
        take(steps, STEPS)
    events = profiler.events()
    sources = [(event.time_range, line) for event in events if (line := line_of(event))]
    counts = Counter(
        f"{event.name} at {source_of(event.time_range, sources)}"
        for event in events
        if event.name in (*RUNTIME, *OPERATIONS)
    )
    return {where: count / STEPS for where, count in counts.most_common()}


def line_of(event) -> str:
    """The innermost source line outside torch from which an operation comes; empty where nobody knows."""
    return next((short_path(line) for line in event.stack or [] if is_source(line)), "")


def source_of(span, sources: list[tuple]) -> str:
    """The line of the shortest operation that spans a call: the runtime's own calls come without a line."""
    around = [
        (other.elapsed_us(), line)
        for other, line in sources
        if other.start <= span.start and span.end <= other.end
    ]
    return min(around)[1] if around else "a line that the profiler did not see"


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
