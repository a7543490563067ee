"""Our averages and rates as a callback, beside Lightning's own."""

import pytest

from tests.trainers import helpers
from tests.trainers.helpers import make_fold, train

pl = pytest.importorskip("lightning", reason="requirements-trainers.txt is not installed")
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging  # noqa: E402


class SameSteps(WeightAveraging):
    """Lightning's average, of the weights after the steps that ours takes."""

    def __init__(self, fold):
        super().__init__()
        self.fold = fold

    def should_update(self, step_idx=None, epoch_idx=None):
        training = self.fold.training
        return step_idx is not None and training.averager.is_due(step_idx + 1, training.total_steps)


class Rates(pl.Callback):
    """Notes each group's rate before each step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        groups = trainer.optimizers[0].param_groups
        self.rates.append({group["name"]: float(group["lr"]) for group in groups})


def test_of_the_same_steps_both_averages_are_the_same(workspace):
    fold = make_fold(workspace, epochs=3, swa_start=1.0, swa_every=2)
    average = SameSteps(fold)
    train("lightning", fold, keep=False, callbacks=[average])
    theirs = {name.removeprefix("model."): value for name, value in fold_weights(average).items()}
    helpers.assert_close(theirs, fold.training.averager.model.state_dict())


def fold_weights(average):
    return average._average_model.module.state_dict()


def test_in_swas_phase_our_groups_keep_their_own_rates(workspace):
    """Lightning's SWA has one rate for all groups, by which the lowest layers are lifted above their peak."""
    noted = {}
    for name in ("ours", "lightning"):
        fold = make_fold(workspace, epochs=4, swa_start=2.0, swa_anneal_epochs=0.5, layer_decay=0.25)
        callbacks = [noted.setdefault(name, Rates())]
        if name == "lightning":
            callbacks.append(StochasticWeightAveraging(fold.config.lr / 2, 2, annealing_epochs=1))
        train("lightning", fold, keep=False, callbacks=callbacks)
        peaks = dict(zip(noted[name].rates[0], fold.training.rates.peaks, strict=True))
    ours, theirs = (noted[name].rates[-1] for name in ("ours", "lightning"))
    assert ours == pytest.approx({group: peak * fold.config.swa_lr_factor for group, peak in peaks.items()})
    assert len(set(theirs.values())) == 1
    assert theirs["layer 0"] > peaks["layer 0"] > ours["layer 0"]
