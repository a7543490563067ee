"""Many folds without anybody watching: notebook 02 once a fold, on this machine or a cluster, then notebooks 03 and 06.

    python -m utils.batch --preset commonlit --fold 0-4 --seed 1,2,3

A fold that fails is tried again, from where it was; called again, a batch does what is left of it.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import joblib

from utils import checkpoint, execute, grid, runtime, state, summary
from utils.config import InputError
from utils.faults import only_run
from utils.grid import Job
from utils.mirror import Mirror
from utils.watch import BEFORE, FAILED, FINISHED, STOPPED, TRAINING, Status, say, watched

Train = Callable[[Job, Callable[[], bool]], str]  # of a job and of what tells that it must stop: what went wrong


class Batch:
    """Jobs on their way through ``train``, so many at once, each with ``retries`` further tries."""

    def __init__(self, jobs: list[Job], train: Train, at_once: int, retries: int):
        self.statuses = [Status(job) for job in jobs]
        self.train, self.at_once, self.retries = train, at_once, retries
        self.stop = threading.Event()

    def run(self) -> None:
        """Returns when every job has ended, one way or another."""
        joblib.Parallel(n_jobs=self.at_once, backend="threading", pre_dispatch="all")(
            joblib.delayed(self.see_through)(status) for status in self.statuses
        )

    def see_through(self, status: Status) -> None:
        """One job, with its further tries."""
        job = status.job
        if job.finished and not job.config.retrain:
            status.state = BEFORE
            return
        while status.tries <= self.retries and not self.stop.is_set():
            status.state, status.tries = TRAINING, status.tries + 1
            try:
                status.error = self.train(job if status.tries == 1 else job.again(), self.stop.is_set)
            except Exception as error:  # whatever it is, the other folds go on
                status.error = f"{type(error).__name__}: {error}"
            if job.finished and (not status.error or self.stop.is_set()):  # stopped while it wrote its last pictures
                status.state, status.error = FINISHED, ""
                return
            if not status.error and (job.folder / "result.json").exists():
                status.state, status.error = STOPPED, "its time limit was reached; run the same command again to go on"
                return
            status.error = status.error or (
                f"it ended, but {runtime.shown(job.folder)} holds no result; do all machines share this folder?"
            )
            status.state = FAILED
        if self.stop.is_set():
            status.state = STOPPED

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Stop gently at the first signal; at the second, leave the stopping to the keepers."""

        def note(number, frame):
            if self.stop.is_set():
                os._exit(130)
            self.stop.set()
            say("Stopping: the folds save their states; run the same command again to go on.")

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
            shutil.rmtree(job.folder, ignore_errors=True)  # of an earlier try
            mirror_of(job, address).pull(job.folder.name, job.notebook.name)
        return error

    return train, min(wanted or len(jobs), len(jobs))


def fetch_folds(jobs: list[Job], address: str) -> None:
    """Bring here what earlier batches have left at ``address``."""
    for job in jobs:
        if not job.finished:
            try:
                mirror_of(job, address).pull(job.folder.name, job.notebook.name)
            except InputError:
                raise
            except Exception as error:  # each kind of storage has errors of its own
                reason = str(error).split("\n")[0] or type(error).__name__
                raise InputError(f"--mirror {address} cannot be read ({reason}).") from None


def mirror_of(job: Job, address: str) -> Mirror:
    return Mirror(job.run_folder, f"{address}/{job.config.run_name}")


# --- from a shell ------------------------------------------------------------------------------------------------


def main() -> None:
    try:
        sys.exit(run(arguments()))
    except InputError as error:
        sys.exit(f"InputError: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m utils.batch", allow_abbrev=False, usage="%(prog)s [--NAME VALUE ...] [options]",
        description="Train many folds, each by notebook 02 through papermill, then execute notebooks 03 and 06. --NAME "
        "sets any field of Config; 1,2,5-7 or a,b make a grid. Without --fold, all folds.",
    )  # fmt: skip
    parser.add_argument("--params", metavar="FILE", help="parameters from a YAML file; the command line's come first")
    parser.add_argument("--jobs", type=int, default=0, help="how many at once; 0: as many as there are GPUs, or as fit")
    parser.add_argument("--retries", type=int, default=2, help="further tries of a fold that fails (2)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    parser.add_argument("--address", default="auto", help="of the Ray cluster (auto: the one this machine belongs to)")
    parser.add_argument("--mirror", default="", metavar="ADDRESS", help="keep a copy of output/ at s3://..., gs://...; "
                        "without storage that they share, the machines of a cluster meet there")  # fmt: skip
    parser.add_argument("--no-evaluation", action="store_true", help="leave notebooks 03 and 06 out")
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    known, rest = parser.parse_known_args()
    known.given = (grid.read_yaml(known.params) if known.params else {}) | grid.read_words(rest)
    known.mirror = known.mirror.rstrip("/")
    if known.jobs < 0 or known.retries < 0:
        raise InputError("--jobs and --retries cannot be negative; 0 leaves the number to the machine, or tries once.")
    return known


def run(asked: argparse.Namespace) -> int:
    """The whole batch; its exit code."""
    jobs = grid.expand(asked.given)
    if asked.mirror and not asked.dry_run:
        fetch_folds(jobs, asked.mirror)
    grid.check(jobs)
    if asked.dry_run:
        show_plan(jobs, asked)
        return 0
    base = checkpoint.fold_folder(jobs[0].config).parent.parent / grid.base_name(jobs, asked.given)
    with only_run(base):
        if asked.engine == "ray":
            train, at_once = on_cluster(jobs, asked.jobs, asked.mirror, asked.address)
        else:
            train, at_once = on_this_machine(jobs, asked.jobs, asked.mirror)
        batch = Batch(jobs, train, at_once, asked.retries)
        with batch.stopped_by_signals():
            with watched(batch.statuses, asked.mirror if asked.engine == "ray" else ""):
                batch.run()
            summary.summarize(batch.statuses, grid.varied(jobs), base / "summary.csv")
            return conclude(batch, base, asked)


def show_plan(jobs: list[Job], asked: argparse.Namespace) -> None:
    for job in jobs:
        newest = state.newest(job.folder / "state")
        how = "finished" if job.finished else f"goes on from {newest.name}" if newest else "begins"
        say(f"# {job.config.run_name}, fold {job.config.fold}: {how}")
        say(shlex.join(execute.command("02_fold_training", job.notebook, job.given)))
    if asked.engine == "local":
        slots = execute.slots([job.config for job in jobs], asked.jobs)
        say(f"# {len(jobs)} folds, {len(slots)} at once: {slots[0]}")


def conclude(batch: Batch, base: Path, asked: argparse.Namespace) -> int:
    """Scores, notebooks 03 and 06, what failed; the exit code."""
    by_run: dict[str, list[Status]] = {}
    for status in batch.statuses:
        by_run.setdefault(status.job.config.run_name, []).append(status)
    scored = [found[0].job.config for found in by_run.values() if any(status.job.finished for status in found)]
    if scored:
        summary.show_scores(scored)
    errors = {}
    for found in by_run.values():
        if not (asked.no_evaluation or batch.stop.is_set()):
            errors |= summary.evaluate(found, batch.stop.is_set)
        if asked.mirror:
            mirror = mirror_of(found[0].job, asked.mirror)
            mirror.push(*(path.name for path in found[0].job.run_folder.iterdir() if not path.name.startswith("fold-")))
    failed = [status for status in batch.statuses if status.state not in (FINISHED, BEFORE)]
    for status in failed:
        if status.state == FAILED:
            say(f"{status.name} failed, {status.tries} tries; {runtime.shown(status.job.notebook)}:", style="red")
        else:
            say(f"{status.name} stopped", style="yellow")
        if status.error:
            say(indented(status.error))
    for name, error in errors.items():
        say(f"{name} failed:", style="red")
        say(indented(error))
    say(f"Summary: {runtime.shown(base / 'summary.csv')}")
    return 130 if batch.stop.is_set() else int(bool(failed or errors))


def indented(text: str) -> str:
    return "  " + text.replace("\n", "\n  ")


if __name__ == "__main__":
    main()
