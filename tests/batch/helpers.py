"""What the tests of batches share: starting one, waiting for it, and jobs that only pretend to train."""

import os
import subprocess
import sys
import time

import psutil

from utils.machine import runtime
from utils.machine.files import write_json
from utils.runs import artifacts

# Long enough to be stopped in the middle.
LONG = ["--preset", "tiny", "--precision", "fp32"]
LONG += ["--epochs", "100", "--swa-start", "20", "--save-every", "1"]
SETTINGS = {"epochs": 100, "swa_start": 20, "save_every": 1}


def start(*words, cwd, **variables):
    """Start ``python -m batch`` in ``cwd``, its output in ``cwd/output``."""
    # Two folds at once have a thread each, whatever the machine: other numbers of threads round differently.
    variables = {"PYTHONPATH": str(runtime.ROOT), **variables}
    fixed = {"OMP_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "2", "FORCE_COLOR": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "batch", *map(str, words), "--output-dir", str(cwd / "output")],
        cwd=cwd,
        env={**os.environ, **fixed, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0, seconds=400):
    """Wait for a batch that must end with this exit code; what it printed."""
    printed = process.communicate(timeout=seconds)[0]
    assert process.returncode == code, printed
    return printed


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return result


def has_state(folder, fold):
    """Whether a fold that trains in ``folder`` has saved a state."""
    return any(folder.glob(f"output/tiny/fold-{fold}/state/step-*"))


def kernels(folder):
    """The notebooks' processes that belong to ``folder``."""
    running = []
    for process in psutil.process_iter():
        try:
            if any("ipykernel" in word for word in process.cmdline()) and process.cwd() == str(folder):
                running.append(process)
        except psutil.Error:
            pass
    return running


def write_result(job, finished=True, started="2026-01-01"):
    """Make a job's fold look finished, or stopped by a time limit."""
    job.folder.mkdir(parents=True, exist_ok=True)
    scores = {"last": {"rmse": 0.5}}
    result = {"metric": {}, "scores": scores, "seconds": 1.5, "finished": finished}
    write_json(job.folder / "result.json", result)
    write_json(job.folder / "run.json", {"started": started})
    if finished:
        artifacts.seal_fold(job.folder)


def write(folder, *names, content=""):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
