"""One fold or notebook through papermill, in a process of its own, on its share of this machine."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import IO

import joblib
import nbformat
import psutil
import torch
import yaml

from batch.grid import Job
from batch.mirror import Mirror
from utils.config import Config
from utils.machine import runtime
from utils.machine.encoders import read_encoder_config

TICK_SECONDS = 10  # between two copies of what a training has saved

Stopped = Callable[[], bool]  # asked again and again whether to stop
Train = Callable[[Job, Stopped], None]  # trains a job; raises NotebookError
Tick = Callable[[], None]


class NotebookError(Exception):
    """A notebook failed, or the machine that executed it; the message says why."""


class NotebookStoppedError(NotebookError):
    """A notebook was interrupted because it was told to stop; the message says what was saved."""


def local_engine(jobs: list[Job], wanted: int, mirror_url: str) -> tuple[Train, int]:
    """What trains a job on this machine, and how many may run at once (``wanted`` 0: as many as fit)."""
    shares = slots([job.config for job in jobs], wanted)
    free: Queue[dict[str, str]] = Queue()
    for share in shares:
        free.put(share)

    def train_in_slot(job: Job, stopped: Stopped) -> None:
        share = free.get()
        try:
            train(job, share, mirror_url, stopped)
        finally:
            free.put(share)

    return train_in_slot, len(shares)


def train(
    job: Job, environment: dict[str, str], mirror_url: str = "", stopped: Stopped = lambda: False
) -> None:
    """Train a fold by executing notebook 02; see ``run_notebook``, whose errors this raises.

    With a mirror, the fold resumes from its copy there, and is copied there while it trains.
    """
    arguments = ("02_fold_training", job.notebook, job.parameters, environment, stopped)
    if not mirror_url:
        run_notebook(*arguments)
        return
    mirror = Mirror.of_run(job, mirror_url)
    if not job.config.retrain:
        mirror.pull(job.folder.name)

    def push() -> None:
        with contextlib.suppress(Exception):  # a file was replaced meanwhile, or the network failed briefly
            mirror.push(job.folder.name)

    try:
        run_notebook(*arguments, tick=push)
    finally:  # also when Ray interrupts it
        mirror.push(job.folder.name, job.notebook.name)


def run_notebook(
    name: str, output: Path, parameters: dict, environment: dict, stopped: Stopped, tick: Tick | None = None
) -> None:
    """Execute notebook ``name`` with ``parameters`` into ``output``, calling ``tick`` every TICK_SECONDS.

    Args:
        environment: variables on top of this process's own.
        stopped: once it is true, the notebook is interrupted, and saves its state.

    Raises NotebookError if it fails, NotebookStoppedError if it is interrupted.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)  # so that an error in it is from this execution
    with tempfile.TemporaryFile() as log:
        process = start(command(name, output, parameters), environment, log)
        interrupted = False
        try:
            interrupted = wait(process, stopped, tick)
        finally:
            process.communicate()  # closes its standard input, upon which the supervisor interrupts it
        if process.returncode == 0:
            return
        log.seek(0)
        message = error_message(output, log.read().decode(errors="replace"))
    raise NotebookStoppedError(message) if interrupted else NotebookError(message)


def command(name: str, output: Path, parameters: dict) -> list[str]:
    """papermill's command line."""
    notebook = runtime.ROOT / "notebooks" / f"{name}.ipynb"
    values = yaml.safe_dump(parameters, default_flow_style=True, width=10**6).strip()
    return [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", "-y", values]


def start(words: list[str], environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen:
    """Start a command under the supervisor, in a session of its own, so that Ctrl-C does not reach it."""
    path = os.pathsep.join(filter(None, [str(runtime.ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, **environment, "PYTHONPATH": path, "SUITE_ROOT": str(runtime.ROOT)}
    words = [sys.executable, "-m", "batch.supervisor", *words]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=null, stderr=log, env=variables, start_new_session=True)


def wait(process: subprocess.Popen, stopped: Stopped, tick: Tick | None) -> bool:
    """Wait until ``process`` ends or ``stopped()`` is true; whether it was stopped."""
    ticked = time.monotonic()
    while process.poll() is None:
        if stopped():
            return True
        if tick and time.monotonic() - ticked > TICK_SECONDS:
            tick()
            ticked = time.monotonic()
        time.sleep(0.1)
    return False


def tracebacks(notebook: Path) -> list[str] | None:
    """The tracebacks in an executed notebook; None if there is no readable one."""
    try:
        outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
    except (OSError, ValueError, nbformat.ValidationError):
        return None
    return ["\n".join(output["traceback"]) for output in outputs if output["output_type"] == "error"]


def is_executed(notebook: Path) -> bool:
    """Whether a notebook has been executed to its end."""
    return tracebacks(notebook) == []


def error_message(notebook: Path, log: str) -> str:
    """The last lines of the error in an executed notebook; without one, those of papermill's log."""
    text = (tracebacks(notebook) or [log])[-1]
    lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines() if line.strip()]
    return "\n".join(lines[-3:]) or "it ended without an error message"


def slots(configs: list[Config], wanted: int = 0) -> list[dict[str, str]]:
    """This machine's shares for folds that train at the same time: environment variables for each.

    On GPUs, a fold gets one (or as many as its ``devices`` says). On a CPU, as many folds run as cores and
    memory allow, and share the cores: two folds with a thread each are faster than one fold with two.
    ``wanted`` is how many to run at once; 0: as many as fit.
    """
    cores = joblib.cpu_count(only_physical_cores=True)
    if runtime.device().type != "cpu":
        names = visible_gpus()
        size = max(config.devices or len(names) for config in configs)
        groups = [names[i : i + size] for i in range(0, len(names) - size + 1, size)] or [names]
        number = min(wanted or len(groups), len(configs))
        threads = str(max(1, cores // number))
        visible = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} if all(group) else {} for group in groups]
        return [{**visible[i % len(groups)], "OMP_NUM_THREADS": threads} for i in range(number)]
    fitting = psutil.virtual_memory().available // max(map(memory_needed, configs))
    processes = max(1, *(config.devices for config in configs))
    number = min(wanted or max(1, min(cores // processes, fitting)), len(configs))
    threads = str(max(1, cores // (number * processes)))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(number)]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES; one empty name for an accelerator that is not a CUDA device."""
    if not torch.cuda.is_available():
        return [""]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


def memory_needed(config: Config) -> int:
    """Bytes that training a fold on the CPU takes, right within a third for MiniLM (benchmarks/)."""
    encoder = read_encoder_config(config.encoder)
    layers, hidden = encoder.num_hidden_layers, encoder.hidden_size
    weights = encoder.vocab_size * hidden + 12 * layers * hidden**2
    activations = config.batch_size * min(config.max_length, 512) * layers * hidden * 20
    return 2**30 + 4 * (7 * weights + activations)
