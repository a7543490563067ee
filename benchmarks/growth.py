"""How time and memory grow: a fold with its rows, a step with the texts' length, the batch and the layers.

    python -m benchmarks.growth [--data DATA] [--most 100000]

Rows: whole folds of the ``tiny`` encoder (one epoch, 64 tokens, float32, batches of 64), from 10² rows to ``most``,
texts repeated, so that what is not the encoder's own work shows. The rest: steps of MiniLM's shape with random weights,
in the precision that this machine would choose. Every point is a process of its own, whose highest memory counts.
DATA is what ``Config.data`` takes. Writes benchmarks/growth-cpu.json or -cuda.json.
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

from benchmarks import common
from utils import data, train
from utils.config import Config, InputError
from utils.fold import fit_fold

STEPS = {
    "length": [(length, 8, 6) for length in (32, 64, 128, 256, 512)],
    "batch": [(128, batch, 6) for batch in (2, 4, 8, 16, 32, 64)],
    "layers": [(128, 8, layers) for layers in (1, 2, 4, 8, 16)],
}


def fold(path: str) -> dict:
    """Seconds of a fold's parts, and GiB beyond what the imports take, of a table with the sample's columns."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = Config.make(
            "tiny", data=path, max_length=64, batch_size=64, eval_batch_size=256, epochs=1, precision="fp32",
            swa_start=0, fold_by="kfold", max_rows=0, output_dir=folder,
        )  # fmt: skip
        before, began = common.reset_peak(), time.perf_counter()
        table = data.add_folds(data.load_table(config), config)
        read = time.perf_counter()
        tokens = data.Texts.of(table, train.build_model(config)[1], config)
        tokenised = time.perf_counter()
        n_bytes = sum(values.nbytes for values in tokens.tokens.values())
        del tokens
        fit_fold(config, table)
        return {
            "reading, s": read - began, "tokenising, s": tokenised - read,
            "the fold, s": time.perf_counter() - tokenised,
            "table and tokens, GiB": (table.memory_usage(deep=True).sum() + n_bytes) / 2**30,
            "all memory, GiB": common.peak_memory() - before,
        }  # fmt: skip


def step(length: int, batch: int, layers: int) -> dict:
    """Median seconds of a whole step, and GiB beyond the training at rest."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        common.random_encoder(common.minilm_shape(num_hidden_layers=layers), Path(folder) / "encoder")
        config = Config.make(encoder=f"{folder}/encoder", max_length=length)
        training = train.prepare(config, data.add_folds(data.load_table(config), config), 0)
        # Gradients and the optimizer's state are there after the first step; beyond them are the activations.
        run = common.fixed_step(training, 1, 1)
        run()
        gc.collect()
        before = common.reset_peak()
        seconds = common.median_seconds(common.fixed_step(training, batch, length), repeats=7)
        return {"a step, s": seconds, "activations, GiB": common.peak_memory() - before}


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The p of cost = c sizeᵖ, fitted to the larger half of the sizes, where fixed costs matter least."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--most", type=common.positive, default=100_000)
    parser.add_argument("--one", help="one point, in this process: a table, or a length, batch and number of layers")
    asked = parser.parse_args()
    if asked.one:
        sizes = asked.one.split(",")
        print(json.dumps(step(*map(int, sizes)) if len(sizes) == 3 else fold(asked.one)))
        return
    rows = [n for n in (100, 300, 1000, 3000, 10_000, 30_000, 100_000) if n <= asked.most]
    if len(rows) < 4:
        raise InputError(f"--most {asked.most} leaves too few sizes to fit a curve to; give 3000 or more.")
    curves = {"rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        for n in rows:
            path = f"{folder}/{n}.csv"
            config = Config.make("tiny", data=asked.data, fold_by="kfold", max_rows=0)
            common.table_of(config, n).drop(columns="fold").to_csv(path, index=False)
            curves["rows"][n] = measured(path)
    for name, settings in STEPS.items():
        place = ("length", "batch", "layers").index(name)
        curves[name] = {setting[place]: measured(",".join(map(str, setting))) for setting in settings}
    common.write("growth", {"curves": curves})


def measured(point: str) -> dict:
    found = common.in_own_process("benchmarks.growth", "--one", point)
    if found is None:
        raise InputError(f"the point {Path(point).name} could not be measured; nothing is written.")
    print(Path(point).name, found, flush=True)
    return found


if __name__ == "__main__":
    common.told(main)
