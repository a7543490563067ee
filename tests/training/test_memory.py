"""A device that runs out of memory: the step is repeated in smaller parts."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch

from utils.config import InputError
from utils.data import tokens
from utils.modeling.model import TextModel
from utils.runs.fold import fit_fold
from utils.training.loop import add_gradients
from utils.training.memory import retry_in_smaller_parts
from utils.training.setup import prepare


def first_batch(training):
    return next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))


@pytest.mark.parametrize("limit", [3, 1])
def test_running_out_of_memory_halves_the_micro_batches(limit, tiny, tiny_table, monkeypatch, capsys):
    """A device that holds ``limit`` texts gives the weights of a larger one, and prints what it does."""
    options = {"head_dropout": 0, "batch_size": 8, "loss": "rmse", "accumulation_steps": 2}
    plain = fit_fold(tiny(run="plain", **options), tiny_table)
    forward = TextModel.forward

    def limited(model, **inputs):
        if model.training and len(inputs["input_ids"]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, **inputs)

    monkeypatch.setattr(TextModel, "forward", limited)
    capsys.readouterr()
    tight = fit_fold(tiny(run="tight", **options), tiny_table)
    printed = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    message = "Step 1: out of memory, so micro-batches are taken in {} parts from here."
    assert printed == [message.format(parts) for parts in {3: (2, 4), 1: (2, 4, 8)}[limit]]
    a, b = (pd.read_csv(folder / "predictions.csv") for folder in (plain, tight))
    np.testing.assert_allclose(a[["last", "averaged"]], b[["last", "averaged"]], atol=1e-4)


def test_a_repeated_step_begins_with_the_same_random_state(tiny, tiny_table, monkeypatch):
    training = prepare(tiny(encoder_dropout=0.5, batch_size=4), tiny_table, 0)
    batch = first_batch(training)
    torch.manual_seed(1)
    expected = add_gradients(training, batch.split(2))
    training.optimizer.zero_grad()
    forward, batch_sizes = TextModel.forward, []

    def fail_once(model, **inputs):
        batch_sizes.append(len(inputs["input_ids"]))
        output = forward(model, **inputs)  # draws dropout masks, which the repetition must draw again
        if len(batch_sizes) == 1:
            raise torch.OutOfMemoryError
        return output

    monkeypatch.setattr(TextModel, "forward", fail_once)
    torch.manual_seed(1)
    assert torch.equal(retry_in_smaller_parts(training, [batch], add_gradients), expected)
    assert batch_sizes == [4, 2, 2]


def test_a_failed_backward_pass_frees_its_memory_before_the_next_attempt(tiny, tiny_table, monkeypatch):
    """Otherwise the device would have to hold the outputs of both attempts."""
    training = prepare(tiny(batch_size=4), tiny_table, 0)
    batch = first_batch(training)
    forward, backward = TextModel.forward, training.backend.backward
    outputs = []
    alive = []  # per forward pass: whether the outputs of an earlier one are still in memory

    def watched(model, **inputs):
        alive.append(any(reference() is not None for reference in outputs))
        output = forward(model, **inputs)
        outputs.append(weakref.ref(output["logits"]))
        return output

    def fail_once(loss, last):
        if len(alive) == 1:
            raise torch.OutOfMemoryError
        backward(loss, last)

    monkeypatch.setattr(TextModel, "forward", watched)
    monkeypatch.setattr(training.backend, "backward", fail_once)
    retry_in_smaller_parts(training, [batch], add_gradients)
    assert len(alive) == 3
    assert not alive[1]


def test_memory_that_does_not_hold_one_text_is_reported(tiny, tiny_table, monkeypatch):
    def fail(model, **inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(TextModel, "forward", fail)
    with pytest.raises(InputError, match="does not hold one text at a time; lower max_length"):
        fit_fold(tiny(), tiny_table)
