"""Four training loops over the same texts, each stopped by a clock: three alternatives, and ours.

"published" is the published notebook's loop, rewritten with its inefficiencies: texts tokenised on access and
padded to the maximum length, garbage collection in each forward pass, waiting for the loss at each step,
MADGRAD from its package, and always float32 (its log was made without Apex). The Trainer and Lightning are
set up as an attentive user would: the same precision as ours, no dropout in the encoder, the very same
batches as ours (grouped by length, padded to their longest text and on to a multiple of 8), pinned memory,
and for the Trainer fused AdamW.
"""

import tempfile
import time
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from benchmarks.common import check_whole_batches, find_encoder, make_table
from benchmarks.measure import synchronize
from benchmarks.published import PaddedRows, PublishedModel
from utils.config import Config
from utils.data.tokens import training_batches
from utils.machine import runtime
from utils.machine.encoders import encoder_source
from utils.training.loop import train_epoch
from utils.training.setup import prepare

NAMES = {
    "published": "published loop",
    "trainer": "HF Trainer",
    "lightning": "Lightning, SWA",
    "ours": "ours",
}
WARM_UP = 3  # steps


@dataclass
class Setting:
    """What is the same for all contestants."""

    data: str
    encoder: str
    batch: int
    length: int
    precision: str
    rows: int = 3773  # at least so many are tokenised
    compile: str = "off"  # ours alone

    def config(self) -> Config:
        return Config.make(
            "demo" if self.data == "sample" else "clear",
            data=self.data,
            encoder=find_encoder(self.encoder),
            epochs=1,
            batch_size=self.batch,
            max_length=self.length,
            precision=self.precision,
            swa_start=0.9,
            swa_every=0,
            compile=self.compile,
        )

    def table(self, steps: int) -> pd.DataFrame:
        """Enough rows outside fold 0 for more than ``steps`` steps, and for batches by length as in a corpus.

        The weights are averaged at the end of the epoch, after the timed steps: neither our averaging nor
        Lightning's is timed.
        """
        return make_table(self.config(), max(self.rows, 2 * steps * self.batch))


@dataclass
class Clock:
    """Records when each step ended and how many tokens, without padding, it took; says when to stop."""

    steps: int
    ends: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def read(self, mask: torch.Tensor) -> None:
        """A batch with this attention mask has been made."""
        self.tokens.append(int(mask.sum()))

    def tick(self) -> bool:
        """A step has ended. Returns whether it was the last. Waits for the GPU only where the time counts."""
        if len(self.ends) + 1 in (1, WARM_UP, self.steps):
            synchronize()
        self.ends.append(time.perf_counter())
        return len(self.ends) >= self.steps

    def result(self) -> dict:
        seconds = self.ends[self.steps - 1] - self.ends[WARM_UP - 1]
        return {"tokens_per_second": sum(self.tokens[WARM_UP : self.steps]) / seconds}


def training_texts(setting: Setting, clock: Clock) -> tuple[list[str], np.ndarray]:
    """The texts to train on and their targets, float32 (texts,)."""
    config, table = setting.config(), setting.table(clock.steps)
    table = table[table["fold"] != 0]
    return table[config.text_column].tolist(), table[config.target_columns[0]].to_numpy(dtype=np.float32)


# --- the published loop ------------------------------------------------------------------------------------


def published(setting: Setting, clock: Clock) -> None:
    """Train with the published loop until the clock stops it."""
    from madgrad import MADGRAD

    texts, targets = training_texts(setting, clock)
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


# --- the Trainer and Lightning -----------------------------------------------------------------------------


def ordinary_parts(setting: Setting, clock: Clock):
    """For the Trainer and Lightning: tokenised rows, our batches of row numbers, a model, and a collator."""
    texts, targets = training_texts(setting, clock)
    config = setting.config()
    source = encoder_source(config.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoded = tokenizer(texts, max_length=setting.length, truncation=True)
    rows = [{**{k: encoded[k][i] for k in encoded}, "labels": float(targets[i])} for i in range(len(texts))]
    batches = training_batches([len(ids) for ids in encoded["input_ids"]], setting.batch, config.seed, 0)
    whole = [batch for batch in batches if len(batch) == setting.batch]
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=torch.float32, **no_dropout
    )
    pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)

    def collate(features):
        batch = pad(features)
        clock.read(batch["attention_mask"])
        return batch

    return rows, whole, model.train(), collate


def trainer(setting: Setting, clock: Clock) -> None:
    """Train with Hugging Face's Trainer until the clock stops it."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows, batches, model, collate = ordinary_parts(setting, clock)

    class SameBatches(Trainer):
        def _get_train_sampler(self, *_):
            return [row for batch in batches for row in batch]

    class Tick(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            control.should_training_stop = clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=setting.batch,
            learning_rate=5e-5,
            bf16=setting.precision == "bf16",
            fp16=setting.precision == "fp16",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
            # Without these two it waits for the GPU.
            logging_nan_inf_filter=False,
            accelerator_config={"non_blocking": True},
        )
        SameBatches(model, arguments, collate, rows, callbacks=[Tick()]).train()


def lightning(setting: Setting, clock: Clock) -> None:
    """Train with Lightning and its SWA callback until the clock stops it."""
    import lightning as pl
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    rows, batches, model, collate = ordinary_parts(setting, clock)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(
                self.parameters(), lr=5e-5
            )  # Lightning clips no gradients of a fused one

        def on_train_batch_end(self, *_):
            self.trainer.should_stop = clock.tick()

    loader = DataLoader(rows, batch_sampler=batches, collate_fn=collate, pin_memory=torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as folder:
        pl_trainer = pl.Trainer(
            max_epochs=2,
            min_epochs=0,
            precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[setting.precision],
            gradient_clip_val=1.0,
            logger=False,
            devices=1,
            callbacks=[StochasticWeightAveraging(2.5e-5, swa_epoch_start=1)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        pl_trainer.fit(Module(), loader)


# --- ours --------------------------------------------------------------------------------------------------


def ours(setting: Setting, clock: Clock) -> None:
    """Train with our loop until the clock stops it."""
    training = prepare(setting.config(), setting.table(clock.steps), 0)
    lengths = training.train.lengths
    clock.tokens = [sum(lengths[row] for row in batch) for batch in training.batches(0)]
    for _ in train_epoch(training, 0):
        check_whole_batches(training)
        if clock.tick():
            return
