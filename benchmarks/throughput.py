"""Training speed side by side: the published loop, Hugging Face's Trainer, Lightning with its SWA callback, and ours.

    python -m benchmarks.throughput [--data DATA] [--rows 160] [--repeats 5]

Each contestant trains on the same texts, in batches of 16, with the same encoder, in a process of its own (so that no
one's settings help another), in turns; medians count. Two steps warm up, the rest of an epoch is timed. "Published" is
the loop of the published notebook, written anew with its waste: texts tokenised when asked for and padded to the
maximum, garbage collected in each forward pass, a wait for the loss at each step, the package's MADGRAD, float32 (its
log is without Apex). The Trainer and Lightning have what an attentive user would give them: bfloat16, padding to the
longest text of a batch, by length and AdamW in one kernel where these are options. Lightning: pip install lightning.

DATA is what ``Config.data`` takes. Writes benchmarks/throughput.json and prints the table of benchmarks/RESULTS.md.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from utils import data, resume, runtime, train
from utils.config import Config
from utils.data import add_folds, load_table
from utils.fold import describe
from utils.model import encoder_source

NAMES = {"published": "published loop", "trainer": "HF Trainer", "lightning": "Lightning, SWA", "ours": "ours"}
WARM_UP, BATCH, LENGTH = 2, 16, 256


class Clock:
    """Stops the time at the end of each step, and ends the training after the last one of interest."""

    def __init__(self):
        self.ends = []

    def tick(self) -> None:
        self.ends.append(time.perf_counter())

    def result(self) -> dict:
        seconds = self.ends[-1] - self.ends[WARM_UP - 1]
        return {"seconds_per_step": seconds / (len(self.ends) - WARM_UP), "steps": len(self.ends)}


def texts_of(asked) -> tuple[Config, list[str], np.ndarray]:
    """The texts and targets that all train on: ``rows`` random ones outside fold 0."""
    config = Config.make("clear" if asked.data != "sample" else "demo", data=asked.data, max_length=LENGTH)
    table = add_folds(load_table(config), config)
    table = table[table["fold"] != 0].sample(asked.rows, random_state=0)
    return config, table[config.text_column].tolist(), table["target"].to_numpy(dtype=np.float32)


def published(asked, clock: Clock) -> None:
    from madgrad import MADGRAD

    config, texts, targets = texts_of(asked)
    source = encoder_source(config.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = AutoModel.from_pretrained(source, output_hidden_states=True)
            layers, width = self.encoder.config.num_hidden_layers + 1, self.encoder.config.hidden_size
            self.weights = nn.Parameter(torch.tensor([-3.0] * (layers - 1) + [0.0]).view(-1, 1, 1))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)
            self.dropouts = nn.ModuleList(nn.Dropout(0.5) for _ in range(5))

        def forward(self, **inputs):
            states = torch.stack([state[:, 0] for state in self.encoder(**inputs).hidden_states])
            pooled = self.norm((torch.softmax(self.weights, 0) * states).sum(0))
            gc.collect()
            return torch.stack([self.head(dropout(pooled)) for dropout in self.dropouts]).mean(0)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(texts)

        def __getitem__(self, i):
            found = tokenizer(texts[i].replace("\n", ""), max_length=LENGTH, padding="max_length", truncation=True)
            return {name: torch.tensor(value) for name, value in found.items()}, torch.tensor(targets[i])

    model = Model().train()
    optimizer = MADGRAD(model.parameters(), lr=2e-5, weight_decay=1e-5)
    for inputs, labels in DataLoader(Rows(), BATCH, shuffle=True):
        loss = torch.sqrt(nn.functional.mse_loss(model(**inputs).view(-1), labels))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        clock.tick()


def ordinary(asked):
    """What the Trainer and Lightning are given: tokens, a model with a head, a collator that pads to the longest."""
    config, texts, targets = texts_of(asked)
    source = encoder_source(config.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokens = tokenizer(texts, max_length=LENGTH, truncation=True)
    rows = [{**{name: tokens[name][i] for name in tokens}, "labels": float(targets[i])} for i in range(len(texts))]
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # as ours; with it, attention is slower
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, **off)
    return rows, model.train(), tokenizer


def trainer(asked, clock: Clock) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows, model, tokenizer = ordinary(asked)

    class Tick(TrainerCallback):
        def on_step_end(self, *_, **__):
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=5e-5, bf16=asked.bf16,
            train_sampling_strategy="group_by_length", report_to=[], save_strategy="no", disable_tqdm=True,
            logging_strategy="no", use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        Trainer(model, arguments, DataCollatorWithPadding(tokenizer), rows, callbacks=[Tick()]).train()


def lightning(asked, clock: Clock) -> None:
    import lightning as pl
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    rows, model, tokenizer = ordinary(asked)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=5e-5)  # Lightning clips no gradients of a fused one

        def on_train_batch_end(self, *_):
            clock.tick()
            self.trainer.should_stop = len(clock.ends) >= len(rows) // BATCH

    with tempfile.TemporaryDirectory() as folder:
        fit = pl.Trainer(
            max_epochs=2, precision="bf16-mixed" if asked.bf16 else "32-true", gradient_clip_val=1.0, logger=False,
            callbacks=[StochasticWeightAveraging(2.5e-5, swa_epoch_start=1)], enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, min_epochs=0,
        )  # fmt: skip
        collate = DataCollatorWithPadding(tokenizer)
        fit.fit(Module(), DataLoader(rows, BATCH, shuffle=True, collate_fn=collate))


def prepared(asked) -> train.Training:
    """Our training on the same texts."""
    config = texts_of(asked)[0]
    precision = "auto" if asked.bf16 else "fp32"
    config = Config.make(config.preset, data=asked.data, precision=precision, epochs=1, swa_start=0.5, swa_every=2)
    table = add_folds(load_table(config), config)
    outside, held_out = table[table["fold"] != 0], table[table["fold"] == 0]
    outside = outside.sample(asked.rows, random_state=0)
    return train.prepare(config, pd.concat([outside, held_out]), 0)


def ours(asked, clock: Clock) -> None:
    for _ in train.train_epoch(prepared(asked), 0):
        clock.tick()


# --- the phases of ours ------------------------------------------------------------------------------------------


def phases(asked) -> dict[str, float]:
    """Seconds that each part of our training takes, each call of it: on a CPU nothing runs on behind its back."""
    spent: dict[str, list[float]] = {}

    def timed(name, function):
        def call(*arguments, **options):
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent.setdefault(name, []).append(time.perf_counter() - began)

        return call

    data.tokenize = timed("tokenise", data.tokenize)
    found = prepared(asked)
    found.backend.backward = timed("backward", found.backend.backward)
    found.backend.clip = timed("clip", found.backend.clip)
    found.optimizer.step = timed("optimizer", found.optimizer.step)
    found.averager.update = timed("averaging", found.averager.update)
    train.add_gradients = timed("forward and backward", train.add_gradients)
    for _ in train.train_epoch(found, 0):
        pass
    held_out = len(found.held_out.ids)
    with tempfile.TemporaryDirectory() as folder:
        timed("evaluation, raw and averaged", train.evaluate)(found)
        about = describe(found, found.held_out.ids, "")
        timed("saving a state", resume.save_state)(found, Path(folder), about, resume.Progress())
    medians = {name: statistics.median(values) for name, values in spent.items()}
    medians["tokenise"] = sum(spent["tokenise"]) / (asked.rows + held_out)
    medians["forward"] = medians.pop("forward and backward") - medians["backward"]
    medians["evaluation, raw and averaged"] /= 2 * held_out
    return medians


# --- the table ---------------------------------------------------------------------------------------------------


def matrix_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations a second that a large matrix product reaches here: the limit."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    times = []
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[2:])


def flops_of_a_text(asked) -> tuple[float, float]:
    """Of a training step's own matrix products, and tokens: means over the texts, padding not counted."""
    config, texts, _ = texts_of(asked)
    encoder = AutoModel.from_pretrained(encoder_source(config.encoder)).config
    tokenizer = AutoTokenizer.from_pretrained(encoder_source(config.encoder))
    lengths = np.array([len(row) for row in tokenizer(texts, max_length=LENGTH, truncation=True)["input_ids"]])
    width, inner = encoder.hidden_size, encoder.intermediate_size
    each = 2 * (4 * width**2 + 2 * width * inner) * lengths + 4 * width * lengths**2
    return float(3 * encoder.num_hidden_layers * each.mean()), float(lengths.mean())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--rows", type=int, default=144)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fp32", dest="bf16", action="store_false", help="all contestants in float32")
    parser.add_argument("--one", choices=[*NAMES, "phases"], help="one contestant, once, in this process")
    asked = parser.parse_args()
    if asked.one == "phases":
        print(json.dumps(phases(asked)))
        return
    if asked.one:
        clock, began = Clock(), time.time() - float(os.environ.get("BEGAN", time.time()))
        loaded = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            globals()[asked.one](asked, clock)
        first = began + clock.ends[0] - loaded
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({**clock.result(), "to_first_step": first, "peak_gib": peak}))
        return
    compare(asked)


def compare(asked) -> None:
    words = ["--data", asked.data, "--rows", str(asked.rows), *([] if asked.bf16 else ["--fp32"])]

    def measure(name: str) -> dict | None:
        command = [sys.executable, "-m", "benchmarks.throughput", "--one", name, *words]
        environment = {**os.environ, "BEGAN": str(time.time()), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return None
        return json.loads(done.stdout.splitlines()[-1])

    found, limits = {name: [] for name in NAMES}, []
    for turn in range(asked.repeats):
        limits.append((matrix_rate(torch.float32), matrix_rate(torch.bfloat16)))
        for name in NAMES:
            if (one := measure(name)) is not None:
                found[name].append(one)
                print(f"turn {turn + 1}, {NAMES[name]}: {one['seconds_per_step']:.3f} s a step", flush=True)
    flops, tokens = flops_of_a_text(asked)
    rows = []
    for name, runs in found.items():
        if runs:
            step = statistics.median(run["seconds_per_step"] for run in runs)
            half = asked.bf16 and name != "published"
            limit = statistics.median(pair[half] for pair in limits)
            rows.append({
                "name": NAMES[name], "samples_per_second": BATCH / step, "tokens_per_second": BATCH * tokens / step,
                "share": BATCH * flops / step / limit, "gib": statistics.median(run["peak_gib"] for run in runs),
                "to_first_step": statistics.median(run["to_first_step"] for run in runs),
                "steps": [round(run["seconds_per_step"], 4) for run in runs],
            })  # fmt: skip
    result = {"machine": runtime.device_name(), "date": time.strftime("%Y-%m-%d"), "rows": asked.rows,
              "tokens_per_text": tokens, "limits": limits, "table": rows, "phases": measure("phases")}  # fmt: skip
    name = "throughput" if asked.bf16 else "throughput-fp32"
    Path(__file__).with_name(f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    ours_step = next(row["samples_per_second"] for row in rows if row["name"] == "ours")
    print("| | samples/s | tokens/s | share of the matrix rate | peak memory, GiB | to the first step, s | ours is |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [
            f"{row['samples_per_second']:.1f}", f"{row['tokens_per_second']:.0f}", f"{row['share']:.0%}",
            f"{row['gib']:.1f}", f"{row['to_first_step']:.1f}", f"{ours_step / row['samples_per_second']:.2f} ×",
        ]  # fmt: skip
        print(f"| {row['name']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
