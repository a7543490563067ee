"""Time to quality: seconds until our recipe reaches the best RMSE of the published one, from the same encoder.

    python -m benchmarks.quality [--preset demo|clear] [--data DATA] [--rows 0] [--fold 1] [--published-epochs 10]

Published: the preset ``commonlit_original`` (batches of four, 128 tokens, MADGRAD, RMSE as the loss, an evaluation each
epoch) with this encoder, in float32, in the published loop and its waste, scored over the whole fold, with raw and
averaged weights. Ours: the preset, as a user runs it; ``clear`` was tuned on fold 0, so another is timed. Both clocks
start before the encoder is loaded, and at a score stand before the evaluation that found it, earlier evaluations and
saving included. DATA is what ``Config.data`` takes; ROWS takes that many random ones of it (0: all).

Writes benchmarks/quality-PRESET-cpu.json or -cuda.json.
"""

import argparse
import contextlib
import gc
import json
import math
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import common
from benchmarks.contestants import PaddedRows
from utils import checkpoint, fold, precision, results, resume, runtime
from utils.averaging import Averager
from utils.config import Config, InputError
from utils.data import add_folds, load_table
from utils.model import build_model
from utils.optim import LearningRates, count_steps, parameter_groups


def config_of(asked) -> Config:
    return Config.make(asked.preset, data=asked.data, max_rows=asked.rows or None, fold=asked.fold)


def published(asked) -> dict:
    """Train the published recipe; its scores at the end of each epoch."""
    from madgrad import MADGRAD

    ours = config_of(asked)
    table = add_folds(load_table(ours), ours)
    recipe = replace(Config.make("commonlit_original"), encoder=ours.encoder, precision="fp32")
    runtime.seed_everything(recipe.seed)
    began = time.perf_counter()
    model, tokenizer = build_model(recipe)
    device = runtime.device()
    model.to(device).register_forward_hook(collect_garbage)
    targets = table[ours.target_columns[0]].to_numpy(dtype=np.float32)
    held_out = (table["fold"] == asked.fold).to_numpy()
    texts = table[ours.text_column].to_numpy()
    inside, outside = (
        PaddedRows(texts[part].tolist(), targets[part], tokenizer, recipe.max_length) for part in (~held_out, held_out)
    )
    optimizer = MADGRAD(parameter_groups(model, recipe), lr=recipe.lr, eps=recipe.eps)
    steps_per_epoch, total_steps = count_steps(recipe, len(inside))
    rates = LearningRates(optimizer, recipe, steps_per_epoch, total_steps)
    averager = Averager(model, recipe, steps_per_epoch)
    weights, step, curve = list(model.parameters()), 0, []

    def scored(scorer: nn.Module) -> float:
        scorer.eval()
        with torch.no_grad():
            parts = [scorer(**to(inputs))["logits"].cpu() for inputs, _ in DataLoader(outside, recipe.eval_batch_size)]
        return float(np.sqrt(np.mean((torch.cat(parts).numpy().ravel() - targets[held_out]) ** 2)))

    def to(inputs):
        return {name: value.to(device) for name, value in inputs.items()}

    for epoch in range(1, asked.published_epochs + 1):
        model.train()
        for inputs, labels in DataLoader(inside, recipe.batch_size, shuffle=True):
            loss = torch.sqrt(nn.functional.mse_loss(model(**to(inputs))["logits"].view(-1), labels.to(device)))
            loss.backward()
            nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            rates.step()
            step += 1
            if averager.due(step, total_steps):
                averager.update(model, weights)
        seconds = time.perf_counter() - began  # the loop has waited for the last loss
        found = {"rmse": scored(model)} | ({"swa_rmse": scored(averager.model)} if averager.n_averaged else {})
        curve.append({"epoch": epoch, "seconds": seconds, **found})
        print(curve[-1], file=sys.stderr, flush=True)
    return {"rows": len(table), "held_out": int(held_out.sum()), "curve": curve}


def collect_garbage(*_) -> None:
    """As the published model does in each forward pass."""
    gc.collect()


def ours(asked) -> dict:
    """Train our fold; its scores, and the seconds that preparing, averaging, saving and bookkeeping took of it."""
    spent = {name: [] for name in ("preparing", "averaging", "saving", "scores and tables")}

    def timed(name, function):
        return common.timed(function, spent[name])

    fold.prepare = timed("preparing", fold.prepare)
    Averager.update = timed("averaging", Averager.update)
    fold.save_state = timed("saving", resume.save_state)
    results.save = timed("saving", results.save)
    results.rmse_of = timed("scores and tables", results.rmse_of)
    checkpoint.write_table = timed("scores and tables", checkpoint.write_table)
    config = config_of(asked)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        began = time.perf_counter()
        place = fold.fit_fold(replace(config, output_dir=folder), add_folds(load_table(config), config))
        whole = time.perf_counter() - began
        history = pd.read_csv(place / "history.csv")
    spent = {name: sum(times) for name, times in spent.items()}
    history["seconds"] += spent["preparing"]
    rows = history[["epoch", "seconds", "rmse", "swa_rmse"]].to_dict("records")
    curve = [{name: value for name, value in row.items() if not math.isnan(value)} for row in rows]
    return {"precision": precision.choose(config.precision).name, "curve": curve, "spent": spent, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="demo", choices=["demo", "clear", "tiny"])
    parser.add_argument("--data")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--published-epochs", type=common.positive, default=10)
    parser.add_argument("--one", choices=["published", "ours"], help="one of the two, in this process")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(globals()[asked.one](asked)))
        return
    load_table(config_of(asked))  # or the sentence that says why not
    words = ["--preset", asked.preset, "--rows", asked.rows, "--fold", asked.fold]
    words += ["--published-epochs", asked.published_epochs, *(["--data", asked.data] if asked.data else [])]
    found = {"preset": asked.preset, "fold": asked.fold}
    for name in ("published", "ours"):
        found[name] = common.in_own_process("benchmarks.quality", "--one", name, *words)
        if found[name] is None:
            raise InputError(f"{name} failed; nothing is written.")
        print(name, *found[name]["curve"], sep="\n", flush=True)
    common.write(f"quality-{asked.preset}", found)


def best(curve: list[dict]) -> tuple[float, float]:
    """The lowest RMSE of a curve, and the seconds when it was first reached."""
    return min((min_of(row), row["seconds"]) for row in curve)


def seconds_to(curve: list[dict], goal: float) -> float:
    """Seconds until an RMSE of ``goal`` or lower; infinite if never."""
    return min((row["seconds"] for row in curve if min_of(row) <= goal), default=math.inf)


def min_of(row: dict) -> float:
    return min(row["rmse"], row.get("swa_rmse", math.inf))


if __name__ == "__main__":
    common.told(main)
