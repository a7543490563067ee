"""Losses of classes and grades: against torch or a formula written out, and over any split of a batch."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from utils.modeling.classification import (
    BCELoss,
    ClassLoss,
    CrossEntropyLoss,
    FocalLoss,
    SoftF1Loss,
    SoftmaxLoss,
    log_odds,
)
from utils.modeling.heads import Head, HeadConfig
from utils.modeling.losses import LOSSES
from utils.modeling.ordinal import CORALLoss, CORNLoss

CLASS_LOSSES = sorted(name for name, loss in LOSSES.items() if issubclass(loss, ClassLoss))
SIZES = {"bce": (2, 2)}


def make_loss(name):
    sizes = SIZES.get(name, (2, 4))
    options = {
        "class_weights": torch.linspace(0.5, 2, sum(sizes)).tolist(),
        "pos_weight": [0.5, 3.0],
        "label_smoothing": 0.1,
        "focal_gamma": 1.5,
        "smoothing": "others",
    }
    return LOSSES[name](sizes, **{option: options[option] for option in LOSSES[name].options}), sizes


@given(
    name=st.sampled_from(CLASS_LOSSES),
    cuts=st.lists(st.integers(1, 11), max_size=5),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_any_split_of_a_batch_gives_the_whole_batchs_gradient(name, cuts, missing, seed):
    """The computation of the training loop, in double precision, with two targets of different classes."""
    generator = torch.Generator().manual_seed(seed)
    loss, sizes = make_loss(name)
    loss = loss.double()
    n_outputs = sum(loss.n_outputs(size) for size in sizes)
    outputs = torch.randn(12, n_outputs, dtype=torch.float64, generator=generator).requires_grad_()
    targets = (torch.rand(12, 2, generator=generator) * torch.tensor(sizes)).floor().double()
    targets[torch.rand(12, 2, generator=generator) < missing] = float("nan")
    (expected,) = torch.autograd.grad(loss(outputs, targets), outputs)
    parts = [slice(start, end) for start, end in pairwise(sorted({0, 12, *cuts}))]
    counts = sum(loss.counts(targets[part]) for part in parts)
    means = sum(loss.statistics(outputs[part], targets[part]) / counts for part in parts).detach()
    bounds = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}  # counts are float32
    torch.testing.assert_close(loss.reduce(means), loss(outputs, targets).detach(), **bounds)
    slopes = loss.slopes(means)
    gradient = torch.zeros_like(outputs)
    for part in parts:
        share = (slopes * loss.statistics(outputs[part], targets[part]) / counts).sum()
        gradient += torch.autograd.grad(share, outputs)[0]
    torch.testing.assert_close(gradient, expected, **bounds)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_cross_entropy_is_torchs(smoothing, weights):
    logits, codes = torch.randn(8, 3), torch.arange(8) % 3
    expected = F.cross_entropy(
        logits, codes, torch.tensor(weights) if weights else None, label_smoothing=smoothing
    )
    loss = CrossEntropyLoss([3], weights, smoothing)
    torch.testing.assert_close(loss(logits, codes[:, None].float()), expected)


def test_the_tutorials_smoothing_leaves_one_minus_epsilon_on_the_true_class():
    logits, codes, epsilon = torch.randn(8, 4), torch.arange(8) % 4, 0.3
    truth = torch.full((8, 4), epsilon / 3).scatter(1, codes[:, None], 1 - epsilon)
    expected = -(truth * logits.log_softmax(dim=1)).sum(dim=1).mean()
    loss = CrossEntropyLoss([4], None, epsilon, "others")
    torch.testing.assert_close(loss(logits, codes[:, None].float()), expected)


def test_one_logit_for_two_classes_is_a_sigmoid():
    logits, codes = torch.randn(8, 1), torch.arange(8).float()[:, None] % 2
    expected = F.binary_cross_entropy_with_logits(logits, codes)
    torch.testing.assert_close(CrossEntropyLoss([2])(logits, codes), expected)
    torch.testing.assert_close(BCELoss([2])(logits, codes), expected)
    torch.testing.assert_close(SoftmaxLoss.probabilities(logits)[:, 1], logits[:, 0].sigmoid())


def test_bce_weighs_positives_and_smooths_as_tutorials_do():
    logits, codes = torch.randn(8, 2), (torch.rand(8, 2) > 0.5).float()
    smooth = codes * 0.8 + 0.1
    expected = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=torch.tensor([3.0, 0.5]))
    torch.testing.assert_close(BCELoss([2, 2], [3.0, 0.5], 0.2)(logits, codes), expected)


def test_bce_is_refused_for_three_classes():
    with pytest.raises(ValueError, match='"bce" is for two classes'):
        BCELoss([3])


def test_focal_loss_is_its_formula_and_without_gamma_cross_entropy():
    logits, codes, weights = torch.randn(8, 3), torch.arange(8) % 3, [0.5, 1.0, 3.0]
    p, weight = logits.softmax(dim=1)[torch.arange(8), codes], torch.tensor(weights)[codes]
    expected = (-weight * (1 - p) ** 2 * p.log()).sum() / weight.sum()
    torch.testing.assert_close(FocalLoss([3], weights)(logits, codes[:, None].float()), expected)
    without = FocalLoss([3], weights, 0.0)(logits, codes[:, None].float())
    torch.testing.assert_close(without, F.cross_entropy(logits, codes, torch.tensor(weights)))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_has_a_finite_gradient_where_the_model_is_sure(gamma):
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]]).requires_grad_()
    FocalLoss([3], focal_gamma=gamma)(logits, torch.zeros(2, 1)).backward()
    assert logits.grad.isfinite().all()


def test_soft_f1_of_certain_predictions_is_the_macro_f1_over_classes_present():
    codes, predicted = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 2, 3])
    logits = torch.eye(4)[predicted] * 1000
    expected = f1_score(codes, predicted, labels=[0, 1, 3], average="macro")
    loss = SoftF1Loss([4])(logits, torch.tensor(codes)[:, None].float())
    assert float(loss) == pytest.approx(1 - expected)


def test_soft_f1_of_two_classes_is_that_of_the_second():
    codes, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    logits = torch.tensor(predicted * 2000.0 - 1000)[:, None]
    loss = SoftF1Loss([2])(logits, torch.tensor(codes)[:, None].float())
    assert float(loss) == pytest.approx(1 - f1_score(codes, predicted))


def test_a_batch_without_a_single_member_of_the_scored_class_has_no_gradient_and_no_nan():
    logits = torch.randn(4, 1).requires_grad_()
    SoftF1Loss([2])(logits, torch.zeros(4, 1)).backward()
    assert (logits.grad == 0).all()


def test_coral_is_the_mean_over_cuts_and_gives_cumulative_probabilities():
    logits, codes = torch.randn(6, 3).sort(dim=1, descending=True).values, torch.tensor([0, 1, 2, 3, 3, 0])
    above = (codes[:, None] > torch.arange(3)).float()
    expected = F.binary_cross_entropy_with_logits(logits, above)
    torch.testing.assert_close(CORALLoss([4])(logits, codes[:, None].float()), expected)
    shares = CORALLoss.probabilities(logits)
    torch.testing.assert_close(shares.flip(1).cumsum(1).flip(1)[:, 1:], logits.sigmoid())


def test_corn_asks_each_cut_of_the_texts_above_the_one_before():
    logits, codes = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 3, 0])
    total, number = 0.0, 0
    for cut in range(3):
        rows = codes >= cut
        above = (codes[rows] > cut).float()
        total += F.binary_cross_entropy_with_logits(logits[rows, cut], above, reduction="sum")
        number += int(rows.sum())
    torch.testing.assert_close(CORNLoss([4])(logits, codes[:, None].float()), total / number)
    shares, z = CORNLoss.probabilities(logits), logits.sigmoid()
    torch.testing.assert_close(shares[:, 2], z[:, 0] * z[:, 1] * (1 - z[:, 2]))


@given(name=st.sampled_from(CLASS_LOSSES), size=st.integers(2, 6), seed=st.integers(0, 99))
def test_probabilities_add_up_to_one_whatever_the_logits(name, size, seed):
    logits = torch.randn(5, LOSSES[name].n_outputs(size), generator=torch.Generator().manual_seed(seed)) * 5
    shares = LOSSES[name].probabilities(logits)
    assert shares.shape == (5, size)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_log_odds_are_those_of_the_probabilities_and_never_saturate(n_outputs):
    logits = torch.randn(5, n_outputs)
    torch.testing.assert_close(log_odds(logits), SoftmaxLoss.probabilities(logits).logit())
    sure = torch.zeros(1, n_outputs).index_fill(1, torch.tensor([0]), 300.0).requires_grad_()
    log_odds(sure)[0, 0].backward()
    assert sure.grad.abs().max() == 1


@pytest.mark.parametrize("loss", [CORALLoss, CORNLoss])
def test_grades_start_at_the_training_rows_shares(loss):
    codes = torch.tensor([0] * 100 + [1] * 300 + [2] * 500 + [3] * 100)
    starts = loss([4]).starting_logits(codes, 4)
    torch.testing.assert_close(
        loss.probabilities(starts), torch.tensor([0.1, 0.3, 0.5, 0.1]), atol=0.003, rtol=0
    )


def test_outputs_that_share_a_direction_differ_by_a_bias_alone():
    head = Head(8, HeadConfig(("a", "b", "c"), shared=(2, 1), dropout=0.0))
    head.initialize()
    with torch.no_grad():
        head.biases.copy_(torch.tensor([1.0, -1.0, 0.0]))
    outputs = head(torch.arange(40.0).view(5, 8).sin())
    torch.testing.assert_close(outputs[:, 0] - outputs[:, 1], torch.full((5,), 2.0))
    assert (outputs[:, 0] - outputs[:, 2]).std() > 0.01
    assert head.linear.weight.shape == (2, 8)


def test_without_smoothing_or_weights_the_first_loss_is_that_of_a_guess():
    for name in ("cross_entropy", "focal", "corn"):
        loss = LOSSES[name]([5])
        value = loss(torch.zeros(10, loss.n_outputs(5)), torch.arange(10)[:, None] % 5.0)
        known = {"cross_entropy": math.log(5), "focal": 0.8**2 * math.log(5), "corn": math.log(2)}
        assert float(value) == pytest.approx(known[name], rel=1e-5)
