"""Shared by the tests of trained folds and of interrupted training."""

import numpy as np
import pandas as pd
import torch

from utils.runs import artifacts, fold

OPTIONS = {
    "epochs": 4,
    "swa_start": 1.0,
    "swa_every": 2,
    "eval_every": 2,
    "batch_size": 4,
    "accumulation_steps": 2,
    "encoder_dropout": 0.1,
    "optimizer": "madgrad",
    "lr": 1e-3,
}


class Stop(Exception):  # noqa: N818 - not an error
    """Raised by the tests to interrupt training."""


def stop_after(step, monkeypatch):
    """Make training raise Stop after an optimizer step, before anything is saved for it.

    Returns:
        A function that undoes this.
    """

    def stop():
        raise Stop

    return call_at(step, stop, monkeypatch)


def call_at(step, action, monkeypatch):
    """Call ``action`` after an optimizer step, before anything is saved for it; returns what undoes this."""
    check_divergence = fold.check_divergence

    def check(training):
        if training.step == step:
            action()
        check_divergence(training)

    monkeypatch.setattr(fold, "check_divergence", check)
    return lambda: monkeypatch.setattr(fold, "check_divergence", check_divergence)


def held_out_rows(table, fold=0):
    return table[table["fold"] == fold]


def scores_of(folder, texts):
    """The scores of each text on its own, by the model in a folder of weights; (texts, targets)."""
    model, tokenizer = artifacts.load_model(folder)
    inputs = [tokenizer(text, truncation=True, return_tensors="pt") for text in texts]
    with torch.no_grad():
        return np.stack([model(**one).logits[0].numpy() for one in inputs])


def after_each(scores, metric, factor):
    """The share of its peak that a plateau of patience 1 leaves after each score."""
    shares, best = [1.0], None
    for score in scores:
        better = best is None or metric.is_better(score, best)
        shares.append(shares[-1] * (1 if better else factor))
        best = score if better else best
    return shares[1:]


def contents(folder):
    """A fold's results without timings. Weights and predictions are bytes, to be compared bit by bit."""
    results = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors" or path.name in ("predictions.csv", "samples.jsonl"):
            results[str(path.relative_to(folder))] = path.read_bytes()
    timings = ["seconds", "samples_per_second"]
    results["history"] = pd.read_csv(folder / "history.csv").drop(columns=timings)
    result = artifacts.read_result(folder)
    results["result"] = {name: value for name, value in result.items() if name not in timings}
    return results


def assert_same(a, b):
    """Two folds have the same results, bit by bit."""
    a, b = contents(a), contents(b)
    assert set(a) == set(b)
    for name, value in a.items():
        if name == "history":
            pd.testing.assert_frame_equal(value, b[name], check_exact=True)
        else:
            assert value == b[name], name
