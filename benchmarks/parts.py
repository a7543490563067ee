"""The parts of a step by themselves: attention, compiling, freed memory, and the optimizers.

    python -m benchmarks.parts [--batch 16] [--length 224] [--repeats 5] [--precision bf16]

Whole steps of ours (forward, backward, clipping, AdamW) on texts of one length, as trained and with one thing changed,
as shares of the matrix rate that was measured in the same turn; optimizers over MiniLM's weights, beside what their
traffic takes at the measured copy rate. Each is a process of its own, in turns; medians count. Writes
benchmarks/parts-PRECISION-cpu.json or -cuda.json.
"""

import argparse
import contextlib
import json
import sys

import madgrad
import torch

from benchmarks import common
from utils import data, runtime, train
from utils.config import Config
from utils.madgrad import MADGRAD
from utils.model import build_model

STEPS = {
    "as trained": {},
    "attention by plain products": {"attention": "eager"},
    "attention by torch's scaled_dot_product_attention": {"attention": "sdpa"},
    "compiled by torch.compile": {"compile": True},
}
if not torch.cuda.is_available():  # where a GPU trains, nothing is done about the system's memory
    STEPS["freed memory given back to the system"] = {"keep": False}
#: How to make each, and how many times the weights' size it reads and writes in a step.
OPTIMIZERS = {
    "MADGRAD of the package madgrad": (lambda weights: madgrad.MADGRAD(weights, lr=1e-4, weight_decay=0.01), 8),
    "MADGRAD, ours": (lambda weights: MADGRAD(weights, lr=1e-4, weight_decay=0.01), 8),
    "AdamW, torch's default": (lambda weights: torch.optim.AdamW(weights, lr=1e-4), 7),
    "AdamW, fused": (lambda weights: torch.optim.AdamW(weights, lr=1e-4, fused=True), 7),
}


def step(asked, attention: str = "", compile: bool = False, keep: bool = True) -> dict:
    """Median seconds of a whole step with one thing changed, and GiB at most."""
    if not keep:
        runtime.keep_freed_memory = lambda: None
    with contextlib.redirect_stdout(sys.stderr):
        config = Config.make(precision=asked.precision, max_length=asked.length)
        training = train.prepare(config, data.add_folds(data.load_table(config), config), 0)
    if attention:
        training.model.encoder.set_attn_implementation(attention)
    if compile:
        training.wrapped = torch.compile(training.wrapped)
    common.reset_peak()
    seconds = common.median_seconds(common.fixed_step(training, asked.batch, asked.length), repeats=7, warm_up=3)
    return {"seconds": seconds, "peak_gib": common.peak_memory()}


def optimizer(name: str) -> dict:
    """Median seconds of an optimizer's step over MiniLM's weights, and those that its traffic takes."""
    with contextlib.redirect_stdout(sys.stderr):
        weights = list(build_model(Config.make())[0].to(runtime.device()).parameters())
    runtime.keep_freed_memory()
    for weight in weights:
        weight.grad = torch.randn_like(weight) * 1e-3
    make, times = OPTIMIZERS[name]
    seconds = common.median_seconds(make(weights).step, repeats=11, warm_up=3)
    traffic = times * sum(weight.nbytes for weight in weights)
    return {"seconds": seconds, "traffic_seconds": traffic / common.copy_rate()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=common.positive, default=16)
    parser.add_argument("--length", type=common.positive, default=224)
    parser.add_argument("--repeats", type=common.positive, default=5)
    parser.add_argument("--precision", default=common.best_precision())
    parser.add_argument("--one", choices=[*STEPS, *OPTIMIZERS], help="one of them, in this process")
    asked = parser.parse_args()
    (asked.precision,) = common.precisions(asked.precision)
    if asked.one:
        print(json.dumps(step(asked, **STEPS[asked.one]) if asked.one in STEPS else optimizer(asked.one)))
        return
    runs: dict[str, list[dict]] = {name: [] for name in (*STEPS, *OPTIMIZERS)}
    words = ["--batch", asked.batch, "--length", asked.length, "--precision", asked.precision]
    rates = []
    for turn in range(asked.repeats):
        rates.append(common.matrix_rate(asked.precision))
        for name, found in runs.items():
            if (one := common.in_own_process("benchmarks.parts", "--one", name, *words)) is not None:
                found.append(one)
                print(f"turn {turn + 1}, {name}: {1000 * one['seconds']:.0f} ms", flush=True)
    flops = common.training_flops(common.minilm_shape(), [asked.length] * asked.batch)
    settings = {name: getattr(asked, name) for name in ("batch", "length", "precision", "repeats")}
    common.write(f"parts-{asked.precision}", {**settings, "flops": flops, "rates": rates, "runs": runs})


if __name__ == "__main__":
    common.told(main)
