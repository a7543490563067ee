"""What the tests of interrupted trainings share."""

import pandas as pd

from utils.runs import artifacts, fold

OPTIONS = {"epochs": 4, "swa_start": 1.0, "swa_every": 2, "eval_every": 2, "batch_size": 4, "accumulation_steps": 2,
           "encoder_dropout": 0.1, "optimizer": "madgrad", "lr": 1e-3}  # fmt: skip


class Stop(Exception):  # noqa: N818 - it is no error
    """What the tests interrupt a training with."""


def stop_after(step, monkeypatch):
    """Make the training break off after this optimizer step, before anything is saved for it."""
    look = fold.check_divergence

    def stop(training):
        if training.step == step:
            raise Stop
        look(training)

    monkeypatch.setattr(fold, "check_divergence", stop)
    return lambda: monkeypatch.setattr(fold, "check_divergence", look)


def contents(folder):
    """What a fold has come to, without timings: weights, history and predictions, to the bit."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors" or name == "predictions.csv":
            found[name] = path.read_bytes()
    found["history"] = pd.read_csv(folder / "history.csv").drop(columns=["seconds", "samples_per_second"])
    result = artifacts.read_result(folder)
    found["result"] = {name: result[name] for name in result if name not in ("seconds", "samples_per_second")}
    return found


def assert_same(a, b):
    a, b = contents(a), contents(b)
    assert set(a) == set(b)
    for name, value in a.items():
        if name == "history":
            pd.testing.assert_frame_equal(value, b[name], check_exact=True)
        else:
            assert value == b[name], name
