"""A batch: jobs trained several at once, with retries, and what is shown, written and copied after them."""

import argparse
import contextlib
import os
import shlex
import signal
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import joblib
from filelock import FileLock, Timeout

from batch import execute, grid, summary
from batch.cluster import ray_engine
from batch.execute import NotebookError, NotebookStoppedError, Train
from batch.grid import Job
from batch.mirror import Mirror, synchronize
from batch.watch import State, Status, progress_shown, say
from utils.machine import runtime
from utils.runs import checkpoint
from utils.runs.fold import close_fold


class Batch:
    """Jobs trained by ``train``, ``at_once`` at a time, each with up to ``retries`` further tries."""

    def __init__(self, jobs: list[Job], train: Train, at_once: int, retries: int):
        self.statuses = [Status(job) for job in jobs]
        self.train, self.at_once, self.retries = train, at_once, retries
        self.stop = threading.Event()
        retrain = any(job.config.retrain for job in jobs)  # which would begin anew once more
        self.again = "run the command again without retrain" if retrain else "run the same command again"

    def run(self) -> None:
        """Train all jobs; returns when each has finished, failed or been stopped."""
        parallel = joblib.Parallel(n_jobs=self.at_once, backend="threading", pre_dispatch="all")
        parallel(joblib.delayed(self.run_job)(status) for status in self.statuses)

    def run_job(self, status: Status) -> None:
        """Train one job and record what became of it; whatever happens, the other jobs go on."""
        try:
            self.train_with_retries(status)
        except Timeout:
            status.state, status.error = State.FAILED, "another batch is training it; wait for it to end"
        except Exception as error:
            status.state, status.error = State.FAILED, f"{type(error).__name__}: {error}"
        if self.stop.is_set() and not status.state.finished:
            status.state = State.STOPPED

    def train_with_retries(self, status: Status) -> None:
        job, started = status.job, status.job.started
        if not job.config.retrain and job.finished:
            close_fold(job.folder)
            status.state = State.FINISHED_BEFORE
            return
        job.run_folder.mkdir(parents=True, exist_ok=True)
        with FileLock(job.run_folder / f".{job.notebook.name}.lock", timeout=0):
            while status.tries <= self.retries and not self.stop.is_set():
                status.state, status.tries = State.TRAINING, status.tries + 1
                status.state, status.error = self.train_once(job, started)
                if status.state != State.FAILED:
                    return
                if job.config.retrain and job.started != started:  # the new training, which must resume
                    job = job.replace(retrain=False, resume_from="")

    def train_once(self, job: Job, started: str) -> tuple[State, str]:
        """Try once to train ``job``; its state then, and the error.

        ``started``: when a training was begun that a job with ``retrain`` is to replace, which is no result.
        """

        def finished() -> bool:
            return job.finished and not (job.config.retrain and job.started == started)

        try:
            self.train(job, self.stop.is_set)
            if finished():
                return State.FINISHED, ""
        except NotebookStoppedError as error:
            if finished():  # it was stopped while it drew the last plots
                return State.FINISHED, ""
            return State.STOPPED, str(error)
        except NotebookError as error:
            return State.FAILED, str(error)
        except Exception as error:
            return State.FAILED, f"{type(error).__name__}: {error}"
        if (job.folder / "result.json").exists():
            return State.STOPPED, f"its time limit was reached; {self.again}"
        folder = runtime.display_path(job.folder)
        return State.FAILED, f"it ended, but {folder} holds no result; do all machines share this folder?"

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Let the jobs save their states at the first signal, and exit at the second."""

        def handle(number, frame):
            if self.stop.is_set():
                os._exit(130)  # the supervisors notice, and still let the jobs save
            self.stop.set()
            say(f"Stopping: the folds save their states; {self.again} to resume.")

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run_batch(options: argparse.Namespace) -> int:
    """Train the folds that the command line asks for and evaluate them; the exit code.

    Raises InputError, before anything starts, for what cannot work.
    """
    jobs = grid.expand(options.parameters)
    folder = jobs[0].run_folder.parent / grid.batch_name(jobs, options.parameters)
    if options.mirror and not options.dry_run:
        synchronize(jobs, options.mirror)
    grid.check(jobs)
    if options.dry_run:
        show_plan(jobs, options)
        return 0
    if options.engine == "ray":
        train, at_once = ray_engine(jobs, options.jobs, options.mirror, options.address)
    else:
        train, at_once = execute.local_engine(jobs, options.jobs, options.mirror)
    batch = Batch(jobs, train, at_once, options.retries)
    with batch.stopped_by_signals():
        with progress_shown(batch.statuses, options.mirror if options.engine == "ray" else ""):
            batch.run()
        summary.write_summary(batch.statuses, grid.varied_names(jobs), folder / "summary.csv")
        errors = evaluate_runs(batch, folder, options)
    show_failures(batch.statuses, errors)
    say(f"Summary: {runtime.display_path(folder / 'summary.csv')}")
    if batch.stop.is_set():
        return 130
    return int(bool(errors) or not all(status.state.finished for status in batch.statuses))


def show_plan(jobs: list[Job], options: argparse.Namespace) -> None:
    """Print the commands that would run, and how many at once."""
    for job in jobs:
        state = checkpoint.latest(job.folder / "state")
        plan = "finished" if job.finished else f"resumes from {state.name}" if state else "starts"
        say(f"# {job.name}: {plan}")
        say(shlex.join(execute.command("02_fold_training", job.notebook, job.parameters)))
    if options.engine == "local":
        slots = execute.slots([job.config for job in jobs], options.jobs)
        say(f"# {len(jobs)} folds, {len(slots)} at once: {slots[0]}")


def evaluate_runs(batch: Batch, folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Show scores, execute notebooks 03 and 06, copy what they wrote; the messages of what failed."""
    runs: dict[str, list[Job]] = {}
    for status in batch.statuses:
        runs.setdefault(status.job.config.run_name, []).append(status.job)
    errors = summary.show_scores([jobs[0].config for jobs in runs.values()])
    for jobs in runs.values():
        if not (options.no_evaluation or batch.stop.is_set()):
            errors |= summary.evaluate(jobs, batch.stop.is_set)
        errors |= copy_to_mirror(jobs[0].run_folder, options.mirror)
    if folder.name not in runs:
        errors |= copy_to_mirror(folder, options.mirror)
    return errors


def copy_to_mirror(folder: Path, mirror_url: str) -> dict[str, str]:
    """Copy what lies beside a run's folds, if there is a mirror; the message of what failed."""
    try:
        if mirror_url and folder.exists():
            names = [path.name for path in folder.iterdir() if not path.name.startswith(("fold-", "."))]
            Mirror(folder, f"{mirror_url}/{folder.name}").push(*names)
    except Exception as error:  # each file system of fsspec has errors of its own
        name = f"copying {runtime.display_path(folder)} to {mirror_url}"
        return {name: f"{type(error).__name__}: {error}"}
    return {}


def show_failures(statuses: list[Status], errors: dict[str, str]) -> None:
    """Print what failed or was stopped, and why."""
    for status in statuses:
        if status.state == State.FAILED:
            notebook = runtime.display_path(status.job.notebook)
            say(f"{status.job.name} failed, {status.tries} tries; {notebook}:", style="red")
        elif not status.state.finished:
            say(f"{status.job.name} stopped", style="yellow")
        if status.error:
            say(textwrap.indent(status.error, "  "))
    for name, error in errors.items():
        say(f"{name} failed:", style="red")
        say(textwrap.indent(error, "  "))
