"""A fold in Lightning, an extra requirement: requirements-trainers.txt."""

import math
from dataclasses import dataclass

import lightning as pl
import torch
from accelerate.utils import gather_object
from lightning.pytorch.callbacks import ModelCheckpoint

from utils.data import tokens
from utils.runs.artifacts import fold_folder
from utils.runs.observer import Observer
from utils.tasks import make_task
from utils.trainers.shared import Fold, check_settings, step_loss
from utils.training.predict import decode, unpad

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class FoldData(pl.LightningDataModule):
    """A fold's batches: grouped by length in training, the longest first in evaluation."""

    def __init__(self, fold: Fold):
        super().__init__()
        self.fold = fold

    def train_dataloader(self):
        return self.fold.train_loader()

    def val_dataloader(self):
        training = self.fold.training
        return tokens.make_loader(training.held_out, self.fold.held_out_batches(), training.tokenizer)

    test_dataloader = val_dataloader


class FoldModule(pl.LightningModule):
    """The model with its loss, optimizer and rates; after an evaluation ``predictions``, (rows, columns)."""

    def __init__(self, data: FoldData):
        super().__init__()
        self.fold, self.pairs = data.fold, []

    def configure_model(self):
        self.model = self.fold.training.model

    def configure_optimizers(self):
        rates = self.fold.training.rates
        return [rates.optimizer], [{"scheduler": rates, "interval": "step"}]

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()

    def configure_gradient_clipping(self, optimizer, **_):
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # which Lightning leaves to a fused optimizer, and then clips nothing
        limit = self.fold.config.max_grad_norm or math.inf
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def training_step(self, batch, _):
        loss = step_loss(self.fold.training, self.model, batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_):
        self.trainer.should_stop |= self.trainer.global_step >= self.fold.training.total_steps

    def validation_step(self, batch, number):
        logits = self.model(**batch.inputs, extras=batch.extras)["logits"].cpu().double().numpy()
        mask = batch.inputs["attention_mask"].cpu().numpy().astype(bool)
        self.pairs += unpad(self.fold.held_out_batches()[number], logits, mask)

    def on_validation_epoch_end(self):
        training, pairs = self.fold.training, gather_object(self.pairs)
        self.predictions, self.pairs = decode(training.task, training.held_out, pairs), []
        self.log_dict(training.task.scores(training.targets, self.predictions))

    test_step, on_test_epoch_end = validation_step, on_validation_epoch_end


@dataclass
class Watch(pl.Callback):
    """Tells an observer what happens: it averages, shows samples, leaves the fold's folder."""

    observer: Observer

    def on_fit_start(self, trainer, module):
        self.observer.begin(module.fold.training, module.fold.table, f"lightning {pl.__version__}")

    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        self.observer.stepped(outputs["loss"])

    def on_validation_end(self, trainer, module):
        trainer.should_stop |= trainer.state.fn == "fit" and self.observer.evaluated(module.predictions)

    def on_train_end(self, trainer, module):
        self.observer.end()


def make_trainer(data: FoldData, *callbacks: pl.Callback, **options) -> pl.Trainer:
    """A Trainer with a fold's steps, precision and evaluations, that keeps the best weights by our metric.

    ``options``: of Lightning's Trainer, such as ``devices``, ``logger`` or another ``precision``.
    """
    config, metric = data.fold.config, make_task(data.fold.config).metric
    folder, mode = fold_folder(config) / "lightning", "max" if metric.higher_is_better else "min"
    settings = {
        "min_epochs": 0,
        "max_epochs": math.ceil(config.epochs),  # the module stops after the plan's last step
        "precision": PRECISIONS[check_settings(config)],
        "val_check_interval": config.eval_every or 1.0,
        "check_val_every_n_epoch": None if config.eval_every else 1,
        "num_sanity_val_steps": 0,
        "callbacks": [*callbacks, ModelCheckpoint(folder, monitor=metric.name, mode=mode)],
        "devices": 1,
        "logger": False,
        "use_distributed_sampler": False,  # the batches are shared out already
    }
    return pl.Trainer(**settings | options)
