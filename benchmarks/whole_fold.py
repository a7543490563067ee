"""A whole fold side by side: the HF Trainer, Lightning, and ours, each with its evaluations and its saving.

    python -m benchmarks.whole_fold [--data DATA] [--rows 0] [--epochs 5] [--precision bf16] [--repeats 3]

Each trains MiniLM on fold 0 as ``demo`` would, in a process of its own, in turns: the same batches in each
epoch, an evaluation of the raw weights after each, whose batches are sorted by length, a state to resume from
after each (weights, optimizer, schedule; the latest is kept), and the best weights. Ours is timed without
averaging, which does the same, and as the preset has it, which also evaluates and saves the average.
Lightning averages weights at the end of its epochs. Seconds count from the loaded table to the finished fold:
tokenising and loading the encoder included, importing not. Data and ROWS are as in benchmarks.quality.

Writes benchmarks/whole_fold-cpu.json or -cuda.json.
"""

import argparse
import contextlib
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from benchmarks import common, measure
from utils.config import Config
from utils.data.tokens import evaluation_batches, training_batches
from utils.machine.encoders import encoder_source
from utils.runs.artifacts import read_result
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table
from utils.training.schedules import count_steps
from utils.training.setup import split_rows

NAMES = {
    "trainer": "HF Trainer",
    "lightning": "Lightning, SWA",
    "ours": "ours, without averaging",
    "averaging": "ours",
}


def make_config(arguments, **changes) -> Config:
    given = {"data": arguments.data, "max_rows": arguments.rows, "epochs": arguments.epochs}
    given = {name: value for name, value in given.items() if value} | {"encoder": arguments.encoder}
    return Config.make(arguments.preset, **given, precision=arguments.precision, snapshots=0, **changes)


# --- the Trainer and Lightning -----------------------------------------------------------------------------


class Epochs:
    """Our batches of row numbers, epoch after epoch, as a batch sampler."""

    def __init__(self, lengths: list[int], config: Config):
        self.lengths, self.config, self.epoch = lengths, config, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.config.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        yield from training_batches(self.lengths, self.config.batch_size, self.config.seed, self.epoch - 1)


class Parts:
    """A model with one output, loaders of the training and the held-out rows, and the rates' plan."""

    def __init__(self, config: Config, table: pd.DataFrame):
        source = encoder_source(config.encoder)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, **no_dropout
        )
        train, held_out = (self._rows(rows, config) for rows in split_rows(table, config.fold))
        self.train = self._loader(train, Epochs(lengths(train), config))
        self.held_out = self._loader(held_out, evaluation_batches(lengths(held_out), config.eval_batch_size))
        self.rows = train, held_out
        self.steps = count_steps(config, len(train))[1]

    def _rows(self, table: pd.DataFrame, config: Config) -> list[dict]:
        texts = table[config.text_column].tolist()
        encoded = self.tokenizer(texts, max_length=config.max_length, truncation=True)
        targets = table[config.target_columns[0]].astype(float)
        return [
            {**{name: encoded[name][i] for name in encoded}, "labels": target}
            for i, target in enumerate(targets)
        ]

    def _loader(self, rows: list[dict], batches) -> DataLoader:
        pad = DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=8)
        pinned = torch.cuda.is_available()
        return DataLoader(rows, batch_sampler=batches, collate_fn=pad, pin_memory=pinned)  # type: ignore[arg-type]


def lengths(rows: list[dict]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def trainer(config: Config, table: pd.DataFrame, folder: str) -> int:
    """A fold with Hugging Face's Trainer; returns the optimizer steps that it took."""
    from transformers import Trainer, TrainingArguments

    parts = Parts(config, table)

    class SameBatches(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(parts.train)

        def get_eval_dataloader(self, *_):
            return self.accelerator.prepare(parts.held_out)

    arguments = TrainingArguments(
        folder,
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup_ratio * parts.steps),
        weight_decay=config.weight_decay,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="rmse",
        greater_is_better=False,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="epoch",
        use_cpu=not torch.cuda.is_available(),
        logging_nan_inf_filter=False,  # which waits for the GPU
        accelerator_config={"non_blocking": True},
    )
    hf = SameBatches(parts.model, arguments, None, *parts.rows, compute_metrics=rmse)
    hf.train()
    hf.save_model()
    return hf.state.global_step


def rmse(evaluation) -> dict[str, float]:
    errors = np.ravel(evaluation.predictions) - np.ravel(evaluation.label_ids)
    return {"rmse": float(np.sqrt(np.mean(errors**2)))}


def lightning(config: Config, table: pd.DataFrame, folder: str) -> int:
    """A fold with Lightning and its SWA callback; returns the optimizer steps that it took."""
    import lightning as pl
    from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging

    parts = Parts(config, table)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.errors = parts.model, []

        def training_step(self, batch, _):
            return self.model(**batch).loss

        def validation_step(self, batch, _):
            self.errors.append(self.model(**batch).logits.float().ravel() - batch["labels"])

        def on_validation_epoch_end(self):
            self.log("rmse", torch.cat(self.errors).square().mean().sqrt())
            self.errors.clear()

        def configure_optimizers(self):  # Lightning clips no gradients of a fused one
            return torch.optim.AdamW(self.parameters(), lr=config.lr, weight_decay=config.weight_decay)

    pl_trainer = pl.Trainer(
        max_epochs=int(config.epochs),
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[config.precision],
        gradient_clip_val=1.0,
        logger=False,
        devices=1,
        num_sanity_val_steps=0,
        callbacks=[
            StochasticWeightAveraging(config.lr / 2, swa_epoch_start=int(config.swa_start)),
            ModelCheckpoint(folder, monitor="rmse", save_top_k=1, save_last=True),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    pl_trainer.fit(Module(), parts.train, parts.held_out)
    return pl_trainer.global_step


# --- the comparison ----------------------------------------------------------------------------------------


def one(name: str, arguments) -> dict:
    """The seconds and the peak memory of one contestant's fold, in this process."""
    changes = {"averaging": "none"} if name != "averaging" else {}
    config = make_config(arguments, **changes)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        table = add_folds(load_table(config), config)
        began = time.perf_counter()
        if name in ("trainer", "lightning"):
            swa = make_config(arguments)
            steps = trainer(config, table, folder) if name == "trainer" else lightning(swa, table, folder)
        else:
            config = make_config(arguments, output_dir=folder, **changes)
            steps = read_result(fit_fold(config, table))["steps"]
        measure.synchronize()
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "steps": steps, "peak_gib": measure.peak_memory()}


def main() -> None:
    arguments = read_command_line()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments)))
        return
    load_table(make_config(arguments))  # raises an InputError now rather than after an hour
    names = [name for name in NAMES if name != "lightning" or importlib.util.find_spec("lightning")]
    settings = {name: getattr(arguments, name) for name in ("rows", "epochs", "precision")}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    options += ["--data", arguments.data] if arguments.data else []
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for turn in range(arguments.repeats):
        for name in names:
            run = common.run_module("benchmarks.whole_fold", "--one", name, *options)
            if run is not None:
                runs[name].append(run)
                print(f"turn {turn + 1}, {NAMES[name]}: {run['seconds']:.1f} s", flush=True)
    medians = {
        name: {key: statistics.median(run[key] for run in done) for key in done[0]}
        for name, done in runs.items()
        if done
    }
    for name, median in medians.items():
        print(f"{NAMES[name]}: {median['seconds']:.1f} s, {median['peak_gib']:.2f} GiB at most")
    common.write_result("whole_fold", {**settings, "runs": runs, "medians": medians})


def read_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whole_fold", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--epochs", type=common.positive, default=5)
    parser.add_argument("--precision", default=common.best_precision())
    parser.add_argument("--repeats", type=common.positive, default=3)
    parser.add_argument("--one", choices=list(NAMES), help="one contestant, once, in this process")
    arguments = parser.parse_args()
    (arguments.precision,) = common.parse_precisions(arguments.precision)
    arguments.preset, arguments.encoder = "demo", common.find_minilm()
    return arguments


if __name__ == "__main__":
    common.run_main(main)
