"""How time and memory grow: of a fold with its rows; of a step with text length, batch size and layers.

    python -m benchmarks.growth [--data DATA] [--most 100000]

Rows: whole folds with the ``tiny`` encoder (one epoch, 64 tokens, float32, batches of 64), from 100 rows to
``most``, texts repeated; the encoder is so small that everything else shows. The rest: steps of a model of
MiniLM's shape with random weights, in the precision that "auto" chooses on this machine. Every point runs in
a process of its own, whose peak memory counts. DATA is a value for ``Config.data``. Writes
benchmarks/growth-cpu.json or -cuda.json.
"""

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import common, measure
from utils.config import Config, InputError
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table, make_task
from utils.training.build import build_model
from utils.training.setup import prepare

#: (length, batch size, layers) of each point, by what varies.
STEPS = {
    "length": [(length, 8, 6) for length in (32, 64, 128, 256, 512)],
    "batch": [(128, batch_size, 6) for batch_size in (2, 4, 8, 16, 32, 64)],
    "layers": [(128, 8, layers) for layers in (1, 2, 4, 8, 16)],
}


def fold(path: str) -> dict:
    """Seconds of a fold's parts, and GiB beyond what imports take, of a table with the sample's columns."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = Config.make(
            "tiny",
            data=path,
            max_length=64,
            batch_size=64,
            eval_batch_size=256,
            epochs=1,
            precision="fp32",
            swa_start=0,
            fold_by="kfold",
            exact_copies="split",
            max_rows=0,
            output_dir=folder,
        )
        before, began = measure.reset_peak(), time.perf_counter()
        table = add_folds(load_table(config), config)
        read = time.perf_counter()
        examples = make_task(config, table).encode(table, build_model(config)[1])
        tokenised = time.perf_counter()
        n_bytes = sum(values.nbytes for values in examples.tokens.values())
        del examples
        fit_fold(config, table)
        return {
            "reading, s": read - began,
            "tokenising, s": tokenised - read,
            "the fold, s": time.perf_counter() - tokenised,
            "table and tokens, GiB": (table.memory_usage(deep=True).sum() + n_bytes) / 2**30,
            "all memory, GiB": measure.peak_memory() - before,
        }


def step(length: int, batch_size: int, layers: int) -> dict:
    """Median seconds of a whole step, and GiB beyond what the training takes between steps."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        common.save_random_encoder(common.minilm_shape(num_hidden_layers=layers), Path(folder) / "encoder")
        config = Config.make(encoder=f"{folder}/encoder", max_length=length)
        training = prepare(config, add_folds(load_table(config), config), 0)
        # The first step allocates gradients and the optimizer's state; what comes on top are activations.
        small_step = common.fixed_step(training, 1, 1)
        small_step()
        gc.collect()
        before = measure.reset_peak()
        seconds = measure.median_seconds(common.fixed_step(training, batch_size, length), repeats=7)
        return {"a step, s": seconds, "activations, GiB": measure.peak_memory() - before}


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The p of cost = c sizeᵖ, fitted to the larger half of the sizes, where fixed costs matter least."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def main() -> None:
    arguments = read_command_line()
    if arguments.one:
        sizes = arguments.one.split(",")
        print(json.dumps(step(*map(int, sizes)) if len(sizes) == 3 else fold(arguments.one)))
        return
    numbers = [n for n in (100, 300, 1000, 3000, 10_000, 30_000, 100_000) if n <= arguments.most]
    if len(numbers) < 4:
        raise InputError(
            f"--most {arguments.most} leaves too few sizes to fit a curve to; give 3000 or more."
        )
    curves = {"rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        for n in numbers:
            path = f"{folder}/{n}.csv"
            config = Config.make("tiny", data=arguments.data, fold_by="kfold", max_rows=0)
            common.make_table(config, n).drop(columns="fold").to_csv(path, index=False)
            curves["rows"][n] = measure_point(path)
    for index, (name, points) in enumerate(STEPS.items()):
        curves[name] = {point[index]: measure_point(",".join(map(str, point))) for point in points}
    common.write_result("growth", {"curves": curves})


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--most", type=common.positive, default=100_000)
    parser.add_argument(
        "--one", help="one point, in this process: a table, or a length, batch size and layers"
    )
    return parser.parse_args()


def measure_point(point: str) -> dict:
    """Measure a point in a process of its own. Raises InputError if it fails."""
    costs = common.run_module("benchmarks.growth", "--one", point)
    if costs is None:
        raise InputError(f"the point {Path(point).name} could not be measured; nothing is written.")
    print(Path(point).name, costs, flush=True)
    return costs


if __name__ == "__main__":
    common.run_main(main)
