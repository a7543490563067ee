"""Steps of training: accumulation, gradients, clipping, evaluation."""

import numpy as np
import pytest
import torch

from tests.modeling.test_losses import SoftF1
from utils.data import tokens
from utils.machine import precision, runtime
from utils.training import loop, setup
from utils.training.build import build_model
from utils.training.loop import add_gradients, evaluate, train_epoch
from utils.training.setup import prepare


@pytest.mark.skipif(runtime.device().type != "cpu", reason="GPUs keep torch's attention in every precision")
@pytest.mark.parametrize(("chosen", "implementation"), [("fp32", "sdpa"), ("bf16", "eager")])
def test_attention_is_the_faster_one_on_a_cpu(chosen, implementation, tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device_type: True)  # nothing is computed in it here
    training = prepare(tiny(precision=chosen), tiny_table, 0)
    assert training.model.encoder.config._attn_implementation == implementation
    assert training.averager.model.encoder.config._attn_implementation == implementation


@pytest.mark.parametrize("loss", ["mse", "rmse", "smooth_l1"])
def test_accumulation_gives_the_same_weights_as_whole_batches(tiny, tiny_table, loss):
    """Each step takes the same rows, as one batch or as micro-batches, whatever the loss."""
    states = []
    for micro_batch in (8, 2):
        config = tiny(head_dropout=0, loss=loss, batch_size=micro_batch, accumulation_steps=8 // micro_batch)
        training = prepare(config, tiny_table, 0)
        order = np.arange(len(training.train))[: len(training.train) // 8 * 8]
        batches = order.reshape(-1, micro_batch).tolist()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "training_batches", lambda *_, batches=batches: batches)
            steps = list(train_epoch(training, 0))
        assert len(steps) == len(order) // 8
        states.append(training.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loss_of_several_statistics_has_the_whole_batchs_gradient(dropout, tiny, tiny_table):
    """Without dropout, in any number of parts.

    With dropout it is checked in one part, whose single forward pass draws the same masks.
    """
    training = prepare(tiny(head_dropout=dropout, batch_size=12), tiny_table, 0)
    training.task.loss = SoftF1()
    batch = next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))
    batch = batch._replace(targets=(batch.targets > 0).float())
    torch.manual_seed(1)
    training.model.train()
    expected = training.task.loss(training.model(**batch.inputs)["logits"], batch.targets)
    gradients = torch.autograd.grad(expected, list(training.model.parameters()))
    for parts in (1, 2, 5) if dropout == 0 else (1,):
        torch.manual_seed(1)
        training.optimizer.zero_grad()
        means = add_gradients(training, batch.split(parts))
        torch.testing.assert_close(training.task.loss.reduce(means), expected)
        for weight, gradient in zip(training.model.parameters(), gradients, strict=True):
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped(tiny, tiny_table):
    norms = []
    training = prepare(tiny(max_grad_norm=0.01), tiny_table, 0)

    def watch(optimizer, args, kwargs):
        gradients = [parameter.grad for parameter in training.model.parameters()]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    training.rates.optimizer.register_step_pre_hook(watch)
    list(train_epoch(training, 0))
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_batch_norm_of_the_average_is_refreshed(tiny, tiny_table, monkeypatch):
    def with_batch_norm(*args):
        model, tokenizer = build_model(*args)
        model.head.norm = torch.nn.BatchNorm1d(32)
        return model, tokenizer

    monkeypatch.setattr(setup, "build_model", with_batch_norm)
    training = prepare(tiny(), tiny_table, 0)
    for epoch in range(2):
        list(train_epoch(training, epoch))
    norm = training.averager.model.head.norm
    before = norm.running_mean.clone()
    evaluate(training)
    assert not torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 3


def test_the_optimized_computations_train_the_same(tiny, tiny_table, monkeypatch):
    """Plain attention, AdamW and padding give the same losses, up to rounding."""

    def train(attention):
        training = prepare(tiny(head_dropout=0, epochs=4), tiny_table, 0)
        training.model.encoder.set_attn_implementation(attention)
        for epoch in range(4):
            list(train_epoch(training, epoch))
        return torch.stack(training.losses), next(training.model.parameters()).detach()

    adamw, collator = torch.optim.AdamW, tokens.DataCollatorWithPadding

    def plain_adamw(groups, fused, **options):
        return adamw(groups, foreach=False, **options)

    def full_padding(tokenizer, **options):
        return collator(tokenizer, "max_length", 64)

    fast = train("sdpa")
    monkeypatch.setattr(torch.optim, "AdamW", plain_adamw)
    monkeypatch.setattr(tokens, "DataCollatorWithPadding", full_padding)
    plain = train("eager")
    assert len(fast[0]) == 12
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert not torch.equal(one, other), "the plain computations did not run"


def test_predictions_are_in_the_order_of_the_table(tiny, tiny_table):
    # Batches are sorted by length, so texts of one length would not test the order of predictions.
    texts = [text[: 40 + 7 * (row % 30)] for row, text in enumerate(tiny_table["excerpt"])]
    table = tiny_table.assign(excerpt=texts)
    training = prepare(tiny(head_dropout=0, eval_batch_size=3), table, 0)
    predictions = loop.predict(training, training.wrapped, training.held_out)
    rows = [row.to_frame().T for _, row in table[table["fold"] == 0].iterrows()]
    alone = [training.task.encode(row, training.tokenizer) for row in rows]
    expected = [loop.predict(training, training.wrapped, examples)[0] for examples in alone]
    np.testing.assert_allclose(predictions, expected, atol=1e-5, rtol=0)
    assert np.ptp(predictions) > 1e-4, "all predictions are the same, so that their order is not tested"
