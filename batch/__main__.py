"""The command line: ``python -m batch --help``."""

import argparse
import sys

from batch.parameters import make_parser, parse_arguments, read_yaml
from batch.run import run_batch
from utils.config import InputError

DESCRIPTION = """\
Train many folds, each by executing notebook 02 with papermill, then execute notebooks 03 and 06
on them. Several values of a setting, such as 1,2,5-7 or a,b, make a grid, in which every combination
is a run. Without fold, all folds of a run are trained.

A fold that fails is retried from its last saved state. Ctrl-C lets the folds save their states. The
same command resumes an interrupted batch, and never trains a finished fold again."""
EXAMPLES = """\
examples:
  python -m batch -p preset demo                                   every fold of the demo
  python -m batch -p preset commonlit -p fold 0-2 -p seed 1,2,3    a grid: nine folds in three runs
  python -m batch --params grid.yaml --lr 2e-5 --dry-run           what would run

The exit code is 0 if everything finished, 1 if anything failed, 130 if it was stopped."""


def main() -> None:
    try:
        sys.exit(run_batch(read_command_line()))
    except InputError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:  # before anything has started
        sys.exit(130)


def read_command_line() -> argparse.Namespace:
    """The options; ``parameters`` maps the names of settings to their values, of which lists make a grid."""
    parser = make_parser("python -m batch", "[options]", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("--params", metavar="FILE", help="settings in a YAML file; the command line takes precedence")
    add("--jobs", type=int, default=0, metavar="N", help="folds at once; 0, the default: as many as fit")
    add("--retries", type=int, default=2, metavar="N", help="further tries of a fold that fails (default: 2)")
    add("--engine", choices=("local", "ray"), default="local", help="this machine (default) or a Ray cluster")
    add("--address", default="auto", help="the Ray cluster's (default: of the one this machine belongs to)")
    add(
        "--mirror",
        default="",
        metavar="URL",
        help="keep a copy of the runs at s3://..., gs://... or the like",
    )
    add("--no-evaluation", action="store_true", help="do not execute notebooks 03 and 06")
    add("--dry-run", action="store_true", help="print the commands that would run")
    options, parameters = parse_arguments(parser)
    options.parameters = (read_yaml(options.params) if options.params else {}) | parameters
    options.mirror = options.mirror.rstrip("/")
    if options.jobs < 0 or options.retries < 0:
        raise InputError("--jobs and --retries cannot be negative; 0 means as many as fit, and a single try.")
    return options


if __name__ == "__main__":
    main()
