"""One fold or notebook through papermill, in a process of its own, on the part of the machine that it was given."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import nbformat
import psutil
import torch
import yaml

from utils import runtime
from utils.config import Config
from utils.grid import Job
from utils.mirror import Mirror
from utils.model import read_encoder_config

PUSH_SECONDS = 10  # between two copies of what a training has saved


def train(job: Job, environment: dict[str, str], address: str = "", stopped: Callable[[], bool] = lambda: False) -> str:
    """Train a fold, as notebook 02 does it; where ``address`` is given, from what lies there, and copied there.

    Returns:
        What went wrong, "" if nothing did.
    """
    if not address:
        return run_notebook("02_fold_training", job.notebook, job.given, environment, stopped)
    mirror = Mirror(job.run_folder, f"{address}/{job.config.run_name}")
    mirror.pull(job.folder.name)
    pushed = time.monotonic()

    def push_now_and_then() -> None:
        nonlocal pushed
        if time.monotonic() - pushed > PUSH_SECONDS:
            with contextlib.suppress(Exception):  # replaced while it was copied, or a moment without a network
                mirror.push(job.folder.name)
            pushed = time.monotonic()

    try:
        return run_notebook("02_fold_training", job.notebook, job.given, environment, stopped, push_now_and_then)
    finally:  # also where Ray interrupts it
        mirror.push(job.folder.name, job.notebook.name)


def run_notebook(
    name: str,
    output: Path,
    parameters: dict,
    environment: dict[str, str],
    stopped: Callable[[], bool] = lambda: False,
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Execute notebook ``name`` with ``parameters`` into ``output``.

    Args:
        environment: variables on top of this process's own.
        stopped: asked again and again; once it is true, the notebook is interrupted, and saves what it does then.
        tick: called about once a second meanwhile.

    Returns:
        What went wrong, "" if nothing did.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)  # an error in it must be this time's
    path = os.pathsep.join(filter(None, [str(runtime.ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "utils.keeper", *command(name, output, parameters)], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=log, start_new_session=True,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            ticked = time.monotonic()
            while process.poll() is None:
                if stopped():
                    break
                if time.monotonic() - ticked > 1:
                    tick()
                    ticked = time.monotonic()
                time.sleep(0.1)
        finally:
            process.stdin.close()  # upon which the keeper interrupts what still runs
            process.wait()
        if process.returncode == 0:
            return ""
        log.seek(0)
        return error_of(output, log.read().decode(errors="replace"))


def command(name: str, output: Path, parameters: dict) -> list[str]:
    notebook = runtime.ROOT / "notebooks" / f"{name}.ipynb"
    given = yaml.safe_dump(parameters, default_flow_style=True, width=10**6).strip()
    return [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", "-y", given]


def errors_in(notebook: Path) -> list[str] | None:
    """The tracebacks in an executed notebook; None where there is no readable one."""
    try:
        outputs = [output for cell in nbformat.read(notebook, 4).cells for output in cell.get("outputs", [])]
    except (OSError, ValueError, nbformat.ValidationError):
        return None
    return ["\n".join(output["traceback"]) for output in outputs if output["output_type"] == "error"]


def is_executed(notebook: Path) -> bool:
    """Whether a notebook has been executed to its end."""
    return errors_in(notebook) == []


def error_of(notebook: Path, log: str) -> str:
    """The last lines of the error in an executed notebook; if it holds none, of what papermill said."""
    said = (errors_in(notebook) or [log])[-1]
    lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", said).splitlines() if line.strip()]
    return "\n".join(lines[-3:]) or "it ended without a word"


# --- how many at a time ------------------------------------------------------------------------------------------


def slots(configs: list[Config], wanted: int = 0) -> list[dict[str, str]]:
    """The shares of this machine that folds run on at the same time: environment variables for each.

    On GPUs one fold each (or as many GPUs as its ``devices`` asks for). On a CPU as many folds as there are cores and
    memory for, the cores divided among them: two folds with a thread each are faster than one with two.

    Args:
        wanted: how many; 0: as many as fit.
    """
    cores, most = joblib.cpu_count(only_physical_cores=True), len(configs)
    if runtime.device().type != "cpu":
        names = visible_gpus()
        each = max(config.devices or len(names) for config in configs)
        groups = [names[start : start + each] for start in range(0, len(names) - each + 1, each)] or [names]
        number = min(wanted or len(groups), most)
        threads = {"OMP_NUM_THREADS": str(max(1, cores // number))}
        visible = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} if all(group) else {} for group in groups]
        return [{**visible[i % len(groups)], **threads} for i in range(number)]
    room = psutil.virtual_memory().available // max(map(memory_needed, configs))
    processes = max(1, *(config.devices for config in configs))
    number = min(wanted or max(1, min(cores // processes, room)), most)
    threads = str(max(1, cores // (number * processes)))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for _ in range(number)]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES; one empty name where the accelerator is no CUDA device."""
    if not torch.cuda.is_available():
        return [""]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


def memory_needed(config: Config) -> int:
    """Bytes that training a fold on the CPU takes, roughly: measured within a third for MiniLM (benchmarks/)."""
    encoder = read_encoder_config(config.encoder)
    layers, hidden = encoder.num_hidden_layers, encoder.hidden_size
    weights = encoder.vocab_size * hidden + 12 * layers * hidden**2
    activations = config.batch_size * min(config.max_length, 512) * layers * hidden * 20
    return 2**30 + 4 * (7 * weights + activations)
