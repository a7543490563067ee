"""What else one would train with, and ours: four loops over the same texts, each stopped by a clock.

"published" is the published notebook's loop, written anew with its waste: texts tokenised when asked for and padded to
the maximum, garbage collected in each forward pass, a wait for the loss at each step, the package's MADGRAD, and always
float32 (its log is without Apex). The Trainer and Lightning have what an attentive user would give them: the same
precision as ours, no dropout in the encoder, batches by length, padded to their longest text and on to a multiple of 8
(the very same batches as ours, so that all three train on the same texts), pinned memory, and the Trainer AdamW in one
kernel.
"""

import gc
import tempfile
import time
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from benchmarks.common import encoder_of, refuse_parts, synchronize, table_of
from utils import data, runtime, train
from utils.config import Config
from utils.model import encoder_source

NAMES = {"published": "published loop", "trainer": "HF Trainer", "lightning": "Lightning, SWA", "ours": "ours"}
WARM_UP = 3  # steps


@dataclass
class Setting:
    """What all contestants train alike."""

    data: str
    encoder: str
    batch: int
    length: int
    precision: str

    def config(self) -> Config:
        return Config.make(
            "demo" if self.data == "sample" else "clear", data=self.data, encoder=encoder_of(self.encoder), epochs=1,
            batch_size=self.batch, max_length=self.length, precision=self.precision, swa_start=0.9, swa_every=0,
        )  # fmt: skip

    def table(self, steps: int) -> pd.DataFrame:
        """Rows for more than so many steps outside fold 0, and for batches by length as on a corpus.

        The average is taken at the end of the epoch, after them: neither ours nor Lightning's is timed.
        """
        return table_of(self.config(), max(3773, 2 * steps * self.batch))


@dataclass
class Clock:
    """Notes when each step ended and how many tokens, padding not counted, went into it; says when to stop."""

    steps: int
    ends: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def read(self, mask: torch.Tensor) -> None:
        """A batch has been made."""
        self.tokens.append(int(mask.sum()))

    def tick(self) -> bool:
        """A step has ended; True if it was the last. Waits for a GPU only where time is taken."""
        if len(self.ends) + 1 in (1, WARM_UP, self.steps):
            synchronize()
        self.ends.append(time.perf_counter())
        return len(self.ends) >= self.steps

    def result(self) -> dict:
        seconds = self.ends[self.steps - 1] - self.ends[WARM_UP - 1]
        tokens = sum(self.tokens[WARM_UP : self.steps])
        return {"tokens_per_second": tokens / seconds}


def rows_of(setting: Setting, clock: Clock) -> tuple[list[str], np.ndarray]:
    """The texts to train on and their targets."""
    config, table = setting.config(), setting.table(clock.steps)
    table = table[table["fold"] != 0]
    return table[config.text_column].tolist(), table[config.target_columns[0]].to_numpy(dtype=np.float32)


def published(setting: Setting, clock: Clock) -> None:
    """Train with the published loop until the clock stops it; the three below likewise."""
    from madgrad import MADGRAD

    texts, targets = rows_of(setting, clock)
    source, device = encoder_source(setting.config().encoder), runtime.device()
    rows = PaddedRows(texts, targets, AutoTokenizer.from_pretrained(source), setting.length)
    model = PublishedModel(source).to(device).train()
    optimizer = MADGRAD(model.parameters(), lr=2e-5, weight_decay=1e-5)
    for inputs, labels in DataLoader(rows, setting.batch, shuffle=True):
        clock.read(inputs["attention_mask"])
        inputs, labels = {name: value.to(device) for name, value in inputs.items()}, labels.to(device)
        loss = torch.sqrt(nn.functional.mse_loss(model(**inputs).view(-1), labels))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if clock.tick():
            return


class PaddedRows(torch.utils.data.Dataset):
    """Texts tokenised when asked for, padded to the maximum."""

    def __init__(self, texts: list[str], targets: np.ndarray, tokenizer, length: int):
        self.texts, self.targets, self.tokenizer, self.length = texts, targets, tokenizer, length

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        text = self.texts[i].replace("\n", "")
        found = self.tokenizer(text, max_length=self.length, padding="max_length", truncation=True)
        return {name: torch.tensor(value) for name, value in found.items()}, torch.tensor(self.targets[i])


class PublishedModel(nn.Module):
    """The published model: softmax-weighted first tokens of all layers, five dropouts through one head."""

    def __init__(self, source: str):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(source, output_hidden_states=True, dtype=torch.float32)
        layers, width = self.encoder.config.num_hidden_layers + 1, self.encoder.config.hidden_size
        self.weights = nn.Parameter(torch.tensor([-3.0] * (layers - 1) + [0.0]).view(-1, 1, 1))
        self.dropout, self.norm, self.head = nn.Dropout(0.2), nn.LayerNorm(width), nn.Linear(width, 1)
        self.dropouts = nn.ModuleList(nn.Dropout(0.5) for _ in range(5))

    def forward(self, **inputs) -> torch.Tensor:
        """Scores, (batch, 1), of tokenised texts."""
        states = torch.stack([self.dropout(state[:, 0]) for state in self.encoder(**inputs).hidden_states])
        pooled = self.norm((torch.softmax(self.weights, 0) * states).sum(0))
        gc.collect()
        return torch.stack([self.head(dropout(pooled)) for dropout in self.dropouts]).mean(0)


def ordinary(setting: Setting, clock: Clock):
    """What the Trainer and Lightning are given: tokens, their batches, a model with a head, a collator."""
    texts, targets = rows_of(setting, clock)
    config = setting.config()
    source = encoder_source(config.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokens = tokenizer(texts, max_length=setting.length, truncation=True)
    rows = [{**{name: tokens[name][i] for name in tokens}, "labels": float(targets[i])} for i in range(len(texts))]
    batches = data.training_batches([len(ids) for ids in tokens["input_ids"]], setting.batch, config.seed, 0)
    whole = [batch for batch in batches if len(batch) == setting.batch]
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32, **off)
    pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)

    def collate(features):
        batch = pad(features)
        clock.read(batch["attention_mask"])
        return batch

    return rows, whole, model.train(), collate


def trainer(setting: Setting, clock: Clock) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows, batches, model, collate = ordinary(setting, clock)

    class SameBatches(Trainer):
        def _get_train_sampler(self, *_):
            return [row for batch in batches for row in batch]

    class Tick(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            control.should_training_stop = clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=setting.batch, learning_rate=5e-5,
            bf16=setting.precision == "bf16", fp16=setting.precision == "fp16", report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(),
            logging_nan_inf_filter=False, accelerator_config={"non_blocking": True},  # else it waits for the GPU
        )  # fmt: skip
        SameBatches(model, arguments, collate, rows, callbacks=[Tick()]).train()


def lightning(setting: Setting, clock: Clock) -> None:
    import lightning as pl
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    rows, batches, model, collate = ordinary(setting, clock)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=5e-5)  # Lightning clips no gradients of a fused one

        def on_train_batch_end(self, *_):
            self.trainer.should_stop = clock.tick()

    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[setting.precision]
    loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate, pin_memory=torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as folder:
        fit = pl.Trainer(
            max_epochs=2, min_epochs=0, precision=precision, gradient_clip_val=1.0, logger=False, devices=1,
            callbacks=[StochasticWeightAveraging(2.5e-5, swa_epoch_start=1)], enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        fit.fit(Module(), loader)


def ours(setting: Setting, clock: Clock) -> None:
    training = train.prepare(setting.config(), setting.table(clock.steps), 0)
    lengths = training.train.lengths
    clock.tokens = [sum(lengths[row] for row in batch) for batch in training.batches(0)]
    for _ in train.train_epoch(training, 0):
        refuse_parts(training)
        if clock.tick():
            return
