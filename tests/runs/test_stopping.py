"""Signals, time limits and patience stop a training, with its state saved."""

import itertools
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.runs.helpers import OPTIONS, Stop, assert_same, stop_after
from utils.config import InputError
from utils.runs import artifacts, fold, stopping
from utils.runs.fold import fit_fold


def test_the_time_limit_saves_stops_and_leaves_what_there_is(whole, tiny, tiny_table, capsys):
    options = {"run": "limited", **OPTIONS}
    folder = fit_fold(tiny(time_limit_hours=1e-9, **options), tiny_table)
    assert "The time limit is reached after step 1 of 24; the state is saved, run again" in capsys.readouterr().out
    assert not artifacts.is_finished(folder)
    assert (folder / "predictions.csv").is_file()
    assert artifacts.read_result(folder)["stopped_by"] == "time limit"
    assert_same(whole, fit_fold(tiny(**options), tiny_table))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_next_run_goes_on(number, whole, tiny, tiny_table, monkeypatch):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    look = fold.check_divergence

    def send(training):
        if training.step == 9:
            os.kill(os.getpid(), number)
        look(training)

    monkeypatch.setattr(fold, "check_divergence", send)
    config = tiny(run="signalled", **OPTIONS)
    with pytest.raises(InputError, match=f"stopped by {number.name} after step 9; the state is saved, run again"):
        fit_fold(config, tiny_table)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.setattr(fold, "check_divergence", look)
    assert_same(whole, fit_fold(config, tiny_table))


def test_what_a_time_limit_leaves_belongs_together(tiny, tiny_table, monkeypatch):
    """Stopped between two evaluations: the predictions are those of the weights beside them."""
    clock = itertools.chain(range(8), itertools.count(7200))
    monkeypatch.setattr(fold, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    config = tiny(time_limit_hours=1, **{**OPTIONS, "eval_every": 3})
    folder = fit_fold(config, tiny_table)
    result = artifacts.read_result(folder)
    assert result["stopped_by"] == "time limit"
    assert result["steps"] % 3
    model, tokenizer = artifacts.load_model(folder / "last")
    rows = tiny_table[tiny_table["fold"] == 0]
    with torch.no_grad():
        scores = [
            float(model(**tokenizer(text, return_tensors="pt", truncation=True)).logits) for text in rows["excerpt"]
        ]
    np.testing.assert_allclose(pd.read_csv(folder / "predictions.csv")["last"], scores, atol=1e-5)


def test_a_signal_at_the_last_step_changes_nothing(whole, tiny, tiny_table, monkeypatch):
    look = fold.check_divergence

    def send(training):
        if training.step == 24:
            os.kill(os.getpid(), signal.SIGTERM)
        look(training)

    monkeypatch.setattr(fold, "check_divergence", send)
    assert_same(whole, fit_fold(tiny(run="late", time_limit_hours=1, **OPTIONS), tiny_table))


def test_a_clock_that_jumps_is_no_matter(whole, tiny, tiny_table, monkeypatch):
    jumps = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(time, "time", lambda: 1.8e9 - next(jumps))
    folder = fit_fold(tiny(run="jumping", time_limit_hours=1, save_minutes=1, **OPTIONS), tiny_table)
    assert_same(whole, folder)
    assert (pd.read_csv(folder / "history.csv")["seconds"].diff().dropna() >= 0).all()


def test_save_minutes_saves_between_evaluations(tiny, tiny_table, monkeypatch):
    saves = []
    real = stopping.save_state
    monkeypatch.setattr(stopping, "save_state", lambda t, *rest: (saves.append(t.step), real(t, *rest)))
    fit_fold(tiny(run="a", save_minutes=1e-9, eval_every=100, epochs=2), tiny_table)
    fit_fold(tiny(run="b", eval_every=2, epochs=2), tiny_table)
    fit_fold(tiny(run="c", save_every=4, eval_every=100, epochs=2), tiny_table)
    assert saves == [1, 2, 3, 4, 5, 6, 2, 4, 6, 4, 6]


# --- early stopping ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("on", ["raw", "averaged"])
def test_patience_survives_a_kill(on, tiny, tiny_table, monkeypatch):
    """A run that would stop early stops at the same step, wherever it broke off: also after the deciding evaluation."""
    options = {**OPTIONS, "epochs": 40, "lr": 3e-2, "patience": 3, "patience_on": on}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    last = artifacts.read_result(whole)["steps"]
    for step in (last - 3, last - 1, last):
        config = tiny(run=f"broken-{step}", **options)
        go_on = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
        go_on()
        folder = fit_fold(config, tiny_table)
        assert artifacts.read_result(folder)["stopped_by"] == "patience"
        assert_same(folder, whole)
