"""When a training stops before its plan ends, and when it saves its state."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from utils.errors import StoppedError
from utils.machine import distributed
from utils.runs.guards import check_finite_losses, run_again, state_bytes
from utils.runs.progress import Progress
from utils.runs.resume import save_state
from utils.training.setup import Training

#: Of the time, that saving after evaluations takes at most.
SHARE = 0.02


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that collects SIGTERM, SIGHUP and SIGINT (an interrupted cell), to be read between steps.

    A second signal stops at once, except in one of several processes: a launcher passes on what the
    terminal has already sent.
    """
    caught: list[int] = []

    def note(number, frame):
        if caught and distributed.processes().num_processes == 1:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return
    before = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopper:
    """Decides after each step whether to stop; all processes of a fold decide alike.

    Args:
        signals: a list that ``stop_signals`` fills.
    """

    def __init__(self, training: Training, progress: Progress, signals: list[int]):
        self.training, self.progress, self.signals = training, progress, signals
        self.seconds_before = progress.seconds  # in earlier sessions
        self.signal = 0
        self.reason = ""  # "patience" or "time limit"

    def look(self, evaluated: bool) -> bool:
        """Whether to stop, for ``signal`` or ``reason``.

        ``evaluated``: this step was followed by an evaluation.
        """
        config, seconds = self.training.config, self.progress.seconds - self.seconds_before
        limit = config.time_limit_hours * 3600
        self.signal, timed_out = distributed.all_reduce_max(
            max(self.signals, default=0), bool(limit and seconds > limit)
        )
        if evaluated and self.progress.out_of_patience(config, self.training.task.metric):
            self.reason = "patience"
        elif timed_out:
            self.reason = "time limit"
        return bool(self.signal or self.reason)

    def raise_if_signalled(self) -> None:
        """Raise StoppedError if a signal asked for the stop."""
        if self.signal:
            name = signal.Signals(self.signal).name
            raise StoppedError(
                f"stopped by {name} after step {self.training.step}; the state is saved, "
                f"{run_again(self.training.config)} to go on."
            )


class Saver:
    """Saves the state before stopping, and as ``save_every`` and ``save_minutes`` say.

    Also after an evaluation, unless the last state is so recent that saving would take more than ``SHARE`` of
    the time: where a state is saved in a second, a kill then costs less than a minute's work.
    """

    def __init__(self, training: Training, progress: Progress, folder: Path, metadata: dict):
        self.training, self.progress, self.folder, self.metadata = training, progress, folder, metadata
        self.cost = state_bytes(training) / 2**29  # seconds; half a GiB in a second, until one was saved

    def look(self, evaluated: bool, must: bool) -> None:
        """Save if it is time to, or if it ``must``. Raises InputError rather than save a diverged state.

        ``evaluated``: this step was followed by an evaluation.
        """
        if must or self._is_due(evaluated):
            check_finite_losses(self.training)
            began = time.perf_counter()
            save_state(self.training, self.folder, self.metadata, self.progress)
            self.cost = time.perf_counter() - began

    def _is_due(self, evaluated: bool) -> bool:
        config, passed = self.training.config, self.progress.seconds - self.progress.saved
        if config.save_every and self.training.step % config.save_every == 0:
            return True
        if not (evaluated or config.save_minutes):
            return False
        late = 0 < config.save_minutes * 60 < passed
        due = late or (evaluated and passed * SHARE >= self.cost)
        return bool(distributed.all_reduce_max(int(due))[0])
