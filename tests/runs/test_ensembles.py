"""Ensembles of runs: the mean, and a linear layer on pooled states that is fitted to other folds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tasks.helpers import make_run
from utils.config import Config, InputError
from utils.runs import artifacts, ensembles
from utils.runs.ensembles import linear_of, mean_of, pooled_states
from utils.runs.variants import train_variants
from utils.tasks import make_task

TASKS = [("binary", 2), ("multiclass", 4), ("ordinal", 4), ("regression", 4)]


def give_states(monkeypatch):
    """Pooled states that tell the row's target, with some noise."""

    def states_of(run, weights):
        generator = np.random.default_rng(run.config.seed)
        noise = generator.normal(0, 0.3, (len(run.targets), 5))
        return noise + run.targets * np.array([1.0, -1.0, 0, 0, 0])

    monkeypatch.setattr(ensembles, "pooled_states", states_of)


@pytest.mark.parametrize(("name", "classes"), TASKS)
def test_the_mean_is_of_each_rows_predictions_whatever_their_order_and_folds(name, classes):
    first, second = make_run(name, classes), make_run(name, classes, seed=1)
    shuffled = second.predictions.sample(frac=1, random_state=0).assign(fold=0)
    mean = mean_of([first, replace(second, predictions=shuffled)])
    expected = (first.values("averaged") + second.values("averaged")) / 2
    np.testing.assert_allclose(mean.values("averaged"), expected)
    np.testing.assert_array_equal(mean.targets, first.targets)
    assert first.task.score(mean.targets, mean.values("averaged")) != first.task.score(
        first.targets, first.values("averaged")
    )


@pytest.mark.parametrize(("name", "classes"), TASKS)
def test_a_linear_layer_reads_the_states_of_all_runs(name, classes, monkeypatch):
    give_states(monkeypatch)
    run = make_run(name, classes, noise=1.5)
    stacked = linear_of([run, make_run(name, classes, seed=1, noise=1.5)])
    assert stacked.values("averaged").shape == run.values("averaged").shape
    one, linear = (run.task.score(r.targets, r.values("averaged")) for r in (run, stacked))
    assert run.task.metric.gain(linear, one) > 0


def test_no_row_is_predicted_by_a_layer_that_was_fitted_to_it(monkeypatch):
    """Targets of one fold are changed: the others' predictions change, its own do not."""
    give_states(monkeypatch)
    run = make_run("regression", 4)
    states = ensembles.pooled_states(run, "averaged")
    monkeypatch.setattr(ensembles, "pooled_states", lambda run, weights: states)
    inside = (run.predictions["fold"] == 1).to_numpy()
    changed = replace(
        run, predictions=run.predictions.assign(target=run.targets[:, 0] * np.where(inside, 3, 1))
    )
    before, after = (linear_of([one]).values("averaged") for one in (run, changed))
    np.testing.assert_array_equal(before[inside], after[inside])
    assert not np.allclose(before[~inside], after[~inside])


def test_what_cannot_be_combined_is_refused(monkeypatch):
    give_states(monkeypatch)
    run, alone = make_run("binary", 2), make_run("binary", 2, folds=1)
    with pytest.raises(InputError, match=r"have different folds.*or use the mean"):
        linear_of([run, replace(run, predictions=run.predictions.assign(fold=0))])
    with pytest.raises(InputError, match="train a second fold"):
        linear_of([alone])
    with pytest.raises(InputError, match="have held out different rows"):
        mean_of([run, make_run("binary", 2, n_rows=100)])


def test_a_multilabel_layer_gives_a_probability_per_label():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (800, 2)).astype(float)
    states = labels + generator.normal(0, 0.1, (800, 2))
    task = make_task(Config.make("tiny", task="multilabel", target_columns="a,b"))
    predicted = task.fit_states(states, labels, states)
    assert predicted.shape == (800, 2)
    assert ((predicted > 0.5) == labels).mean() > 0.99


def test_pooled_states_are_what_the_heads_read(tiny):
    config = tiny(run="pooled", epochs=1, averaging="none")
    (run,) = train_variants(config, {"one": {}}, [0, 1]).values()
    states = pooled_states(run, "last")
    for fold, folder in run.folders.items():
        rows = (run.predictions["fold"] == fold).to_numpy()
        model, _ = artifacts.load_model(folder / "last")
        with torch.no_grad():
            outputs = model.head(torch.from_numpy(states[rows]).float()).numpy()
        np.testing.assert_allclose(outputs, run.values("last")[rows], atol=1e-4)
    assert np.isfinite(linear_of([run, run], "last").values("last")).all()
