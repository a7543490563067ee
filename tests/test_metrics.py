import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.losses import LOSSES
from utils.metrics import batch_rmse, score


def test_one_target():
    targets, predictions = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [5.0]])
    scores = score(targets, predictions, ["target"])
    assert scores["rmse"] == pytest.approx(3**0.5)
    assert scores["spearman"] == 1.0
    assert scores["r2"] == pytest.approx(1 - 9 / 2)
    assert set(scores) == {"rmse", "pearson", "spearman", "r2"}


def test_several_targets_give_their_mean_and_each():
    targets = np.zeros((4, 2)) + np.arange(4)[:, None]
    predictions = targets + np.array([1.0, 3.0])
    scores = score(targets, predictions, ["a", "b"])
    assert (scores["rmse"], scores["rmse a"], scores["rmse b"]) == (2.0, 1.0, 3.0)
    assert scores["pearson"] == pytest.approx(1.0)


def test_a_constant_target_has_no_correlation():
    assert np.isnan(score(np.ones((3, 1)), np.arange(3.0)[:, None], ["t"])["pearson"])
    assert np.isnan(score(np.ones((1, 1)), np.ones((1, 1)), ["t"])["r2"])


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=40).filter(lambda errors: len(errors) % 4 == 0))
def test_the_batch_average_never_reads_higher_over_whole_batches(errors):
    targets = np.zeros((len(errors), 1))
    predictions = np.array(errors)[:, None]
    assert batch_rmse(targets, predictions) <= score(targets, predictions, ["t"])["rmse"] + 1e-12


def test_losses_are_torchs():
    scores, labels = torch.randn(5, 2), torch.randn(5, 2)
    expected = {
        "mse": torch.nn.functional.mse_loss(scores, labels),
        "rmse": torch.nn.functional.mse_loss(scores, labels).sqrt(),
        "smooth_l1": torch.nn.functional.smooth_l1_loss(scores, labels),
    }
    for name, loss in LOSSES.items():
        torch.testing.assert_close(loss.outer(loss.elementwise(scores, labels).mean()), expected[name])


def test_the_slope_of_a_loss_is_its_derivative():
    mean = torch.tensor(0.37, requires_grad=True)
    LOSSES["rmse"].outer(mean).backward()
    torch.testing.assert_close(LOSSES["rmse"].slope(mean.detach()), mean.grad)
