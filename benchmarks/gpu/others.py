"""The parts "apex", where a real one is installed, and "tests": the suite's own tests on this device."""

import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

from benchmarks.gpu import folds
from benchmarks.gpu.correct import BOUNDS, difference
from benchmarks.gpu.record import Check, Record
from benchmarks.gpu.workers import CPU, Worker
from utils.machine import apex_amp, runtime

#: Tests that train on whatever device there is, and that need neither a browser nor a notebook.
TESTS = ("tests/modeling", "tests/training", "tests/explain")
DRY_TESTS = ("tests/modeling/test_losses.py",)


def apex_reason() -> str:
    """Why the Apex part cannot run here; empty if it can."""
    if runtime.device().type != "cuda":
        return "Apex needs a CUDA GPU"
    return str(apex_amp.apex_problem() or "")


def run_apex(record: Record, folder: Path) -> None:
    """The part "apex": its own proof, then a fold in O1 and in O2, each in a process of its own."""
    if reason := apex_reason():
        record.update(why=reason)
        return
    record.update(why="", build=apex_amp.apex_build())
    record.check("O1 multiplies in float16, and an overflow lowers the loss scale", partial(prove, record))
    with Worker(folds.__name__, **CPU) as cpu:
        chosen = folds.settings("tiny", dry_run=False)
        reference = cpu.call(folds.train, folder, run="cpu", **chosen, precision="fp32")
    for level in ("apex-O1", "apex-O2"):
        name = f"tiny trained in {level} predicts as on the CPU"
        record.check(name, partial(trains, folder, level, chosen, reference))


def prove(record: Record) -> list[Check]:
    """``setup.sh``'s own proof, which raises where Apex breaks a promise."""
    with Worker(apex_amp.__name__) as worker:
        record.update(proof=worker.call(apex_amp.prove_apex))
    return []


def trains(folder: Path, level: str, chosen: dict, reference: Path) -> list[Check]:
    with Worker(folds.__name__) as worker:
        trained = worker.call(folds.train, folder, run=level, **chosen, precision=level)
    return [Check("difference of predictions", difference(trained, reference), BOUNDS["fp16"])]


def run_tests(record: Record, folder: Path) -> None:
    """The part "tests": how many passed, and the names of those that did not."""
    if missing := [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]:
        record.update(why=f"{missing[0]} is not installed")
        return
    report, tests = folder / "tests.xml", DRY_TESTS if record.options.dry_run else TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "4"]
    try:
        subprocess.run(
            command, cwd=runtime.ROOT, check=False, timeout=record.seconds_left(), stdout=sys.stderr
        )
    except subprocess.TimeoutExpired:
        record.update(why=f"they took longer than {record.options.seconds:.0f} s", tests=list(tests))
        return
    record.update(why="", tests=list(tests), **read_report(report))


def read_report(path: Path) -> dict:
    """The numbers of a JUnit report, and which tests failed."""
    (suite,) = ElementTree.parse(path).getroot().iter("testsuite")
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {"passed": passed, "skipped": counts["skipped"], "failed": failed}
