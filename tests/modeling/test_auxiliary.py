"""A pooling's own loss beside the task's: exact however a batch is split."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.modeling.test_losses import TORCH, make_loss
from utils.modeling.auxiliary import AuxiliaryLoss


@given(
    name=st.sampled_from([*TORCH, "soft_f1"]),
    share=st.sampled_from([0.0, 0.3, 0.9]),
    cuts=st.lists(st.integers(1, 11), max_size=5),
    seed=st.integers(0, 99),
)
def test_any_split_of_a_batch_gives_the_whole_batchs_gradient(name, share, cuts, seed):
    """Of a text's loss and of its terms, whose numbers differ from text to text."""
    generator = torch.Generator().manual_seed(seed)
    inner = make_loss(name).double()
    loss = AuxiliaryLoss(inner, share)
    outputs = torch.randn(12, 2, dtype=torch.float64, generator=generator).requires_grad_()
    own = torch.rand(12, dtype=torch.float64, generator=generator).requires_grad_()
    targets = (torch.rand(12, 2, generator=generator) > 0.5).double()
    terms = torch.randint(1, 9, (12,), generator=generator)
    whole = (1 - share) * inner(outputs, targets) + share * own.sum() / terms.sum()
    expected = torch.autograd.grad(whole, [outputs, own])
    parts = [slice(start, end) for start, end in pairwise(sorted({0, 12, *cuts}))]
    counts = sum(loss.counts(targets[part], terms[part].sum()) for part in parts)
    shares = [loss.statistics(outputs[part], targets[part], own[part]) / counts for part in parts]
    means = sum(shares).detach()
    torch.testing.assert_close(loss.reduce(means), whole.detach(), check_dtype=False)
    slopes = torch.ones_like(means) if loss.is_additive else loss.slopes(means)
    gradients = torch.autograd.grad(sum((slopes * part).sum() for part in shares), [outputs, own])
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("name", [*TORCH, "soft_f1"])
def test_a_second_pass_is_needed_only_where_the_tasks_loss_needs_one(name):
    assert AuxiliaryLoss(make_loss(name), 0.3).is_additive == make_loss(name).is_additive
