"""The two other loops, by name, for tests that hold for both."""

import dataclasses
import importlib.util
import math

import pytest
import torch

from tests.tasks.questions import make_questions
from utils.config import Config
from utils.runs.observer import Observer
from utils.tasks import add_folds, load_table
from utils.trainers.hugging_face import FoldTrainer
from utils.trainers.shared import Fold
from utils.training.loop import train_epoch
from utils.training.schedules import count_steps
from utils.training.setup import prepare

HAS_LIGHTNING = importlib.util.find_spec("lightning") is not None
needs_lightning = pytest.mark.skipif(
    not HAS_LIGHTNING, reason="Lightning is not installed: pip install -r requirements-trainers.txt"
)
LOOPS = [pytest.param("lightning", marks=needs_lightning), "hugging_face"]
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
#: Settings of each task; the binary one has what tutorials have: one cycle, smoothing, weighted BCE.
TASKS = {
    "regression": {"loss": "rmse"},
    "binary": {
        "task": "binary",
        "target_columns": ("suitable",),
        "schedule": "one_cycle",
        "label_smoothing": 0.1,
        "pos_weight": ("auto",),
    },
    "spans": {
        "preset": "questions",
        "encoder": "tiny",
        "max_length": 32,
        "stride": 8,
        "n_folds": 2,
        "lr": 1e-3,
        "batch_size": 8,
        "pooling": "tokens",
    },
}


def make_fold(folder, task="regression", steps=0, **options):
    """A fold without dropout; ``steps``: how many a training takes, 0: as the Config has it."""
    settings = {"preset": "tiny", "precision": "fp32", "head_dropout": 0.0, **TASKS[task], **options}
    if task == "spans":
        make_questions(12).to_csv(folder / "train.csv", index=False)
        settings["data"] = str(folder / "train.csv")
    config = Config.make(settings.pop("preset"), **settings)
    if steps:  # as few epochs as these take, SWA in the last half
        table = add_folds(load_table(config), config)
        per_epoch = count_steps(config, len(prepare(config, table, 0).train))[0]
        config = dataclasses.replace(config, epochs=steps / per_epoch, swa_start=steps / per_epoch / 2)
    return Fold(config, add_folds(load_table(config), config))


def train_ours(fold):
    """Our own loop's training, without evaluations."""
    training = prepare(fold.config, fold.table, fold.config.fold)
    for epoch in range(math.ceil(fold.config.epochs)):
        for _ in train_epoch(training, epoch):
            pass
    return training


def train(loop, fold, keep=True, callbacks=(), **options):
    """Train in another loop; its Trainer."""
    if loop == "hugging_face":
        trainer = FoldTrainer(fold, Observer(keep), **{"disable_tqdm": True, **options})
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()
        return trainer
    from utils.trainers.lightning import FoldData, FoldModule, Watch, make_trainer

    data = FoldData(fold)
    trainer = make_trainer(data, Watch(Observer(keep)), *callbacks, **QUIET | options)
    trainer.fit(FoldModule(data), data)
    return trainer


def assert_close(weights, others, atol=1e-6):
    """Weights of the same names, equal up to rounding."""
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=atol, msg=f"{name}: {{}}".format)
