"""Many folds without anybody watching: notebook 02 once a fold, on this machine or a cluster, then notebooks 03 and 06.

    python -m utils.batch --preset commonlit --fold 0-4 --seed 1,2,3

A fold that fails is tried again, from where it was; called again, a batch does what is left of it.
"""

import argparse
import contextlib
import functools
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
from filelock import FileLock, Timeout

from utils import checkpoint, execute, grid, runtime, state, summary
from utils.config import InputError
from utils.engines import Train, compare_folds, forget, on_cluster, on_this_machine, push_the_rest
from utils.grid import Job
from utils.watch import BEFORE, FAILED, FINISHED, STOPPED, TRAINING, Status, say, watched


class Batch:
    """Jobs on their way through ``train``, so many at once, each with ``retries`` further tries.

    ``forget`` removes what there is of a fold that is to be trained anew.
    """

    def __init__(self, jobs: list[Job], train: Train, forget: Callable[[Job], None], at_once: int, retries: int):
        self.statuses = [Status(job) for job in jobs]
        self.train, self.forget, self.at_once, self.retries = train, forget, at_once, retries
        self.stop = threading.Event()

    def run(self) -> None:
        """Returns when every job has ended, one way or another."""
        joblib.Parallel(n_jobs=self.at_once, backend="threading", pre_dispatch="all")(
            joblib.delayed(self.see_through)(status) for status in self.statuses
        )

    def see_through(self, status: Status) -> None:
        """One job, with its further tries."""
        try:
            self.attempt(status)
        except Timeout:
            status.state, status.error = FAILED, "another batch is training it; wait for that one to end"
        except Exception as error:  # whatever it is, the other folds go on
            status.state, status.error = FAILED, f"{type(error).__name__}: {error}"
        if self.stop.is_set() and status.state not in (FINISHED, BEFORE):
            status.state = STOPPED

    def attempt(self, status: Status) -> None:
        job = status.job.going_on()
        if job is status.job and job.finished:
            status.state = BEFORE
            return
        job.run_folder.mkdir(parents=True, exist_ok=True)
        with FileLock(job.run_folder / f".{job.notebook.name}.lock", timeout=0):
            while status.tries <= self.retries and not self.stop.is_set():
                if job is not status.job and not status.tries:
                    self.forget(job)
                status.state, status.tries = TRAINING, status.tries + 1
                try:
                    status.error = self.train(job, self.stop.is_set)
                    finished = job.finished
                except Exception as error:
                    status.error, finished = f"{type(error).__name__}: {error}", False
                if finished and (not status.error or self.stop.is_set()):  # stopped while it drew its last pictures
                    status.state, status.error = FINISHED, ""
                    return
                if not status.error and (job.folder / "result.json").exists():
                    status.state, status.error = STOPPED, "its time limit was reached; run the same command again"
                    return
                status.error = status.error or (
                    f"it ended, but {runtime.shown(job.folder)} holds no result; do all machines share this folder?"
                )
                status.state = FAILED

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


# --- from a shell ------------------------------------------------------------------------------------------------


def main() -> None:
    try:
        sys.exit(run(arguments()))
    except InputError as error:
        sys.exit(f"InputError: {error}")
    except KeyboardInterrupt:  # before anything has begun
        sys.exit(130)


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
    base = checkpoint.fold_folder(jobs[0].config).parent.parent / grid.base_name(jobs, asked.given)
    if asked.mirror and not asked.dry_run:
        compare_folds(jobs, asked.mirror)
    grid.check(jobs)
    if asked.dry_run:
        show_plan(jobs, asked)
        return 0
    if asked.engine == "ray":
        train, at_once = on_cluster(jobs, asked.jobs, asked.mirror, asked.address)
    else:
        train, at_once = on_this_machine(jobs, asked.jobs, asked.mirror)
    batch = Batch(jobs, train, functools.partial(forget, address=asked.mirror), at_once, asked.retries)
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
    by_run: dict[str, list[Job]] = {}
    for status in batch.statuses:
        by_run.setdefault(status.job.config.run_name, []).append(status.job)
    errors = summary.show_scores([jobs[0].config for jobs in by_run.values()])
    for jobs in by_run.values():
        if not (asked.no_evaluation or batch.stop.is_set()):
            errors |= summary.evaluate(jobs, batch.stop.is_set)
        if asked.mirror and jobs[0].run_folder.exists():
            errors |= push_the_rest(jobs[0].run_folder, asked.mirror)
    if asked.mirror and base.name not in by_run:
        errors |= push_the_rest(base, asked.mirror)
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
