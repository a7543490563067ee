"""The command line: ``python -m utils train | predict | encoder | export | publish | lit | ...``.

Each command imports what it needs when it runs, so that ``environment`` works even if torch is missing.
"""

import argparse
import contextlib
import os
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from utils.config import Config, InputError

EXAMPLES = """\
examples:
  python -m utils train -p preset demo -p fold 3
  accelerate launch --num_processes 2 -m utils train -p preset commonlit
  python -m utils predict output/demo/fold-0/averaged texts.csv --output scores.csv
  python -m utils lit -p preset demo --port 5432

python -m utils COMMAND --help explains one command. python -m batch --help explains how to train
many folds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. After an InputError, print its sentence on stderr and exit with status 1."""
    options = make_parser().parse_args(arguments)
    try:
        sys.exit(options.command(options))
    except InputError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except BrokenPipeError:  # whoever read the output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """The parser; ``options.command`` is the function to call with the options."""
    parser = argparse.ArgumentParser(
        prog="python -m utils",
        description="Train text models, predict with them, and look into them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(command: Callable, summary: str) -> Callable:
        text = f"{summary[0].upper()}{summary[1:]}."
        subparser = commands.add_parser(command.__name__, help=summary, description=text)
        subparser.set_defaults(command=command)
        return subparser.add_argument

    add_settings(add(train, "train a fold, or resume it from its last saved state"))
    add_predict_options(add(predict, "predict texts with trained weights and write a CSV"))
    option = add(encoder, "save the encoder of trained weights alone, as a model of Hugging Face's")
    option("folder", type=Path, metavar="FOLDER", help="trained weights, such as output/demo/fold-0/averaged")
    option("new", type=Path, metavar="NEW", help="the folder to write")
    add_export_options(add(export, "write trained weights as ONNX, with what predicts with them elsewhere"))
    add_publish_options(add(publish, "push a folder, with a card about it, to the Hugging Face hub"))
    add_lit_options(add(lit, "serve the folds of a trained run in LIT until Ctrl-C is pressed"))
    add(environment, "check what works on this machine and say how to fix the rest")
    option = add(report, "print the scores of a fold and where its results are")
    option("notebook", type=Path, metavar="NOTEBOOK", help="the executed notebook 02")
    option("folder", type=Path, metavar="FOLDER", help="the folder of the fold, such as output/demo/fold-0")
    return parser


def add_settings(option: Callable) -> None:
    names = ("NAME", "VALUE")
    text = "set a field of Config, such as -p preset demo; repeatable"
    option("-p", nargs=2, action="append", default=[], dest="settings", metavar=names, help=text)


def add_predict_options(option: Callable) -> None:
    text = "trained weights, such as output/demo/fold-0/averaged; of several, their ensemble"
    option("folders", type=Path, nargs="+", metavar="FOLDER", help=text)
    text = "a CSV, .xlsx or JSON file with one text per row; - reads standard input"
    option("texts", type=Path, metavar="TEXTS", help=text)
    option("--output", type=Path, metavar="CSV", help="the file to write; default: standard output")
    text = "the column with the texts; default: the training data's name for it"
    option("--text-column", metavar="NAME", help=text)


def add_export_options(option: Callable) -> None:
    option("folder", type=Path, metavar="FOLDER", help="trained weights, such as output/demo/fold-0/averaged")
    option("--format", choices=["onnx"], default="onnx", help="the form; onnx is the only one")
    option("--int8", action="store_true", help="round weights to eight bits: smaller and faster, less exact")
    text = "the folder to write; default: beside FOLDER, with -onnx or -onnx-int8 in its name"
    option("--output", type=Path, metavar="FOLDER", help=text)


def add_publish_options(option: Callable) -> None:
    option("folder", type=Path, metavar="FOLDER", help="trained weights, or an exported folder")
    option("--to", required=True, metavar="OWNER/NAME", help="the model on the hub; it is made private")
    text = "push nothing; write what would go to FOLDER with -hub in its name"
    option("--dry-run", action="store_true", help=text)


def add_lit_options(option: Callable) -> None:
    add_settings(option)
    option(
        "--weights", default="averaged", help="last, best or averaged (default), or several: last,averaged"
    )
    option("--texts", type=int, default=60, metavar="N", help="held-out texts per fold; 0: all; default: 60")
    option("--target", default="", metavar="NAME", help="the target or label to explain; default: the first")
    option(
        "--test", default="", metavar="FILE", help="texts without a truth, such as test.csv, to open as well"
    )
    option("--port", type=int, default=5432, help="the port to listen on; 0: a free one; default: 5432")
    option("--host", default="127.0.0.1", help="0.0.0.0 serves other machines, too; default: 127.0.0.1")
    text = "further host names that requests may use, with commas between them"
    option("--allow", default="", metavar="HOSTS", help=text)


# --- the commands -------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    from utils.machine import distributed
    from utils.runs.fold import fit_fold
    from utils.tasks import add_folds, load_table

    try:
        config = Config.make(**dict(options.settings))
        table = distributed.run_on_main(lambda: load_table(config))  # a download happens only once
        fit_fold(config, add_folds(table, config))
    except InputError:
        if not distributed.processes().is_main_process:
            sys.exit(1)  # only the main process prints the error
        raise


def predict(options: argparse.Namespace) -> None:
    from utils.machine.files import short_reason
    from utils.release.predict import as_file, predict_file

    column, where = options.text_column or "", "standard input" if str(options.texts) == "-" else ""
    with as_file(options.texts) as path:
        try:
            with open_output(options.output) as file, contextlib.redirect_stdout(sys.stderr):
                for number, piece in enumerate(predict_file(options.folders, path, column, where)):
                    file.write(piece.to_csv(index=False, header=number == 0))
                    file.flush()
        except BrokenPipeError:
            raise
        except (OSError, UnicodeEncodeError) as error:
            raise InputError(
                f"{options.output or 'standard output'} cannot be written ({short_reason(error)}); name a "
                "file: --output."
            ) from None


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """A file that appears when all of it is written, or standard output, which holds nothing else then."""
    from utils.machine.files import atomic_file

    if path is None:
        yield sys.stdout
        return
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def export(options: argparse.Namespace) -> None:
    from utils.machine.runtime import display_path
    from utils.release.onnx import export, read_facts

    target = export(options.folder, options.output, options.int8)
    facts = read_facts(target)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(
        f"{display_path(target)}: opset {facts['opset']['ai.onnx']}, outputs within "
        f"{facts['difference']:.1g} of torch's, in units of their scale ({versions})."
    )


def publish(options: argparse.Namespace) -> None:
    from utils.release.publish import publish

    print(publish(options.folder, options.to, options.dry_run))


def encoder(options: argparse.Namespace) -> None:
    from utils.machine.runtime import display_path
    from utils.runs.artifacts import save_encoder

    save_encoder(options.folder, options.new)
    print(f"The encoder is in {display_path(options.new)}; train from it with -p encoder {options.new}.")


def lit(options: argparse.Namespace) -> None:
    from utils.lit import run as lit
    from utils.runs.run import open_run

    try:
        config = Config.make(**dict(options.settings))
        chosen = {
            name: getattr(options, name)
            for name in ("weights", "texts", "port", "host", "allow", "target", "test")
        }
        server = lit.start(open_run(config), **chosen)
        print(f"LIT is at {server.page} (Ctrl-C stops it)", flush=True)
        if sys.stdout.isatty():
            webbrowser.open(server.page)
        while server.running:
            time.sleep(0.2)
    except KeyboardInterrupt:
        print("\nStopping.")
    lit.stop()


def environment(options: argparse.Namespace) -> int:
    from utils.reporting.environment import main

    return main()


def report(options: argparse.Namespace) -> None:
    from utils.reporting.fold import print_summary

    print_summary(options.notebook, options.folder)


if __name__ == "__main__":
    main()
