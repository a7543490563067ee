"""Time to quality: seconds until our recipe reaches the published one's best RMSE, from the same encoder.

    python -m benchmarks.quality [--preset demo|clear] [--data DATA] [--rows 0] [--fold 1]
        [--published-epochs 10]

Published: the preset ``commonlit_original`` (batches of four, 128 tokens, MADGRAD, RMSE as the loss, an
evaluation per epoch) with this encoder, in float32, in the published loop with its inefficiencies, scored
over the whole fold, with raw and averaged weights. Ours: the preset as a user runs it; ``clear`` was tuned on
fold 0, so another fold is timed. Both clocks start before the encoder is loaded. A score's time is that
before its evaluation; earlier evaluations and saving are included. DATA is a value for ``Config.data``, of
which ROWS random rows are taken (0: all).

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

from benchmarks import common, measure
from benchmarks.published import PaddedRows
from utils.config import Config, InputError
from utils.machine import precision, runtime
from utils.runs import fold, results, stopping
from utils.tasks import TASKS, add_folds, load_table
from utils.training.averaging import Averager
from utils.training.build import build_model
from utils.training.optim import parameter_groups
from utils.training.schedules import LearningRates, count_steps
from utils.training.setup import split_rows


def make_config(arguments) -> Config:
    given = {"data": arguments.data, "max_rows": arguments.rows, "fold": arguments.fold}
    given |= {"encoder": arguments.encoder}
    return Config.make(arguments.preset, **{name: value for name, value in given.items() if value})


# --- the published recipe ----------------------------------------------------------------------------------


class PublishedTraining:
    """The published recipe on one fold, with the optimizer, schedule and averaging that its preset names."""

    def __init__(self, recipe: Config, config: Config, table: pd.DataFrame):
        from madgrad import MADGRAD

        self.recipe, self.device = recipe, runtime.device()
        self.model, tokenizer = build_model(recipe)
        self.model.to(self.device).register_forward_hook(collect_garbage)
        self.train, self.held_out = (
            PaddedRows(
                rows[config.text_column].tolist(),
                rows[config.target_columns[0]].to_numpy(dtype=np.float32),
                tokenizer,
                recipe.max_length,
            )
            for rows in split_rows(table, config.fold)
        )
        self.weights = list(self.model.parameters())
        self.optimizer = MADGRAD(parameter_groups(self.model, recipe), lr=recipe.lr, eps=recipe.eps)
        steps_per_epoch, self.total_steps = count_steps(recipe, len(self.train))
        self.rates = LearningRates(self.optimizer, recipe, steps_per_epoch, self.total_steps)
        self.averager = Averager(self.model, recipe, steps_per_epoch)

    def train_epoch(self) -> None:
        self.model.train()
        for inputs, labels in DataLoader(self.train, self.recipe.batch_size, shuffle=True):
            outputs = self.model(**self.on_device(inputs))["logits"].view(-1)
            loss = torch.sqrt(nn.functional.mse_loss(outputs, labels.to(self.device)))
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights, self.recipe.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()
            self.rates.step()
            if self.averager.is_due(self.rates.steps, self.total_steps):
                self.averager.update(self.model, self.weights)

    @torch.no_grad()
    def rmse(self, model: nn.Module) -> float:
        """Over all held-out rows."""
        model.eval()
        loader = DataLoader(self.held_out, self.recipe.eval_batch_size)
        outputs = torch.cat([model(**self.on_device(inputs))["logits"].cpu() for inputs, _ in loader])
        return float(np.sqrt(np.mean((outputs.numpy().ravel() - self.held_out.targets) ** 2)))

    def on_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}


def collect_garbage(*_) -> None:
    """As the published model does in each forward pass."""
    gc.collect()


def published(arguments) -> dict:
    """Train the published recipe; its scores at the end of each epoch."""
    config = make_config(arguments)
    table = add_folds(load_table(config), config)
    recipe = replace(Config.make("commonlit_original"), encoder=config.encoder, precision="fp32")
    runtime.seed_everything(recipe.seed)
    began = time.perf_counter()
    training = PublishedTraining(recipe, config, table)
    curve = []
    for epoch in range(1, arguments.published_epochs + 1):
        training.train_epoch()
        seconds = time.perf_counter() - began  # the loop has waited for the last loss
        row = {"epoch": epoch, "seconds": seconds, "rmse": training.rmse(training.model)}
        if training.averager.n_averaged:
            row["swa_rmse"] = training.rmse(training.averager.model)
        curve.append(row)
        print(row, file=sys.stderr, flush=True)
    return {"rows": len(table), "held_out": len(training.held_out), "curve": curve}


# --- ours --------------------------------------------------------------------------------------------------


def ours(arguments) -> dict:
    """Train our fold; its scores, and the seconds of what it does besides steps and predictions."""
    config = make_config(arguments)
    calls = time_parts_of_fold(config)
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(sys.stderr):
        began = time.perf_counter()
        folder = fold.fit_fold(replace(config, output_dir=output), add_folds(load_table(config), config))
        whole = time.perf_counter() - began
        history = pd.read_csv(folder / "history.csv")
    spent = {name: sum(seconds) for name, seconds in calls.items()}
    history["seconds"] += spent["preparing"]
    history = history.rename(columns={"averaged_rmse": "swa_rmse"})
    rows = history[["epoch", "seconds", "rmse", "swa_rmse"]].to_dict("records")
    curve = [{name: value for name, value in row.items() if not math.isnan(value)} for row in rows]
    return {
        "precision": precision.choose(config.precision).name,
        "curve": curve,
        "spent": spent,
        "whole": whole,
    }


def time_parts_of_fold(config: Config) -> dict[str, list[float]]:
    """Time some parts of every fold from here on: a list for each, to be filled with seconds per call."""
    task = TASKS[config.task]
    parts = {
        "preparing": [(fold, "prepare")],
        "averaging": [(Averager, "update")],
        "saving": [(stopping, "save_state"), (results, "save")],
        "scores and tables": [(task, "score"), (fold, "write_table"), (results, "write_table")],
        "baselines": [(results, "baselines")],
    }
    calls: dict[str, list[float]] = {name: [] for name in parts}
    for name, functions in parts.items():
        for owner, attribute in functions:
            setattr(owner, attribute, measure.timed(getattr(owner, attribute), calls[name]))
    return calls


# --- both --------------------------------------------------------------------------------------------------


def main() -> None:
    arguments = read_command_line()
    if arguments.one:
        recipes = {"published": published, "ours": ours}
        print(json.dumps(recipes[arguments.one](arguments)))
        return
    load_table(make_config(arguments))  # raises an InputError now rather than after an hour
    options = ["--preset", arguments.preset, "--rows", arguments.rows, "--fold", arguments.fold]
    options += ["--published-epochs", arguments.published_epochs]
    options += ["--data", arguments.data] if arguments.data else []
    options += ["--encoder", arguments.encoder] if arguments.encoder else []
    measurements = {"preset": arguments.preset, "fold": arguments.fold}
    for name in ("published", "ours"):
        measurements[name] = common.run_module("benchmarks.quality", "--one", name, *options)
        if measurements[name] is None:
            raise InputError(f"{name} failed; nothing is written.")
        print(name, *measurements[name]["curve"], sep="\n", flush=True)
    common.write_result(f"quality-{arguments.preset}", measurements)


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="demo", choices=["demo", "clear", "tiny"])
    parser.add_argument("--data")
    parser.add_argument("--encoder")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--fold", type=int, default=1)
    parser.add_argument("--published-epochs", type=common.positive, default=10)
    parser.add_argument("--one", choices=["published", "ours"], help="one of the two, in this process")
    return parser.parse_args()


# --- a curve: a row per evaluation with "seconds", "rmse" and, of averaged weights, "swa_rmse" -------------


def best(curve: list[dict]) -> tuple[float, float]:
    """The lowest RMSE of a curve, and the seconds when it was first reached."""
    return min((lowest_rmse(row), row["seconds"]) for row in curve)


def seconds_to(curve: list[dict], goal: float) -> float:
    """Seconds until the RMSE is ``goal`` or lower; infinite if it never is."""
    return min((row["seconds"] for row in curve if lowest_rmse(row) <= goal), default=math.inf)


def lowest_rmse(row: dict) -> float:
    """Of raw and averaged weights."""
    return min(row["rmse"], row.get("swa_rmse", math.inf))


if __name__ == "__main__":
    common.run_main(main)
