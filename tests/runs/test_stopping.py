"""Signals, time limits and patience stop training, and its state is saved."""

import itertools
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests.runs.helpers import OPTIONS, Stop, assert_same, call_at, held_out_rows, scores_of, stop_after
from utils.config import InputError
from utils.errors import StoppedError
from utils.runs import artifacts, fold, progress, stopping
from utils.runs.fold import fit_fold

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_the_time_limit_saves_the_state_and_leaves_results_so_far(whole, tiny, tiny_table, capsys):
    options = {"run": "limited", **OPTIONS}
    folder = fit_fold(tiny(time_limit_hours=1e-9, **options), tiny_table)
    output = capsys.readouterr().out
    assert "The time limit is reached after step 1 of 24; the state is saved, run again" in output
    assert not artifacts.is_finished(folder)
    assert (folder / "predictions.csv").is_file()
    assert artifacts.read_result(folder)["stopped_by"] == "time limit"
    assert_same(whole, fit_fold(tiny(**options), tiny_table))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_and_stops_and_the_next_run_resumes(number, whole, tiny, tiny_table, monkeypatch):
    handlers = [*map(signal.getsignal, SIGNALS)]
    restore = call_at(9, lambda: os.kill(os.getpid(), number), monkeypatch)
    config = tiny(run="signalled", **OPTIONS)
    with pytest.raises(
        StoppedError, match=f"stopped by {number.name} after step 9; the state is saved, run again"
    ):
        fit_fold(config, tiny_table)
    assert [*map(signal.getsignal, SIGNALS)] == handlers
    restore()
    assert_same(whole, fit_fold(config, tiny_table))


def test_after_a_stop_the_way_on_is_the_command_without_retrain(tiny, tiny_table, monkeypatch, capsys):
    config = tiny(retrain=True, run="stopped")
    restore = call_at(2, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(InputError, match="the state is saved, run again without retrain to go on"):
        fit_fold(config, tiny_table)
    restore()
    fit_fold(tiny(run="stopped"), tiny_table)
    assert "going on from step 2 of 6" in capsys.readouterr().out


def test_what_a_time_limit_leaves_is_consistent(tiny, tiny_table, monkeypatch):
    """Stopped between two evaluations, the predictions are those of the weights beside them."""
    clock = itertools.chain(range(8), itertools.count(7200))
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = tiny(time_limit_hours=1, **{**OPTIONS, "eval_every": 3})
    folder = fit_fold(config, tiny_table)
    result = artifacts.read_result(folder)
    assert result["stopped_by"] == "time limit"
    assert result["steps"] % 3
    scores = scores_of(folder / "last", held_out_rows(tiny_table)["excerpt"])[:, 0]
    np.testing.assert_allclose(pd.read_csv(folder / "predictions.csv")["last"], scores, atol=1e-5)


def test_a_signal_at_the_last_step_changes_nothing(whole, tiny, tiny_table, monkeypatch):
    call_at(24, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    assert_same(whole, fit_fold(tiny(run="late", time_limit_hours=1, **OPTIONS), tiny_table))


def test_a_clock_that_jumps_changes_nothing(whole, tiny, tiny_table, monkeypatch):
    jumps = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(time, "time", lambda: 1.8e9 - next(jumps))
    folder = fit_fold(tiny(run="jumping", time_limit_hours=1, save_minutes=1, **OPTIONS), tiny_table)
    assert_same(whole, folder)
    assert (pd.read_csv(folder / "history.csv")["seconds"].diff().dropna() >= 0).all()


def test_save_minutes_saves_between_evaluations(tiny, tiny_table, monkeypatch):
    steps, save_state = [], stopping.save_state
    monkeypatch.setattr(stopping, "SHARE", 1e9)  # saving after every evaluation

    def save(training, *rest):
        steps.append(training.step)
        save_state(training, *rest)

    monkeypatch.setattr(stopping, "save_state", save)
    fit_fold(tiny(run="a", save_minutes=1e-9, eval_every=100, epochs=2), tiny_table)
    fit_fold(tiny(run="b", eval_every=2, epochs=2), tiny_table)
    fit_fold(tiny(run="c", save_every=4, eval_every=100, epochs=2), tiny_table)
    assert steps == [1, 2, 3, 4, 5, 6, 2, 4, 6, 4, 6]


def test_saving_after_evaluations_takes_a_small_share_of_the_time(tiny, tiny_table, monkeypatch):
    """Steps take a second and a state takes as long as said, measured once one has been saved."""
    now, steps = [0.0], []

    def save(training, folder, metadata, progress):
        steps.append(training.step)
        now[0] += cost
        progress.saved = progress.seconds

    monkeypatch.setattr(fold, "check_divergence", lambda training: now.__setitem__(0, now[0] + 1))
    monkeypatch.setattr(stopping, "save_state", save)
    monkeypatch.setattr(stopping, "SHARE", 0.25)
    for module in (progress, stopping):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    for cost in (0.0, 0.9, 100.0):
        fit_fold(tiny(run=f"cost {cost:g}", eval_every=1, epochs=4), tiny_table)
    assert steps == [*range(1, 13), 1, 4, 7, 10, 1]


# --- early stopping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["raw", "averaged"])
def test_early_stopping_keeps_the_average(on, tiny, tiny_table, capsys):
    options = {**OPTIONS, "epochs": 40, "lr": 3e-2, "patience": 3, "patience_on": on}
    folder = fit_fold(tiny(**options), tiny_table)
    column = "rmse" if on == "raw" else "averaged_rmse"
    scores = pd.read_csv(folder / "history.csv")[column].dropna().to_numpy()
    assert len(scores) - 1 - scores.argmin() == 3
    assert all(len(scores[:n]) - 1 - scores[:n].argmin() < 3 for n in range(1, len(scores)))
    assert "Stopped early: no better score in 3 evaluations." in capsys.readouterr().out
    result = artifacts.read_result(folder)
    assert result["stopped_by"] == "patience"
    assert artifacts.is_finished(folder)
    assert result["n_averaged"] > 0
    assert (folder / "averaged" / "model.safetensors").is_file()


@pytest.mark.parametrize("on", [pytest.param("raw", marks=pytest.mark.full), "averaged"])
def test_patience_survives_a_kill(on, tiny, tiny_table, monkeypatch):
    """A killed run still stops early at the same step, even if it is killed after the last evaluation."""
    options = {**OPTIONS, "epochs": 40, "lr": 3e-2, "patience": 3, "patience_on": on, "save_every": 2}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    last = artifacts.read_result(whole)["steps"]
    for step in (last - 3, last - 1, last):
        config = tiny(run=f"interrupted-{step}", **options)
        restore = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
        restore()
        folder = fit_fold(config, tiny_table)
        assert artifacts.read_result(folder)["stopped_by"] == "patience"
        assert_same(folder, whole)
