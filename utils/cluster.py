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

from utils import runtime
from utils.config import InputError
from utils.execute import train
from utils.grid import Job
from utils.sources import SOURCES

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
        task = ray.remote(max_retries=0, **room)(_train).remote(absolute(job), address)
        while not ray.wait([task], timeout=0.5)[0]:
            if stopped():
                ray.cancel(task)
                ray.wait([task], timeout=90)  # while it saves its state
                return "stopped"
        try:
            return ray.get(task)
        except ray.exceptions.RayTaskError as error:
            return str(error.cause)
        except ray.exceptions.RayError as error:  # its machine or process is lost
            return f"{type(error).__name__}: {str(error).split('. ')[0]}"

    return train_there


def absolute(job: Job) -> Job:
    """The job with paths that mean the same on every machine."""
    paths = {"output_dir": str((runtime.workspace() / job.config.output_dir).resolve()), "run": job.config.run_name}
    if job.config.data not in SOURCES and Path(job.config.data).exists():
        paths["data"] = str(Path(job.config.data).resolve())
    return Job(dataclasses.replace(job.config, **paths), {**job.given, **paths})


def _train(job: Job, address: str) -> str:
    """What a machine of the cluster does. With an address, its own disk is only a scratch."""
    with contextlib.ExitStack() as stack:
        if address:
            scratch = {"output_dir": stack.enter_context(tempfile.TemporaryDirectory())}
            job = Job(dataclasses.replace(job.config, **scratch), {**job.given, **scratch})
        return train(job, {}, address)
