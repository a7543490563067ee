"""Training one fold: the loop, evaluation, and the folder of results that the later notebooks read."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import send_to_device
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from utils import checkpoint, data, precision, runtime
from utils.averaging import Averager, refresh_batch_norm
from utils.config import Config, InputError
from utils.losses import LOSSES
from utils.metrics import batch_rmse, score
from utils.model import TextRegressor, build_model
from utils.optim import LearningRates, count_steps, make_optimizer, parameter_groups


@dataclass
class Training:
    """Everything that training one fold holds on to."""

    config: Config
    tokenizer: PreTrainedTokenizerBase
    train: data.Texts
    held_out: data.Texts
    model: TextRegressor
    wrapped: nn.Module  # the same model as the precision's backend wants it called
    optimizer: torch.optim.Optimizer
    rates: LearningRates
    averager: Averager | None
    choice: precision.Choice
    backend: precision.Native | precision.Apex
    steps_per_epoch: int
    total_steps: int
    step: int = 0  # optimizer steps taken
    losses: list[torch.Tensor] = field(default_factory=list)  # since the last evaluation, left on the device

    def evaluation_due(self) -> bool:
        every = self.config.eval_every or self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps


def prepare(config: Config, table: pd.DataFrame, fold: int) -> Training:
    """Build all that training ``fold`` of ``table`` needs. Writes nothing; raises InputError for what cannot work."""
    if "fold" not in table.columns:
        raise InputError('the table has no column "fold"; call add_folds first.')
    inside, outside = table[table["fold"] != fold], table[table["fold"] == fold]
    if inside.empty or outside.empty:
        folds = sorted(set(table["fold"]))
        raise InputError(f"fold {fold} leaves no rows to train on or to hold out; choose from {folds}.")
    choice = precision.choose(config.precision)
    runtime.seed_everything(config.seed)
    targets = inside[list(config.target_columns)].to_numpy(dtype=float)
    spread = np.where(np.ptp(targets, axis=0) > 0, targets.std(axis=0), 1.0)
    location_and_scale = (targets.mean(axis=0).tolist(), spread.tolist()) if config.standardize else (None, None)
    model, tokenizer = build_model(config, *location_and_scale)
    train, held_out = (data.Texts.of(rows, tokenizer, config) for rows in (inside, outside))

    backend = precision.make(choice)
    model.to(backend.device)
    steps_per_epoch, total_steps = count_steps(config, len(train.ids))
    optimizer = make_optimizer(parameter_groups(model, config), config)
    averager = Averager(model, config, steps_per_epoch) if config.averaging != "none" else None
    if averager is not None and not any(averager.due(step, total_steps) for step in range(total_steps + 1)):
        raise InputError(
            f"swa_start={config.swa_start:g} and swa_every={config.swa_every} average nothing in {total_steps} steps; "
            "lower them."
        )
    wrapped, stepped = backend.prepare(model, optimizer)
    rates = LearningRates(optimizer, config, steps_per_epoch, total_steps)  # after amp.initialize, as Apex asks
    return Training(
        config, tokenizer, train, held_out, model, wrapped, stepped, rates, averager, choice, backend,
        steps_per_epoch, total_steps,
    )  # fmt: skip


def train_epoch(training: Training, epoch: int) -> Iterator[int]:
    """Train for one epoch, or for what the last one has left; yields after each optimizer step.

    Forward, backward, clip, step, average, in this order. The batches are a function of (seed, epoch); the seed is
    not set again, so that each epoch has dropout masks of its own.
    """
    config, backend, averager = training.config, training.backend, training.averager
    loss = LOSSES[config.loss]
    # Errors are counted in units of the targets' scale, so that one learning rate suits 0 to 100 as well as -3 to 2.
    scale = training.model.target_std.float()
    weights = backend.weights()
    batches = data.training_batches(training.train.lengths, config.batch_size, config.seed, epoch)
    loader = iter(data.make_loader(training.train, batches, training.tokenizer, config.num_workers))
    while micro_batches := list(islice(loader, config.accumulation_steps)):
        training.wrapped.train()
        n_errors = sum(labels.numel() for _, labels in micro_batches)
        mean = torch.zeros((), device=backend.device)
        for i, batch in enumerate(micro_batches):
            inputs, labels = send_to_device(batch, backend.device, non_blocking=True)
            scores = training.wrapped(**inputs)["logits"]  # Apex O2 makes a plain dict of it
            share = loss.elementwise(scores / scale, labels / scale).sum() / n_errors
            backend.backward(share, last=i + 1 == len(micro_batches))
            mean += share.detach()
        if loss.slope is not None:
            torch._foreach_mul_([w.grad for w in weights if w.grad is not None], loss.slope(mean))
        backend.clip(config.max_grad_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.rates.step()
        training.step += 1
        if averager is not None and averager.due(training.step, training.total_steps):
            averager.update(training.model, weights)
        training.losses.append(loss.outer(mean))
        yield training.step
        if training.step == training.total_steps:
            return


@torch.no_grad()  # not inference_mode: Apex keeps casts of weights that training may meet again
def predict(training: Training, model: nn.Module, texts: data.Texts) -> np.ndarray:
    """Scores of all texts, (rows, targets), in the order of the rows, in the precision of the training."""
    model.eval()
    batches = data.evaluation_batches(texts.lengths, training.config.eval_batch_size)
    parts = []
    with training.backend.autocast():
        for inputs, _ in data.make_loader(texts, batches, training.tokenizer, training.config.num_workers):
            parts.append(model(**send_to_device(inputs, training.backend.device, non_blocking=True))["logits"])
    scores = torch.cat(parts).cpu().double().numpy()
    return scores[np.argsort([row for batch in batches for row in batch])]


def evaluate(training: Training) -> dict[str, np.ndarray]:
    """Held-out predictions of the raw weights ("last") and, once there are any, of the averaged ones ("swa")."""
    predictions = {"last": predict(training, training.wrapped, training.held_out)}
    averager = training.averager
    if averager is not None and averager.n_averaged:
        batches = data.training_batches(training.train.lengths, training.config.batch_size, training.config.seed, 0)
        loader = data.make_loader(training.train, batches, training.tokenizer)
        with training.backend.autocast():
            refresh_batch_norm(averager.model, (send_to_device(batch, training.backend.device) for batch in loader))
        predictions["swa"] = predict(training, averager.model, training.held_out)
    return predictions


def fit_fold(config: Config, table: pd.DataFrame, fold: int | None = None) -> Path:
    """Train on every row outside ``fold`` and write what the later notebooks read.

    Args:
        table: from ``load_table`` and ``add_folds``.
        fold: the held-out fold; None: ``config.fold``.

    Returns:
        The folder ``output/<run>/fold-<k>``: config.json, history.csv, predictions.csv, result.json, and the weights
        last/, best/ and, with averaging, swa/. Raises InputError before anything is written.
    """
    began = time.perf_counter()
    fold = config.fold if fold is None else fold
    training = prepare(config, table, fold)
    folder = checkpoint.fold_folder(config, fold)
    about = {
        "config": {**config.to_dict(), "fold": fold},
        "precision": training.choice._asdict(),
        "device": runtime.device_name(),
        "platform": runtime.platform_name(),
        "versions": runtime.versions(),
        "data": {
            "rows": len(table),
            "held_out": len(training.held_out.ids),
            "fingerprint": data.fingerprint(table, config),
        },
    }
    checkpoint.start_fold(folder, about)
    print(f"Fold {fold}: {training.choice.name} on {about['device']} ({training.choice.reason}).", flush=True)
    history, predictions = run_epochs(training, folder)
    for kind, model in {"last": training.model, "swa": training.averager and training.averager.model}.items():
        if kind in predictions:
            save(training, model, folder / kind)
    checkpoint.write_table(folder / "predictions.csv", predictions_table(training, predictions))
    result = summary(training, history, predictions) | {"fold": fold}
    result["seconds"] = {"training": history["seconds"].iloc[-1], "all": round(time.perf_counter() - began, 1)}
    checkpoint.write_json(folder / "result.json", result)
    return folder


def run_epochs(training: Training, folder: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """All epochs with their evaluations; saves history.csv and best/ on the way.

    Returns:
        The history, and the held-out predictions of "last", "best" and, with averaging, "swa".
    """
    rows, best = [], {}
    began = mark = time.perf_counter()
    bar = tqdm(total=training.total_steps, unit="step", disable=not runtime.progress_wanted(), leave=False)
    for epoch in range(math.ceil(training.config.epochs)):
        for step in train_epoch(training, epoch):
            bar.update()
            if not training.evaluation_due():
                continue
            train_loss = float(torch.stack(training.losses).mean())  # the first look at the losses waits for the GPU
            samples = len(training.train.ids) / training.steps_per_epoch * len(training.losses)
            speed = samples / (time.perf_counter() - mark)
            training.losses.clear()
            predictions = evaluate(training)
            if not all(np.isfinite(found).all() for found in predictions.values()):
                raise InputError(f"training diverged by step {step}: the scores are not finite; lower lr.")
            rmse = {kind: rmse_of(training, found) for kind, found in predictions.items()}
            rows.append(
                {
                    "step": step, "epoch": round(step / training.steps_per_epoch, 4), "train_loss": train_loss,
                    "rmse": rmse["last"], "swa_rmse": rmse.get("swa", math.nan),
                    "seconds": round(time.perf_counter() - began, 2), "samples_per_second": round(speed, 2),
                    "loss_scale": training.backend.loss_scale(),
                    **{f"lr {name}": rate for name, rate in training.rates.current().items()},
                }
            )  # fmt: skip
            checkpoint.write_table(folder / "history.csv", pd.DataFrame(rows))
            if not best or rmse["last"] < rmse_of(training, best["best"]):
                best = {"best": predictions["last"]}
                save(training, training.model, folder / "best")
            averaged = f" · averaged {rmse['swa']:.4f}" if "swa" in rmse else ""
            tqdm.write(
                f"epoch {rows[-1]['epoch']:5.2f} · step {step:4d} · train loss {train_loss:.4f} · "
                f"RMSE raw {rmse['last']:.4f}{averaged} · {speed:.1f} samples/s"
            )
            mark = time.perf_counter()
    bar.close()
    return pd.DataFrame(rows), predictions | best


def save(training: Training, model: TextRegressor, folder: Path) -> None:
    """Save ``model``, with the float32 weights that the optimizer steps if it is the one in training."""
    weights = dict(model.state_dict())
    if model is training.model:
        names = [name for name, _ in model.named_parameters()]
        weights |= zip(names, training.backend.weights(), strict=True)
    checkpoint.save_model(training.model.config, weights, training.tokenizer, folder)


def rmse_of(training: Training, predictions: np.ndarray) -> float:
    return score(training.held_out.targets, predictions, training.config.target_columns)["rmse"]


def predictions_table(training: Training, predictions: dict[str, np.ndarray]) -> pd.DataFrame:
    """id, target, last, best, swa; with several targets each column once a target, as "<target> <column>"."""
    config, held_out = training.config, training.held_out
    table = {"id": held_out.ids}
    for i, name in enumerate(config.target_columns):
        prefix = f"{name} " if len(config.target_columns) > 1 else ""
        table[f"{prefix}target"] = held_out.targets[:, i]
        for kind in (kind for kind in checkpoint.KINDS if kind in predictions):
            table[f"{prefix}{kind}"] = predictions[kind][:, i]
    return pd.DataFrame(table)


def summary(training: Training, history: pd.DataFrame, predictions: dict[str, np.ndarray]) -> dict:
    """The scores and sizes of result.json, the contract with the later notebooks."""
    targets = training.held_out.targets
    scores = {
        kind: score(targets, predictions[kind], training.config.target_columns)
        | {"batch_rmse": batch_rmse(targets, predictions[kind])}
        for kind in checkpoint.KINDS
        if kind in predictions
    }
    best = history.loc[history["rmse"].idxmin()]
    return {
        "scores": scores,
        "default": "swa" if "swa" in scores else "last",
        "best_epoch": float(best["epoch"]),
        "steps": training.step,
        "n_averaged": training.averager.n_averaged if training.averager else 0,
        "parameters": sum(weight.numel() for weight in training.model.parameters()),
        "samples_per_second": float(history["samples_per_second"].median()),
    }
