"""Where a batch's folds are trained, this machine or a cluster, and where they are kept, here or at a mirror too."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from queue import Queue

from utils import execute, runtime
from utils.config import InputError
from utils.faults import only_run
from utils.grid import Job
from utils.mirror import Mirror

Train = Callable[[Job, Callable[[], bool]], str]  # of a job and of what tells that it must stop: what went wrong


def on_this_machine(jobs: list[Job], wanted: int, address: str) -> tuple[Train, int]:
    """What trains a job here, and how many fit at once."""
    slots = execute.slots([job.config for job in jobs], wanted)
    free: Queue[dict] = Queue()
    for slot in slots:
        free.put(slot)

    def train(job: Job, stopped: Callable[[], bool]) -> str:
        slot = free.get()
        try:
            return execute.train(job, slot, address, stopped)
        finally:
            free.put(slot)

    return train, len(slots)


def on_cluster(jobs: list[Job], wanted: int, address: str, where: str) -> tuple[Train, int]:
    """What trains a job on a Ray cluster; all are handed over at once, unless fewer are wanted."""
    from utils import cluster  # Ray is an extra requirement

    there = cluster.connect(where)

    def train(job: Job, stopped: Callable[[], bool]) -> str:
        error = there(job, address, stopped)
        if address:
            mirror = mirror_of(job, address)
            mirror.pull(job.folder.name, again=True)
            with contextlib.suppress(FileNotFoundError):  # lost before it was copied
                mirror.files.get_file(f"{mirror.root}/{job.notebook.name}", str(job.notebook))
        return error

    return train, min(wanted or len(jobs), len(jobs))


def forget(job: Job, address: str) -> None:
    """Remove a fold, and its copy at ``address``."""
    if address:
        mirror_of(job, address).remove(job.folder.name)
    else:
        with only_run(job.folder):
            shutil.rmtree(job.folder, ignore_errors=True)


def compare_folds(jobs: list[Job], address: str) -> None:
    """Bring here what has come further at ``address``, and there what has been finished here without it."""
    for job in jobs:
        mirror = mirror_of(job, address)
        try:
            mirror.pull(job.folder.name)
            if job.finished and mirror.is_ahead(job.folder.name):
                mirror.push(job.folder.name, job.notebook.name)
        except InputError:
            raise
        except Exception as error:  # each kind of storage has errors of its own
            reason = str(error).split("\n")[0] or type(error).__name__
            raise InputError(f"--mirror {address} cannot be used ({reason}).") from None


def mirror_of(job: Job, address: str) -> Mirror:
    return Mirror(job.run_folder, f"{address}/{job.config.run_name}")


def push_the_rest(folder: Path, address: str) -> dict[str, str]:
    """Copy what lies beside the folds; what went wrong."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(("fold-", "."))]
    try:
        Mirror(folder, f"{address}/{folder.name}").push(*names)
    except Exception as error:  # each kind of storage has errors of its own
        return {f"copying {runtime.shown(folder)} to {address}": f"{type(error).__name__}: {error}"}
    return {}
