"""Gradients are summed in buckets, and a process that runs out of memory lets no other one wait."""

import pytest
import torch
from torch import nn

from tests.machine.test_distributed import EQUAL, assert_close
from tests.modeling.test_losses import SoftF1
from utils.machine import buckets, distributed
from utils.modeling.model import TextModel
from utils.runs import fold
from utils.runs.fold import fit_fold
from utils.training.setup import prepare


def full(value):
    return pytest.param(value, marks=pytest.mark.full)


def test_buckets_hold_every_weight_once_of_one_type_the_last_first():
    kinds = [(torch.float16, 5), (torch.float16, 9), (torch.float32, 5), (torch.float32, 9)]
    weights = [nn.Parameter(torch.zeros(size, dtype=dtype)) for dtype, size in kinds]
    groups = list(buckets.grouped(weights))
    assert [weight for group in groups for weight in group] == weights[::-1]
    assert [{weight.dtype for weight in group} for group in groups] == [{torch.float32}, {torch.float16}]


def test_one_process_takes_no_memory_for_buckets():
    assert buckets.GradientSums(nn.Linear(3, 3)).buckets == []


@pytest.fixture
def small_buckets(monkeypatch):
    """Buckets of which the tiny encoder fills several."""
    monkeypatch.setattr(buckets, "SIZE", 5000)


@pytest.mark.timeout(60)
def test_many_buckets_give_the_result_of_one_process(small_buckets, tiny, tiny_table):
    options = {**EQUAL, "epochs": 2, "loss": "rmse", "accumulation_steps": 2}
    assert_close(*(fit_fold(tiny(run=f"on {n}", devices=n, **options), tiny_table) for n in (1, 2)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [2, full(1), full(7)])
def test_memory_running_out_between_two_buckets(number, small_buckets, tiny, tiny_table, monkeypatch, capfd):
    """One process has begun to sum some buckets, the other perhaps all of them."""
    one = fit_fold(tiny(run="one", **EQUAL), tiny_table)
    fill, calls = buckets.Bucket.fill, []

    def fail_once(bucket):
        calls.append(bucket)
        if len(calls) == number and distributed.processes().process_index == 1:
            raise torch.OutOfMemoryError
        fill(bucket)

    monkeypatch.setattr(buckets.Bucket, "fill", fail_once)
    capfd.readouterr()
    several = fit_fold(tiny(run="several", devices=2, **EQUAL), tiny_table)
    assert capfd.readouterr().out.count("out of memory") == 1
    assert_close(one, several)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("gradients", [False, full(True)])
def test_memory_running_out_in_either_pass_of_a_loss_of_several_statistics(
    gradients, tiny, tiny_table, monkeypatch, capfd
):
    """While one process runs out in the pass without gradients, the other waits for its word there."""

    def with_soft_f1(*arguments):
        training = prepare(*arguments)
        training.task.loss = SoftF1()
        return training

    monkeypatch.setattr(fold, "prepare", with_soft_f1)
    one = fit_fold(tiny(run="one", **EQUAL), tiny_table)
    forward = TextModel.forward

    def limited(model, **inputs):
        large = model.training and len(inputs["input_ids"]) > 1 and torch.is_grad_enabled() == gradients
        if large and distributed.processes().process_index == 1:
            raise torch.OutOfMemoryError
        return forward(model, **inputs)

    monkeypatch.setattr(TextModel, "forward", limited)
    capfd.readouterr()
    several = fit_fold(tiny(run="several", devices=2, **EQUAL), tiny_table)
    assert "out of memory" in capfd.readouterr().out
    assert_close(one, several)
