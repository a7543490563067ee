"""What a part of the check has found so far, in a JSON file that is whole after every measurement."""

import contextlib
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import common
from utils.machine import runtime
from utils.machine.files import short_reason, write_json


@dataclass(frozen=True)
class Options:
    """How a part is run."""

    out: Path  # the folder of results
    seconds: float  # after which nothing new is begun
    dry_run: bool  # tiny shapes, on the CPU


class Check(NamedTuple):
    """What a check has found. It passes if what it measured is at most the bound."""

    what: str  # was measured, with its unit
    measured: float
    bound: float


class Skip(Exception):  # noqa: N818 - not an error
    """A check cannot run here; the message says why."""


class Record:
    """The results of one part, written to ``gpu-<part>-<device>.json`` after every change.

    Args:
        part: "correct", "fast", "waits", "compile", "apex" or "tests".
    """

    def __init__(self, part: str, options: Options):
        self.options, self.began = options, time.perf_counter()
        self.path = options.out / f"gpu-{part}-{device_slug()}.json"
        self.content = {
            "part": part,
            "dry_run": options.dry_run,
            "finished": False,
            **common.metadata("gpu"),
            "seconds": 0.0,
        }
        self.update()

    def update(self, **values) -> None:
        """Add ``values`` to the file."""
        self.content |= values
        self.content["seconds"] = round(time.perf_counter() - self.began, 2)
        write_json(self.path, self.content)

    def seconds_left(self) -> float:
        """Until nothing new is begun."""
        return self.options.seconds - (time.perf_counter() - self.began)

    def check(self, name: str, function: Callable[[], list[Check]]) -> None:
        """Add what ``function`` finds. A check that fails or raises does not stop the next one."""
        began = time.perf_counter()
        entry: dict = {"name": name, "passed": None, "why": "", "found": []}
        try:
            if self.seconds_left() < 0:
                raise Skip("the part's time was over")
            with contextlib.redirect_stdout(sys.stderr):  # what a training says is for the log
                checks = function()
            entry["found"] = [check._asdict() for check in checks]
            entry["passed"] = all(check.measured <= check.bound for check in checks)  # NaN is not
        except Skip as reason:
            entry["why"] = str(reason)
        except Exception as error:
            entry |= {"passed": False, "why": f"{type(error).__name__}: {short_reason(error)}"}
        entry["seconds"] = round(time.perf_counter() - began, 2)
        self.update(checks=[*self.content.get("checks", []), entry])
        print(outcome(entry), flush=True)

    @property
    def failed(self) -> list[str]:
        """The names of the checks that did not pass."""
        return [entry["name"] for entry in self.content.get("checks", []) if entry["passed"] is False]


def device_slug() -> str:
    """The device's name as a part of a file's name, such as "nvidia-h100-80gb-hbm3"; "cpu"."""
    name = "cpu" if runtime.device().type == "cpu" else runtime.device_name()
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def outcome(entry: dict) -> str:
    """A check's result in a line."""
    word = {True: "passed", False: "FAILED", None: "skipped"}[entry["passed"]]
    details = [*map(finding, entry["found"]), *filter(None, [entry["why"]])]
    return f"{word}: {entry['name']}: {'; '.join(details)}"


def finding(check: dict) -> str:
    """A Check as it stands in the file, in words; JSON has no NaN, but null."""
    measured = "no number" if check["measured"] is None else f"{check['measured']:.2g}"
    return f"{check['what']} {measured} (at most {check['bound']:g})"
