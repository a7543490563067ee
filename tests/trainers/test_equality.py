"""The other loops, on our batches and without dropout, come to our own loop's weights."""

import pytest
import torch

from tests.trainers import helpers
from tests.trainers.helpers import TASKS, make_fold
from utils.config import InputError
from utils.machine import distributed
from utils.trainers.shared import step_loss


@pytest.mark.parametrize("task", TASKS)
def test_twenty_steps_give_our_weights(task, workspace):
    """Raw weights and averages, over epochs, warm-up or cycle, and SWA's phase."""
    fold = make_fold(workspace, task, steps=20)
    before = {name: value.clone() for name, value in fold.training.model.state_dict().items()}
    ours = helpers.train_ours(fold)
    assert ours.step == 20
    assert max(float((before[n] - w).abs().max()) for n, w in ours.model.state_dict().items()) > 1e-3
    for loop in ("lightning", "hugging_face") if helpers.HAS_LIGHTNING else ("hugging_face",):
        other = make_fold(workspace, task, steps=20)
        helpers.train(loop, other, keep=False)
        assert other.training.step == 20
        helpers.assert_close(other.training.model.state_dict(), ours.model.state_dict())
        helpers.assert_close(other.training.averager.state_dict(), ours.averager.state_dict())
        losses = [torch.stack(training.losses) for training in (ours, other.training)]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
        rates = other.training.rates.optimizer.param_groups
        assert [group["lr"] for group in rates] == pytest.approx(
            [group["lr"] for group in ours.rates.optimizer.param_groups], rel=1e-9
        )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("accumulation_steps", 2),
        ("weight_format", "bf16"),
        ("compile", "auto"),
        ("save_every", 5),
        ("save_minutes", 5.0),
    ],
)
def test_what_only_our_loop_does_is_refused(setting, value, workspace):
    with pytest.raises(InputError, match=rf"{setting}={value} is for our own loop; leave it out"):
        make_fold(workspace, **{setting: value}).training  # noqa: B018


def test_a_batch_must_have_an_example_for_each_process(workspace, monkeypatch):
    fold = make_fold(workspace)
    assert fold.train_loader()
    two = type("Processes", (), {"num_processes": 64, "process_index": 0})
    monkeypatch.setattr(distributed, "processes", lambda: two)
    with pytest.raises(InputError, match=r"leaves a batch of \d+ for 64 processes; set another one"):
        fold.train_loader()


def test_labels_are_smoothed_in_training_only(workspace):
    """The loss that is trained is smoothed and weighted; the scores are of the plain labels."""
    fold = make_fold(workspace, "binary")
    training = fold.training
    batch = next(iter(fold.train_loader()))
    smoothed = step_loss(training, training.model, batch)
    plain = make_fold(workspace, "binary", label_smoothing=0.0).training
    plain.model.load_state_dict(training.model.state_dict())
    assert float(smoothed) != pytest.approx(float(step_loss(plain, plain.model, batch)), abs=1e-6)
    predictions = training.task.guess(training.targets)
    scores = training.task.scores(training.targets, predictions)
    assert scores == plain.task.scores(training.targets, predictions)
    assert {"accuracy", "auroc"} <= scores.keys()
