"""Folds on a Ray cluster: each is a task that trains one fold on whichever machine has room for it."""

import contextlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import fsspec

from batch import execute
from batch.execute import NotebookError, NotebookStoppedError, Stopped, Train
from batch.grid import Job
from batch.mirror import Mirror
from utils.config import InputError
from utils.data.sources import BUILT_IN, find_table
from utils.machine import runtime

SHIPPED = ("utils", "batch", "notebooks", "docs/pictures", "data/sample", "data/aspects", "data/questions")


def ray_engine(jobs: list[Job], wanted: int, mirror_url: str, address: str) -> tuple[Train, int]:
    """What trains a job on a Ray cluster, and how many are submitted at once (``wanted`` 0: all).

    Without a mirror, all machines must share the storage.
    """
    ray = connect(address)
    resource = "num_gpus" if ray.cluster_resources().get("GPU") else "num_cpus"

    def train(job: Job, stopped: Stopped) -> None:
        options = {"max_retries": 0, resource: max(1, job.config.devices)}
        task = ray.remote(**options)(train_here).remote(with_shared_paths(job, mirror_url), mirror_url)
        try:
            wait(ray, task, stopped)
        finally:
            if mirror_url:
                mirror = Mirror.of_run(job, mirror_url)
                mirror.pull(job.folder.name, always=True)
                with contextlib.suppress(FileNotFoundError):  # its machine was lost before it was copied
                    mirror.remote.get_file(f"{mirror.root}/{job.notebook.name}", str(job.notebook))

    return train, min(wanted or len(jobs), len(jobs))


def connect(address: str) -> Any:
    """Join a Ray cluster ("auto": this machine's own) and ship this project's code; the module ``ray``."""
    try:
        import ray
    except ImportError:
        raise InputError("Ray is missing; on every machine, pip install -r requirements-ray.txt.") from None
    with tempfile.TemporaryDirectory() as code:
        for name in SHIPPED:
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(runtime.ROOT / name, Path(code) / name, ignore=ignore)
        quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            ray.init(address, runtime_env={"working_dir": code}, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"no Ray cluster answers at {address!r} ({reason}); try `ray start`.") from None
    return ray


def wait(ray: Any, task: Any, stopped: Stopped) -> None:
    """Wait for a task; cancel it once ``stopped()`` is true. Raises NotebookError and the task's errors."""
    while not ray.wait([task], timeout=0.5)[0]:
        if stopped():
            ray.cancel(task)
            ray.wait([task], timeout=600)  # while it saves its state, and copies it
            raise NotebookStoppedError("it was stopped; run the same command again to resume")
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:  # its machine or process is lost
        raise NotebookError(f"{type(error).__name__}: {str(error).split('. ')[0]}") from None


def with_shared_paths(job: Job, mirror_url: str) -> Job:
    """The job with paths that mean the same on every machine. With a mirror, the data are copied to it."""
    config = job.config
    paths = {"output_dir": str((runtime.workspace() / config.output_dir).resolve())}
    for name in ("encoder", "resume_from"):
        value = getattr(config, name)
        if value not in ("", "tiny", "minilm") and Path(value).exists():
            paths[name] = str(Path(value).resolve())
    if config.data not in BUILT_IN:  # which are shipped with the code
        table = find_table(config.data).resolve()
        paths["data"] = f"{mirror_url}/{config.run_name}/data/{table.name}" if mirror_url else str(table)
        if mirror_url:
            copy(str(table), paths["data"])
    return job.replace(run=config.run_name, **paths)


def train_here(job: Job, mirror_url: str) -> None:
    """Train a job on this machine of the cluster, whose disk is only scratch space if there is a mirror."""
    with contextlib.ExitStack() as stack:
        if mirror_url:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            job = job.replace(output_dir=scratch)
            if job.config.data not in BUILT_IN:
                table = f"{scratch}/{Path(job.config.data).name}"
                copy(job.config.data, table)
                job = job.replace(data=table)
        execute.train(job, {}, mirror_url)


def copy(source: str, target: str) -> None:
    """Copy a file between paths or URLs."""
    with fsspec.open(source, "rb") as reading, fsspec.open(target, "wb") as writing:
        shutil.copyfileobj(reading, writing)
