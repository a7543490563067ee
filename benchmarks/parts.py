"""The parts of a step, one at a time: attention, compilation, freed memory, and the optimizers.

    python -m benchmarks.parts [--batch 16] [--length 224] [--repeats 5] [--precision bf16]

Whole steps of ours (forward, backward, clipping, AdamW) on texts of one length, as trained and with one thing
changed, as shares of the matrix rate measured in the same turn. Optimizers over MiniLM's weights, next to the
time that their memory traffic takes at the measured copy rate. Each runs in a process of its own, in turns;
medians count. Writes benchmarks/parts-PRECISION-cpu.json or -cuda.json.
"""

import argparse
import contextlib
import json
import sys

import madgrad
import torch

from benchmarks import common, measure
from utils.config import Config
from utils.machine import runtime
from utils.tasks import add_folds, load_table
from utils.training.build import build_model
from utils.training.madgrad import MADGRAD
from utils.training.setup import prepare

STEPS = {
    "as trained": {},
    "attention by plain products": {"attention": "eager"},
    "attention by torch's scaled_dot_product_attention": {"attention": "sdpa"},
    "compiled by torch.compile": {"compile": True},
}
if not torch.cuda.is_available():  # training on a GPU leaves the system's memory alone
    STEPS["freed memory given back to the system"] = {"keep_freed_memory": False}
#: How to make each, and how many times the weights' size it reads and writes in a step.
OPTIMIZERS = {
    "MADGRAD of the package madgrad": (
        lambda weights: madgrad.MADGRAD(weights, lr=1e-4, weight_decay=0.01),
        8,
    ),
    "MADGRAD, ours": (lambda weights: MADGRAD(weights, lr=1e-4, weight_decay=0.01), 8),
    "AdamW, torch's default": (lambda weights: torch.optim.AdamW(weights, lr=1e-4), 7),
    "AdamW, fused": (lambda weights: torch.optim.AdamW(weights, lr=1e-4, fused=True), 7),
}


def step(arguments, attention: str = "", compile: bool = False, keep_freed_memory: bool = True) -> dict:
    """Median seconds of a whole step with one thing changed, and its peak memory in GiB."""
    if not keep_freed_memory:
        runtime.keep_freed_memory = lambda: None
    with contextlib.redirect_stdout(sys.stderr):
        config = Config.make(precision=arguments.precision, max_length=arguments.length)
        training = prepare(config, add_folds(load_table(config), config), 0)
    if attention:
        training.model.encoder.set_attn_implementation(attention)
    if compile:
        training.wrapped = torch.compile(training.wrapped)
    run_step = common.fixed_step(training, arguments.batch, arguments.length)
    measure.reset_peak()
    seconds = measure.median_seconds(run_step, repeats=7, warm_up=3)
    return {"seconds": seconds, "peak_gib": measure.peak_memory()}


def optimizer(name: str) -> dict:
    """Median seconds of an optimizer's step over MiniLM's weights, and of its memory traffic."""
    with contextlib.redirect_stdout(sys.stderr):
        weights = list(build_model(Config.make())[0].to(runtime.device()).parameters())
    runtime.keep_freed_memory()
    for weight in weights:
        weight.grad = torch.randn_like(weight) * 1e-3
    make, times = OPTIMIZERS[name]
    seconds = measure.median_seconds(make(weights).step, repeats=11, warm_up=3)
    traffic = times * sum(weight.nbytes for weight in weights)
    return {"seconds": seconds, "traffic_seconds": traffic / measure.copy_rate()}


def main() -> None:
    arguments = read_command_line()
    if name := arguments.one:
        print(json.dumps(step(arguments, **STEPS[name]) if name in STEPS else optimizer(name)))
        return
    settings = {name: getattr(arguments, name) for name in ("batch", "length", "precision", "repeats")}
    options = [word for name in ("batch", "length", "precision") for word in (f"--{name}", settings[name])]
    runs: dict[str, list[dict]] = {name: [] for name in (*STEPS, *OPTIMIZERS)}
    rates = []
    for turn in range(arguments.repeats):
        rates.append(measure.matrix_rate(arguments.precision))
        for name, results in runs.items():
            result = common.run_module("benchmarks.parts", "--one", name, *options)
            if result is not None:
                results.append(result)
                print(f"turn {turn + 1}, {name}: {1000 * result['seconds']:.0f} ms", flush=True)
    flops = measure.training_flops(common.minilm_shape(), [arguments.length] * arguments.batch)
    measurements = {**settings, "flops": flops, "rates": rates, "runs": runs}
    common.write_result(f"parts-{arguments.precision}", measurements)


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=common.positive, default=16)
    parser.add_argument("--length", type=common.positive, default=224)
    parser.add_argument("--repeats", type=common.positive, default=5)
    parser.add_argument("--precision", default=common.best_precision())
    parser.add_argument("--one", choices=[*STEPS, *OPTIMIZERS], help="one of them, in this process")
    arguments = parser.parse_args()
    (arguments.precision,) = common.parse_precisions(arguments.precision)
    return arguments


if __name__ == "__main__":
    common.run_main(main)
