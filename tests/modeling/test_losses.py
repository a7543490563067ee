from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from utils.modeling.losses import LOSSES, Loss, RegressionLoss

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
    missing=st.sampled_from([0.0, 0.3, 0.7]),
    seed=st.integers(0, 99),
)
def test_any_split_of_a_batch_gives_the_whole_batchs_gradient(name, cuts, missing, seed):
    """The computation of the training loop, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    loss = make_loss(name).double()
    outputs = torch.randn(12, 2, dtype=torch.float64, generator=generator).requires_grad_()
    targets = (torch.rand(12, 2, generator=generator) > 0.5).double()
    if name != "soft_f1":
        targets[:, 1][torch.rand(12, generator=generator) < missing] = float("nan")
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


class Root(RegressionLoss):
    """Neither zero nor smooth where outputs and targets are equal."""

    def elementwise(self, outputs, targets):
        return (outputs - targets).abs().sqrt() + 1


@pytest.mark.parametrize("make", [*(LOSSES[name] for name in TORCH), Root])
def test_missing_targets_count_nowhere(make):
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 9, 2, generator=generator)
    outputs = outputs.requires_grad_()
    known = torch.rand(9, 2, generator=generator) > 0.4
    loss = make([1.0, 1.0])
    (gradient,) = torch.autograd.grad(loss(outputs, targets.where(known, torch.nan)), outputs)
    single = make([1.0])
    expected = single(outputs[known][:, None], targets[known][:, None])
    torch.testing.assert_close(loss(outputs, targets.where(known, torch.nan)), expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])
    assert (gradient[~known] == 0).all()


@pytest.mark.parametrize("name", TORCH)
def test_complete_targets_give_the_same_bits_as_ever(name):
    outputs, targets = torch.randn(2, 33, 6)
    loss = LOSSES[name]([2.0, 0.5, 1.0, 3.0, 0.1, 1.0])
    plain = loss.elementwise(outputs / loss.scale, targets / loss.scale).sum().unsqueeze(0)
    assert torch.equal(loss.statistics(outputs, targets), plain)
    assert torch.equal(loss.counts(targets), torch.tensor([33.0 * 6]))


def test_a_single_target_is_never_missing():
    loss = LOSSES["mse"]([1.0])
    assert loss(torch.zeros(2, 1), torch.tensor([[1.0], [float("nan")]])).isnan()
