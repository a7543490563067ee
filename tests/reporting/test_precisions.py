import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.config import InputError
from utils.machine import precision
from utils.machine.encoders import encoder_source
from utils.reporting import machine, precisions
from utils.training.loop import train_epoch
from utils.training.setup import prepare


def test_each_precision_takes_the_same_steps_as_training_does(tiny, tiny_table, monkeypatch):
    # No fixture reaches the processes that train, so the encoder is named by its folder.
    options = {"batch_size": 8, "epochs": 2, "encoder": encoder_source("tiny")}
    monkeypatch.setattr(
        precision, "available", lambda: ["fp32", "bf16"] if precision.cpu_has_bf16() else ["fp32"]
    )
    runs = precisions.compare_precisions(tiny(**options), tiny_table, steps=9)
    assert runs.groupby("precision", sort=False).size().to_dict() == dict.fromkeys(precision.available(), 9)
    assert (runs["samples_per_second"] > 0).all()
    assert (runs["peak_memory"] > 2**26).all()
    assert (runs["problem"] == "").all()
    # The steps are those of training itself, without averaging.
    training = prepare(tiny(averaging="none", **options), tiny_table, 0)
    for epoch in range(2):
        for step in train_epoch(training, epoch):
            if step == 9:
                break
    expected = [float(loss) for loss in training.losses][:9]
    np.testing.assert_allclose(runs.loc[runs["precision"] == "fp32", "loss"], expected, rtol=1e-5)
    if "bf16" in precision.available():
        losses = runs.pivot(index="step", columns="precision", values="loss")
        assert 0 < (losses["bf16"] - losses["fp32"]).abs().max() < 0.1, "another rounding, the same training"


@pytest.mark.full
def test_a_precision_that_fails_does_not_stop_the_others(tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(precision, "available", lambda: ["fp32", "fp16"])  # fp16 needs CUDA
    runs = precisions.compare_precisions(tiny(), tiny_table, steps=4)
    assert runs["precision"].tolist() == ["fp32"] * 4 + ["fp16"]
    assert "needs a CUDA GPU" in runs["problem"].iloc[-1]
    table = machine.precisions_table(runs)
    assert "needs a CUDA GPU" in table.to_html()
    figure = machine.plot_precisions(runs)
    assert len(figure.axes) == 1, "a single precision cannot be compared"
    monkeypatch.setattr(precision, "available", lambda: ["fp16"])
    with pytest.raises(InputError, match=r"no precision could train on this machine: .*needs a CUDA GPU"):
        precisions.compare_precisions(tiny(), tiny_table, steps=4)


def dies_in_bf16(config, table, steps, threads):
    if config.precision == "bf16":
        os._exit(9)  # as when the system kills it for its memory
    return pd.DataFrame(
        {"step": range(1, steps + 1), "loss": 1.0, "samples_per_second": 1.0, "peak_memory": 1}
    )


@pytest.mark.full
def test_a_precision_whose_process_is_killed_does_not_stop_them_either(tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(precision, "available", lambda: ["fp32", "bf16", "fp16"])
    monkeypatch.setattr(precisions, "_run", dies_in_bf16)
    runs = precisions.compare_precisions(tiny(), tiny_table, steps=3)
    assert runs["precision"].tolist() == ["fp32"] * 3 + ["bf16"] + ["fp16"] * 3
    assert "terminated abruptly" in runs["problem"][3]


def test_the_table_and_the_plot_show_what_was_measured():
    rows = [
        {
            "precision": name,
            "step": step,
            "loss": loss,
            "samples_per_second": speed,
            "peak_memory": 2**30,
            "problem": "",
        }
        for name, losses, speed in [("fp32", (1.0, 0.5), 10.0), ("bf16", (1.125, 0.75), 25.0)]
        for step, loss in enumerate(losses, 1)
    ]
    runs = pd.DataFrame(rows)
    table = machine.precisions_table(runs).data
    assert list(table.index) == ["fp32", "bf16"], "in the order tried, not of the alphabet"
    assert table["× fp32"].tolist() == [1.0, 2.5]
    assert table["largest distance from fp32"].tolist() == [0.0, 0.25]
    assert table["last loss"].tolist() == [0.5, 0.75]
    assert "problem" not in table
    left, right = machine.plot_precisions(runs).axes
    assert [line.get_label() for line in left.lines] == ["fp32", "bf16"]
    assert right.lines[0].get_ydata().tolist() == [0.125, 0.25]
    plt.close("all")
