"""The same fold in three loops, side by side: what each takes, and what it leaves."""

import dataclasses
import importlib.util
import logging
import re
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import PrinterCallback

from utils.config import Config
from utils.data.tokens import make_loader
from utils.machine.processes import run_in_process
from utils.machine.runtime import ROOT
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.runs.observer import Observer
from utils.tasks import add_folds, load_table
from utils.trainers.shared import EpochBatches, Fold, step_loss
from utils.training.setup import Training

#: What is read to understand each: our own loop's files, or those of utils/trainers.
FILES = {
    "ours": ("training/loop", "runs/fold"),
    "lightning": ("trainers/lightning", "trainers/shared"),
    "hugging_face": ("trainers/hugging_face", "trainers/shared"),
}


def loops() -> list[str]:
    """The loops that are installed here."""
    return [name for name in FILES if name != "lightning" or importlib.util.find_spec("lightning")]


def train_in(config: Config, loop: str) -> dict[str, float]:
    """Train ``config.fold`` in a loop, in this process; its seconds and the most memory it held, in GiB."""
    table = add_folds(load_table(config), config)
    began = time.perf_counter()
    if loop == "ours":
        fit_fold(config, table)
    elif loop == "lightning":
        from utils.trainers.lightning import FoldData, FoldModule, Watch, make_trainer

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it advertises on every start
        warnings.filterwarnings("ignore", module="lightning")
        data = FoldData(Fold(config, table))
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        make_trainer(data, Watch(Observer()), **quiet).fit(FoldModule(data), data)
    else:
        from utils.trainers.hugging_face import FoldTrainer

        trainer = FoldTrainer(Fold(config, table), Observer(), disable_tqdm=True, save_only_model=True)
        trainer.remove_callback(PrinterCallback)  # the observer says the same in our words
        trainer.train()
    return {"seconds": time.perf_counter() - began, "memory": peak_memory()}


def peak_memory() -> float:
    """The most GiB that this process has held, on the GPU where there is one; NaN where no one counts."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    return int(re.findall(r"VmHWM:\s*(\d+)", status.read_text())[0]) / 2**20 if status.exists() else np.nan


def train_all(config: Config) -> pd.DataFrame:
    """Each loop in a process of its own, as run ``<run>-<loop>``: lines of code, seconds, memory, the metric.

    A column "difference": the largest of any weight from our own loop's last ones.
    """
    rows, own = {}, {}
    for loop in loops():
        named = dataclasses.replace(config, run=f"{config.run_name}-{loop}", retrain=True)
        measured = run_in_process(train_in, named, loop)
        folder = artifacts.fold_folder(named)
        result, weights = artifacts.read_result(folder), load_file(folder / "last" / "model.safetensors")
        own = own or weights
        lines = sum(len((ROOT / "utils" / f"{n}.py").read_text().splitlines()) for n in FILES[loop])
        score = result["scores"][result["default"]][result["metric"]["name"]]
        difference = max(float((own[name] - value).abs().max()) for name, value in weights.items())
        speed = result["samples_per_second"]
        rows[loop] = {
            "lines": lines,
            **measured,
            "samples/s": speed,
            "score": score,
            "difference": difference,
        }
    return pd.DataFrame(rows).T


def accumulation_error(training: Training) -> float:
    """How far the gradient of a batch's two halves, averaged, lies from the whole batch's, relative to it."""
    batch = next(iter(make_loader(training.train, EpochBatches(training), training.tokenizer)))
    gradients = []
    for parts in (batch.split(1), batch.split(2)):
        training.zero_grad()
        for part in parts:
            (step_loss(training, training.model.eval(), part) / len(parts)).backward()
        weights = [weight for weight in training.model.parameters() if weight.grad is not None]
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights]))
    training.zero_grad()
    return float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
