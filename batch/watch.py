"""The status of a batch's jobs, shown as a live table on a terminal and as lines in a log."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table

from batch.grid import Job
from utils.tasks import make_task

console = Console(markup=False, emoji=False)  # brackets and colons in names mean nothing


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is: not wrapped, since a log has no width."""
    with contextlib.suppress(OSError):  # the terminal has been closed
        console.print(text, style=style, highlight=False, soft_wrap=True)


class State(StrEnum):
    WAITING = "waiting"
    TRAINING = "training"
    FINISHED = "finished"
    FINISHED_BEFORE = "finished before"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def finished(self) -> bool:
        return self in (State.FINISHED, State.FINISHED_BEFORE)


@dataclass
class Status:
    """What has become of a job so far."""

    job: Job
    state: State = State.WAITING
    tries: int = 0
    error: str = ""

    def history(self, mirror_url: str = "") -> pd.DataFrame:
        """The evaluations so far, read from the mirror if there is one."""
        run = f"{mirror_url}/{self.job.config.run_name}" if mirror_url else self.job.run_folder
        try:
            return pd.read_csv(f"{run}/{self.job.folder.name}/history.csv")
        except Exception:  # none yet, or fsspec failed: no reason to break the display
            return pd.DataFrame()


@contextlib.contextmanager
def progress_shown(statuses: list[Status], mirror_url: str) -> Iterator[None]:
    """Show a live table on a terminal; elsewhere, such as in a log, a line whenever a status has changed."""
    if console.is_terminal:
        render = functools.partial(live_table, statuses, mirror_url)
        live = Live(console=console, get_renderable=render, refresh_per_second=0.5)
        with contextlib.suppress(OSError), live:  # the terminal was closed; its hang-up has stopped the batch
            yield
        return
    done = threading.Event()
    thread = threading.Thread(target=log_changes, args=(statuses, mirror_url, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def log_changes(statuses: list[Status], mirror_url: str, done: threading.Event) -> None:
    """Print each status that has changed, every two seconds, and once more when all is done."""
    shown: dict[str, list[str]] = {}
    ended = False
    while not ended:
        ended = done.wait(2)
        for status in statuses:
            name, *values, time_left = row_of(status, mirror_url)
            if shown.get(name) != values:
                shown[name] = values
                say(" · ".join(filter(None, [name, *values, time_left])))


def live_table(statuses: list[Status], mirror_url: str) -> Table:
    labels = dict.fromkeys(make_task(status.job.config).metric.label for status in statuses)
    table = Table("fold", "state", "epoch", f"{' / '.join(labels)} raw", "averaged", "time left")
    styles = {State.FAILED: "red", State.TRAINING: "bold"}
    for status in statuses:
        style = "green" if status.state.finished else styles.get(status.state)
        table.add_row(*row_of(status, mirror_url), style=style)
    return table


def row_of(status: Status, mirror_url: str) -> list[str]:
    """A job's name, state, epoch, scores of the raw and the averaged weights, and time left, as shown."""
    state = str(status.state) if status.tries < 2 else f"{status.state}, try {status.tries}"
    row = [status.job.name, state, "", "", "", ""]
    if status.state != State.WAITING and len(history := status.history(mirror_url)):
        last, config = history.iloc[-1], status.job.config
        metric = make_task(config).metric.name
        scores = [last.get(column) for column in (metric, f"averaged_{metric}")]
        row[2] = f"{last['epoch']:.2f} of {config.epochs:g}"
        row[3:5] = ["" if pd.isna(score) else f"{score:.4f}" for score in scores]
        if status.state == State.TRAINING:
            seconds = max(0, last["seconds"] * (config.epochs / last["epoch"] - 1))
            row[5] = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    return row
