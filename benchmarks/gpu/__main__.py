"""One part of the GPU check: python -m benchmarks.gpu PART. ``benchmarks/gpu_check.sh`` runs all of them."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import common
from benchmarks.gpu import compiled, correct, fast, others, summary, waits
from benchmarks.gpu.record import Options, Record
from utils.config import InputError
from utils.machine import runtime

PARTS: dict[str, Callable[[Record, Path], None]] = {
    "correct": correct.run,
    "fast": fast.run,
    "waits": waits.run,
    "compile": compiled.run,
    "apex": others.run_apex,
    "tests": others.run_tests,
}


def main() -> None:
    arguments = read_command_line()
    if arguments.part == "summary":
        print(summary.summary(arguments.out), flush=True)
        return
    if runtime.device().type != "cuda" and not arguments.dry_run:
        raise InputError("torch sees no CUDA GPU here; try the check without one: --dry-run.")
    if runtime.device().type == "cuda" and arguments.dry_run:
        raise InputError("a dry run is on the CPU; set CUDA_VISIBLE_DEVICES to nothing.")
    record = Record(arguments.part, Options(arguments.out, arguments.seconds, arguments.dry_run))
    with tempfile.TemporaryDirectory() as folder:
        PARTS[arguments.part](record, Path(folder))
    record.update(finished=True)
    if record.failed:
        sys.exit(1)


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "summary"])
    parser.add_argument("--out", type=Path, required=True, help="the folder of results")
    parser.add_argument("--seconds", type=float, default=120, help="begin nothing new after so many")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on the CPU")
    return parser.parse_args()


if __name__ == "__main__":
    common.run_main(main)
