from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from utils.modeling.losses import LOSSES, Loss

TORCH = {
    "mse": F.mse_loss,
    "rmse": lambda outputs, targets: F.mse_loss(outputs, targets).sqrt(),
    "smooth_l1": F.smooth_l1_loss,
}


class SoftF1(Loss):
    """1 - F1, computed on probabilities. Three statistics, and the loss is a ratio of them."""

    n_statistics = 3

    def statistics(self, outputs, targets):
        share = outputs.sigmoid()
        return torch.stack(
            [(share * targets).sum(), (share * (1 - targets)).sum(), ((1 - share) * targets).sum()]
        )

    def reduce(self, means):
        true, false, missed = means
        return 1 - 2 * true / (2 * true + false + missed)


def make_loss(name):
    return SoftF1() if name == "soft_f1" else LOSSES[name]([2.0, 0.5])


@pytest.mark.parametrize("name", TORCH)
def test_losses_equal_torchs_in_units_of_the_scale(name):
    outputs, targets, scale = torch.randn(5, 2), torch.randn(5, 2), torch.tensor([2.0, 0.5])
    torch.testing.assert_close(
        make_loss(name)(outputs, targets), TORCH[name](outputs / scale, targets / scale)
    )


@given(
    name=st.sampled_from([*TORCH, "soft_f1"]),
    cuts=st.lists(st.integers(1, 11), max_size=5),
    seed=st.integers(0, 99),
)
def test_any_split_of_a_batch_gives_the_whole_batchs_gradient(name, cuts, seed):
    """The computation of the training loop, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    loss = make_loss(name).double()
    outputs = torch.randn(12, 2, dtype=torch.float64, generator=generator).requires_grad_()
    targets = (torch.rand(12, 2, generator=generator) > 0.5).double()
    (expected,) = torch.autograd.grad(loss(outputs, targets), outputs)
    ends = sorted({0, 12, *cuts})
    parts = [slice(start, end) for start, end in pairwise(ends)]
    counts = sum(loss.counts(targets[part]) for part in parts)
    means = sum(loss.statistics(outputs[part], targets[part]) / counts for part in parts).detach()
    torch.testing.assert_close(loss.reduce(means), loss(outputs, targets).detach(), check_dtype=False)
    slopes = loss.slopes(means)
    gradient = torch.zeros_like(outputs)
    for part in parts:
        share = (slopes * loss.statistics(outputs[part], targets[part]) / counts).sum()
        gradient += torch.autograd.grad(share, outputs)[0]
    torch.testing.assert_close(gradient, expected)


def test_an_additive_loss_needs_no_outer_factor():
    assert [name for name in TORCH if make_loss(name).is_additive] == ["mse", "smooth_l1"]
    assert not SoftF1().is_additive
