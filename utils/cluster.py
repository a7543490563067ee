"""Folds on a Ray cluster: each a task that trains one fold on whichever machine has room for it.

Trying again is the caller's part: a task whose machine is lost ends with an error here, and is asked for anew.
"""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import fsspec

from utils import runtime
from utils.config import InputError
from utils.execute import train
from utils.grid import Job
from utils.sources import find_table

SHIPPED = ("utils", "notebooks", "data/sample")  # what training a fold needs of this project


def connect(where: str) -> Callable[[Job, str, Callable[[], bool]], str]:
    """Join the Ray cluster at ``where`` ("auto": the one that this machine belongs to) and ship this project's code.

    Returns:
        A function that trains a job there and returns what went wrong, "" if nothing did; its arguments are the job,
        the address where its run is mirrored ("": all machines share the storage) and what tells that it must stop.
    """
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed; pip install -r requirements-ray.txt, on every machine.") from None
    with tempfile.TemporaryDirectory() as code:
        for name in SHIPPED:
            shutil.copytree(runtime.ROOT / name, Path(code) / name, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            ray.init(where, runtime_env={"working_dir": code}, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"no Ray cluster answers at {where!r} ({reason}); begin one with `ray start`.") from None
    kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"

    def train_there(job: Job, address: str, stopped: Callable[[], bool]) -> str:
        room = {f"num_{kind.lower()}s": max(1, job.config.devices)}
        task = ray.remote(max_retries=0, **room)(_train).remote(for_all(job, address), address)
        while not ray.wait([task], timeout=0.5)[0]:
            if stopped():
                ray.cancel(task)
                ray.wait([task], timeout=600)  # while it saves its state, and copies it
                return "stopped"
        try:
            return ray.get(task)
        except ray.exceptions.RayTaskError as error:
            return str(error.cause)
        except ray.exceptions.RayError as error:  # its machine or process is lost
            return f"{type(error).__name__}: {str(error).split('. ')[0]}"

    return train_there


def for_all(job: Job, address: str) -> Job:
    """The job with paths that mean the same on every machine. With an address, the data go there."""
    config, paths = job.config, {"output_dir": str((runtime.workspace() / job.config.output_dir).resolve())}
    for name in ("encoder", "resume_from"):
        value = getattr(config, name)
        if value not in ("", "tiny", "minilm") and Path(value).exists():
            paths[name] = str(Path(value).resolve())
    if config.data != "sample":  # which is shipped with the code
        table = find_table(config.data).resolve()
        paths["data"] = f"{address}/{config.run_name}/data/{table.name}" if address else str(table)
        if address:
            with table.open("rb") as source, fsspec.open(paths["data"], "wb") as target:
                shutil.copyfileobj(source, target)
    return changed(job, run=config.run_name, **paths)


def changed(job: Job, **values: str) -> Job:
    return Job(dataclasses.replace(job.config, **values), {**job.given, **values})


def _train(job: Job, address: str) -> str:
    """What a machine of the cluster does. With an address, its own disk is only a scratch."""
    with contextlib.ExitStack() as stack:
        if address:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            job = changed(job, output_dir=str(scratch))
            if job.config.data != "sample":
                table = scratch / Path(job.config.data).name
                with fsspec.open(job.config.data, "rb") as source, table.open("wb") as target:
                    shutil.copyfileobj(source, target)
                job = changed(job, data=str(table))
        return train(job, {}, address)
