"""How the jobs of a batch stand, for somebody who watches and for a log."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table

from utils.grid import Job

console = Console()


def say(text: str, style: str | None = None) -> None:
    """A line as it is: not broken, since a log or a pipe has no width, and brackets in it are no markup."""
    with contextlib.suppress(OSError):  # the terminal has gone
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


WAITING, TRAINING, FINISHED, BEFORE, FAILED, STOPPED = (
    "waiting", "training", "finished", "finished before", "failed", "stopped"
)  # fmt: skip


@dataclass
class Status:
    """Where a job stands."""

    job: Job
    state: str = WAITING
    tries: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        return f"{self.job.config.run_name}, fold {self.job.config.fold}"

    def history(self, address: str = "") -> pd.DataFrame:
        """The evaluations so far."""
        place = f"{address}/{self.job.config.run_name}/{self.job.folder.name}" if address else self.job.folder
        try:
            return pd.read_csv(f"{place}/history.csv")
        except Exception:  # none yet; and each kind of storage has errors of its own, which a display must not spread
            return pd.DataFrame(columns=["epoch", "rmse", "swa_rmse", "seconds"])


@contextlib.contextmanager
def watched(statuses: list[Status], address: str) -> Iterator[None]:
    """A live table on a terminal; elsewhere, such as in a log, a line whenever something has changed."""
    if console.is_terminal:
        live = Live(console=console, get_renderable=lambda: live_table(statuses, address), refresh_per_second=0.5)
        with contextlib.suppress(OSError), live:  # of a terminal that has gone; its hang-up has stopped the batch
            yield
        return
    done, said = threading.Event(), {}

    def say_news() -> None:
        for status in statuses:
            row = row_of(status, address)
            if said.get(status.name) != row[1:-1]:
                said[status.name] = row[1:-1]
                say(" · ".join(filter(None, row)))

    def keep_saying() -> None:
        while not done.wait(2):
            say_news()

    thread = threading.Thread(target=keep_saying, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        say_news()


def live_table(statuses: list[Status], address: str) -> Table:
    table = Table("fold", "state", "epoch", "RMSE raw", "averaged", "time left")
    colours = {FAILED: "red", FINISHED: "green", BEFORE: "green", TRAINING: "bold"}
    for status in statuses:
        table.add_row(*row_of(status, address), style=colours.get(status.state))
    return table


def row_of(status: Status, address: str) -> list[str]:
    """Name, state, epoch, raw and averaged RMSE, time left, as they are shown."""
    state = status.state if status.tries < 2 else f"{status.state}, try {status.tries}"
    row = [status.name, state, "", "", "", ""]
    history = status.history(address) if status.state != WAITING else ()
    if len(history):
        last, config = history.iloc[-1], status.job.config
        averaged = "" if pd.isna(last["swa_rmse"]) else f"{last['swa_rmse']:.4f}"
        row[2:5] = [f"{last['epoch']:.2f} of {config.epochs:g}", f"{last['rmse']:.4f}", averaged]
        if status.state == TRAINING:
            left = last["seconds"] * (config.epochs / last["epoch"] - 1)
            row[5] = f"{max(0, left) / 60:.0f} min" if left > 90 else f"{max(0, left):.0f} s"
    return row
