"""Training speed side by side: the published loop, Hugging Face's Trainer, Lightning with its SWA callback, and ours.

    python -m benchmarks.throughput [--data DATA] [--encoder minilm,base,large] [--batch 16] [--length 256]
        [--precision bf16] [--steps 24] [--repeats 5]

Each contestant (benchmarks/contestants.py) trains the same encoder on the same texts in a process of its own, so that
no one's settings help another, in turns; medians count. Three steps warm up, ``steps`` are timed, and tokens are
counted without padding. Options with commas are combined: every encoder with every batch and so on. "base" and "large"
are RoBERTa's shapes with random weights. DATA is what ``Config.data`` takes. Lightning: pip install lightning.

Writes benchmarks/throughput-cpu.json or -cuda.json; ``python -m benchmarks.results`` makes tables and plots of it.
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

from benchmarks import common, contestants
from benchmarks.contestants import NAMES, WARM_UP, Clock, Setting
from utils import data, resume, train
from utils.fold import describe
from utils.model import encoder_source


def one(name: str, setting: Setting, steps: int) -> dict:
    """One contestant, in this process."""
    before, began = time.time() - float(os.environ.get("BEGAN", time.time())), time.perf_counter()
    clock = Clock(WARM_UP + steps)
    with contextlib.redirect_stdout(sys.stderr):
        getattr(contestants, name)(setting, clock)
    return {**clock.result(), "to_first_step": before + clock.ends[0] - began, "peak_gib": common.peak_memory()}


def phases(setting: Setting, steps: int) -> dict[str, float]:
    """Median seconds of each part of our training; each waits for the GPU, where there is one, before and after."""
    spent: dict[str, list[float]] = collections.defaultdict(list)

    def timed(name, function):
        return common.timed(function, spent[name])

    data.tokenize = timed("tokenise", data.tokenize)
    table = setting.table(WARM_UP + steps)
    with contextlib.redirect_stdout(sys.stderr):
        found = train.prepare(setting.config(), table, 0)
    found.backend.backward = timed("backward", found.backend.backward)
    found.backend.clip = timed("clip", found.backend.clip)
    found.optimizer.step = timed("optimizer", found.optimizer.step)
    found.averager.update = timed("averaging", found.averager.update)
    train.add_gradients = timed("forward", train.add_gradients)
    for step in train.train_epoch(found, 0):
        if step == WARM_UP + steps:
            break
    for _ in range(4):
        found.averager.update(found.model, found.backend.weights())
    spent["averaging"].pop(0)  # the first one only copies
    texts, batch = found.held_out, setting.config().eval_batch_size
    some = data.evaluation_batches(texts.lengths, batch)[:: max(1, len(texts.ids) // batch // 4)]
    some = [batch for batch in some if len(batch) == len(some[0])]
    with found.backend.autocast():
        score = functools.partial(
            train.predict_batches, found.wrapped, texts, some, found.tokenizer, found.backend.device
        )
        seconds = common.median_seconds(score, repeats=3, warm_up=1)
    with tempfile.TemporaryDirectory() as folder:
        about = describe(found, found.held_out.ids, "")
        for name in "abc":
            (Path(folder) / name).mkdir()
            timed("saving a state", resume.save_state)(found, Path(folder) / name, about, resume.Progress())
    medians = {name: statistics.median(values) for name, values in spent.items()}
    medians["tokenise"] = sum(spent["tokenise"]) / len(table)
    medians["forward"] -= medians["backward"]
    return medians | {"evaluation, tokens/s": sum(texts.lengths[row] for rows in some for row in rows) / seconds}


def compare(setting: Setting, steps: int, repeats: int) -> dict:
    """All contestants in turns, the limits measured in each turn; a contestant that fails has None there."""
    config, table = setting.config(), setting.table(WARM_UP + steps)
    shape, tokenizer = common.shape_of(config), AutoTokenizer.from_pretrained(encoder_source(config.encoder))
    lengths = data.tokenize(table[config.text_column].tolist(), tokenizer, setting.length)[1]
    words = ["--data", setting.data, "--encoder", setting.encoder, "--batch", setting.batch, "--length", setting.length,
             "--precision", setting.precision, "--steps", steps]  # fmt: skip
    turns = []
    for turn in range(repeats):
        limits = {name: common.matrix_rate(name) for name in ("fp32", setting.precision)}
        runs = {}
        for name in NAMES:
            runs[name] = common.in_own_process("benchmarks.throughput", "--one", name, *words)
            if runs[name] is not None:
                print(f"turn {turn + 1}, {NAMES[name]}: {runs[name]['tokens_per_second']:.0f} tokens/s", flush=True)
        turns.append({"limits": limits, "runs": runs})
    return {
        **vars(setting), "data": Path(setting.data).name, "mean_length": float(np.mean(lengths)), "steps": steps,
        "flops_per_token": common.training_flops(shape, lengths) / sum(lengths), "turns": turns,
        "phases": common.in_own_process("benchmarks.throughput", "--one", "phases", *words),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--batch", type=common.positives, default=[16])
    parser.add_argument("--length", type=common.positives, default=[256])
    parser.add_argument("--precision", default=common.best_precision())
    parser.add_argument("--steps", type=common.positive, default=24)
    parser.add_argument("--repeats", type=common.positive, default=5)
    parser.add_argument("--one", choices=[*NAMES, "phases"], help="one contestant, once, in this process")
    asked = parser.parse_args()
    choices = asked.encoder.split(","), asked.batch, asked.length, common.precisions(asked.precision)
    settings = [Setting(asked.data, *combined) for combined in itertools.product(*choices)]
    if asked.one:
        call = phases if asked.one == "phases" else functools.partial(one, asked.one)
        print(json.dumps(call(settings[0], asked.steps)))
        return
    for setting in settings:  # what cannot be is told before hours have gone by
        common.shape_of(setting.config())
        setting.table(WARM_UP + asked.steps)
    results = []
    for setting in settings:
        print(setting, flush=True)
        results.append(compare(setting, asked.steps, asked.repeats))
        common.write("throughput", {"settings": results})


if __name__ == "__main__":
    common.told(main)
