"""Training speed side by side: the published loop, the HF Trainer, Lightning with its SWA callback, and ours.

    python -m benchmarks.throughput [--data DATA] [--encoder minilm,base,large] [--batch 16] [--length 256]
        [--precision bf16] [--steps 24] [--repeats 5]

Each contestant (benchmarks/contestants.py) trains the same encoder on the same texts in a process of its own,
so that no contestant's settings affect another, in turns; medians count. Three steps warm up, then ``steps``
are timed; tokens are counted without padding. Comma-separated values are combined: every encoder with every
batch size, and so on. "base" and "large" are RoBERTa's shapes with random weights. DATA is a value for
``Config.data``. Lightning must be installed: pip install lightning.

Writes benchmarks/throughput-cpu.json or -cuda.json; ``python -m benchmarks.results`` makes tables and plots
of it.
"""

import argparse
import collections
import contextlib
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from benchmarks import common, contestants, measure
from benchmarks.contestants import NAMES, WARM_UP, Clock, Setting
from utils.data.tokens import evaluation_batches, tokenize
from utils.machine.encoders import encoder_source
from utils.runs.fold import describe
from utils.runs.progress import Progress
from utils.runs.resume import save_state
from utils.tasks import texts
from utils.training import loop
from utils.training.predict import predict_batches
from utils.training.setup import Training, prepare


def one(name: str, setting: Setting, steps: int) -> dict:
    """Measure one contestant in this process."""
    measure.reset_peak()
    before, began = time.time() - float(os.environ.get("BEGAN", time.time())), time.perf_counter()
    clock = Clock(WARM_UP + steps)
    with contextlib.redirect_stdout(sys.stderr):
        getattr(contestants, name)(setting, clock)
    to_first_step = before + clock.ends[0] - began
    return {**clock.result(), "to_first_step": to_first_step, "peak_gib": measure.peak_memory()}


# --- where our time goes -----------------------------------------------------------------------------------


def phases(setting: Setting, steps: int) -> dict[str, float]:
    """Median seconds of each part of our training; "tokenise" is per text, and evaluation is in tokens/s.

    Each part waits for the GPU, if there is one, before and after.
    """
    calls: dict[str, list[float]] = collections.defaultdict(list)
    texts.tokenize = measure.timed(texts.tokenize, calls["tokenise"])
    table = setting.table(WARM_UP + steps)
    with contextlib.redirect_stdout(sys.stderr):
        training = prepare(setting.config(), table, 0)
    time_steps(training, WARM_UP + steps, calls)
    rate = evaluation_rate(training)
    time_saving(training, calls)
    medians = {name: statistics.median(seconds) for name, seconds in calls.items()}
    medians["tokenise"] = sum(calls["tokenise"]) / len(table)
    medians["forward"] -= medians["backward"]
    return medians | {"evaluation, tokens/s": rate}


def time_steps(training: Training, steps: int, calls: dict[str, list[float]]) -> None:
    """Append the seconds of each step's parts and of averaging to ``calls``; "forward" includes backward."""
    parts = {
        "backward": (training.backend, "backward"),
        "clip": (training.backend, "clip"),
        "optimizer": (training.optimizer, "step"),
        "averaging": (training.averager, "update"),
        "forward": (loop, "retry_in_smaller_parts"),
    }
    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, measure.timed(getattr(owner, attribute), calls[name]))
    for step in loop.train_epoch(training, 0):
        if step == steps:
            break
    for _ in range(4):
        training.averager.update(training.model, training.backend.weights())
    calls["averaging"].pop(0)  # the first one only copies


def time_saving(training: Training, calls: dict[str, list[float]]) -> None:
    """Append to ``calls`` the seconds of saving the training's state, three times."""
    save = measure.timed(save_state, calls["saving a state"])
    metadata = describe(training, training.held_out.ids, "")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            save(training, Path(folder), metadata, Progress())


def evaluation_rate(training: Training) -> float:
    """Tokens per second of predicting about four batches of held-out texts of different lengths."""
    examples, size = training.held_out, training.config.eval_batch_size
    lengths = examples.lengths
    batches = evaluation_batches(lengths, size)[:: max(1, len(examples) // size // 4)]
    batches = [batch for batch in batches if len(batch) == len(batches[0])]
    arguments = (training.wrapped, examples, batches, training.tokenizer, training.backend.device)
    with training.backend.autocast():
        seconds = measure.median_seconds(lambda: predict_batches(*arguments), repeats=3, warm_up=1)
    return sum(lengths[number] for batch in batches for number in batch) / seconds


# --- the comparison ----------------------------------------------------------------------------------------


def compare(setting: Setting, steps: int, repeats: int) -> dict:
    """All contestants in turns, and the limits, measured in each turn; a contestant that fails has None."""
    names = ("data", "encoder", "batch", "length", "precision")
    options = [word for name in names for word in (f"--{name}", getattr(setting, name))]
    options += ["--steps", steps]
    turns = []
    for turn in range(repeats):
        limits = {name: measure.matrix_rate(name) for name in ("fp32", setting.precision)}
        runs = {}
        for name in NAMES:
            runs[name] = common.run_module("benchmarks.throughput", "--one", name, *options)
            if runs[name] is not None:
                speed = runs[name]["tokens_per_second"]
                print(f"turn {turn + 1}, {NAMES[name]}: {speed:.0f} tokens/s", flush=True)
        turns.append({"limits": limits, "runs": runs})
    return {
        **describe_setting(setting, steps),
        "turns": turns,
        "phases": common.run_module("benchmarks.throughput", "--one", "phases", *options),
    }


def describe_setting(setting: Setting, steps: int) -> dict:
    """The setting, the mean length of its texts and the operations that a token costs."""
    config, table = setting.config(), setting.table(WARM_UP + steps)
    tokenizer = AutoTokenizer.from_pretrained(encoder_source(config.encoder))
    lengths = tokenize(table[config.text_column].tolist(), tokenizer, setting.length)[1]
    flops = measure.training_flops(common.encoder_shape(config), lengths)
    return {
        **vars(setting),
        "data": Path(setting.data).name,
        "mean_length": float(np.mean(lengths)),
        "steps": steps,
        "flops_per_token": flops / sum(lengths),
    }


def main() -> None:
    arguments = read_command_line()
    precisions = common.parse_precisions(arguments.precision)
    choices = arguments.encoder.split(","), arguments.batch, arguments.length, precisions
    settings = [Setting(arguments.data, *values) for values in itertools.product(*choices)]
    if arguments.one:
        call = phases if arguments.one == "phases" else functools.partial(one, arguments.one)
        print(json.dumps(call(settings[0], arguments.steps)))
        return
    for setting in settings:  # bad input is reported now rather than after hours
        common.encoder_shape(setting.config())
        setting.table(WARM_UP + arguments.steps)
    results = []
    for setting in settings:
        print(setting, flush=True)
        results.append(compare(setting, arguments.steps, arguments.repeats))
        common.write_result("throughput", {"settings": results})


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", default="sample")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--batch", type=common.positives, default=[16])
    parser.add_argument("--length", type=common.positives, default=[256])
    parser.add_argument("--precision", default=common.best_precision())
    parser.add_argument("--steps", type=common.positive, default=24)
    parser.add_argument("--repeats", type=common.positive, default=5)
    parser.add_argument("--one", choices=[*NAMES, "phases"], help="one contestant, once, in this process")
    return parser.parse_args()


if __name__ == "__main__":
    common.run_main(main)
