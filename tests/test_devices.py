"""Several devices: gloo processes on the CPU come to what one process comes to, and fail as one."""

import gc
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from tests.stand_ins import apex
from tests.test_resume import Stop, assert_same, stop_after
from utils import checkpoint, devices, fold, precision, runtime
from utils.config import InputError
from utils.fold import fit_fold
from utils.model import TextRegressor, encoder_source
from utils.train import prepare

# 48 training rows in batches of 5: each process gets 2 or 3 of them, and 1 or 2 of the last batch's 3.
EQUAL = {"epochs": 3, "swa_start": 1.0, "swa_every": 2, "eval_every": 4, "batch_size": 5, "eval_batch_size": 5,
         "lr": 1e-3, "head_dropout": 0.0, "layer_dropout": 0.0, "encoder_dropout": 0.0}  # fmt: skip
KINDS = ["last", "best", "swa"]


def assert_close(a, b, tolerance=2e-5):
    """Two folds' predictions, histories and weights, to rounding."""
    one, two = checkpoint.read_predictions(a), checkpoint.read_predictions(b)
    assert one["id"].tolist() == two["id"].tolist()
    kinds = [kind for kind in KINDS if kind in one]
    np.testing.assert_allclose(one[kinds], two[kinds], atol=tolerance)
    rates = ["step", "train_loss", "rmse", "swa_rmse"]
    histories = [pd.read_csv(folder / "history.csv")[rates] for folder in (a, b)]
    np.testing.assert_allclose(*histories, rtol=1e-5, atol=tolerance)
    for kind in kinds:
        ours, theirs = (load_file(folder / kind / "model.safetensors") for folder in (a, b))
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=tolerance, msg=lambda m: f"{name}: {m}")  # noqa: B023


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=40), st.integers(1, 9))
def test_the_shares_of_a_batch_are_the_batch(rows, number):
    class Process:
        num_processes = number

    shares = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "processes", lambda: Process)
        for Process.process_index in range(number):
            shares.append(devices.share(rows))
    assert sorted(row for share in shares for row in share) == sorted(rows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (2, {"accumulation_steps": 2, "loss": "rmse", "optimizer": "madgrad", "max_grad_norm": 0.1}),
        (2, {"averaging": "ema", "ema_decay": 0.5, "swa_every": 1, "num_workers": 1}),
        (4, {"loss": "smooth_l1", "standardize": False}),  # one process has nothing of the last batch
    ],
    ids=str,
)
def test_several_processes_come_to_what_one_does(number, options, tiny, tiny_table, capfd):
    options = {**EQUAL, **options}
    one = fit_fold(tiny(run="one", **options), tiny_table)
    capfd.readouterr()
    several = fit_fold(tiny(run="several", devices=number, **options), tiny_table)
    said = capfd.readouterr().out
    assert f"fp32 on {number} x CPU" in said
    assert len(re.findall(r"RMSE raw", said)) == len(pd.read_csv(several / "history.csv")), "one process reports"
    assert_close(one, several)


@pytest.mark.parametrize("level", ["apex-O1", "apex-O2"])
def test_several_processes_under_apex(level, tiny, tiny_table, monkeypatch):
    """The stand-in's: gradients are added up while scaled, and an overflow in one process is skipped by both."""
    monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice(level, "asked for"))
    folders = []
    for number in (1, 2):
        apex.install(monkeypatch).growth_interval = 4
        options = {**EQUAL, "accumulation_steps": 2, "devices": number}
        folders.append(fit_fold(tiny(run=f"on {number}", **options), tiny_table))
    assert_close(*folders, tolerance=1e-2 if level == "apex-O2" else 2e-5)  # O2's gradients are float16
    scales = [pd.read_csv(folder / "history.csv")["loss_scale"].tolist() for folder in folders]
    assert scales[0] == scales[1]
    assert len(set(scales[0])) > 1


def test_two_processes_have_their_own_dropout_masks_and_resume_bit_identically(tiny, tiny_table, monkeypatch):
    options = {**EQUAL, "devices": 2, "head_dropout": 0.5, "encoder_dropout": 0.1, "optimizer": "madgrad"}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    config = tiny(run="broken", save_every=3, **options)
    for step in (1, 8, 17):
        go_on = stop_after(step, monkeypatch)
        with pytest.raises(ChildFailedError, match="Stop"):
            fit_fold(config, tiny_table)
        go_on()
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_a_fold_goes_on_with_another_number_of_devices(numbers, tiny, tiny_table, monkeypatch):
    whole = fit_fold(tiny(run="whole", **EQUAL), tiny_table)
    first, second = (tiny(run="moved", save_every=1, devices=number, **EQUAL) for number in numbers)
    go_on = stop_after(9, monkeypatch)
    with pytest.raises((Stop, ChildFailedError)):
        fit_fold(first, tiny_table)
    go_on()
    assert_close(whole, fit_fold(second, tiny_table))


def test_the_masks_differ_between_processes(tiny, tiny_table, monkeypatch, workspace):
    def look(training):
        (workspace / f"draw-{devices.processes().process_index}").write_text(str(torch.rand(1).item()))

    monkeypatch.setattr(fold, "refuse_divergence", look)
    fit_fold(tiny(devices=2), tiny_table)
    assert (workspace / "draw-0").read_text() != (workspace / "draw-1").read_text()


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_memory_running_out_in_one_process_halves_the_micro_batches_of_all(
    moment, tiny, tiny_table, monkeypatch, capfd
):
    one = fit_fold(tiny(run="one", **EQUAL), tiny_table)
    forward, backward = TextRegressor.forward, precision.Native.backward

    def tight(large):
        if large and devices.processes().process_index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def tight_forward(model, **inputs):
        tight.rows = len(inputs["input_ids"])
        tight_here = model.training and moment == "forward" and tight.rows > 1
        tight(tight_here)
        return forward(model, **inputs)

    def tight_backward(backend, loss, last):
        tight(moment == "backward" and tight.rows > 1)
        backward(backend, loss, last)

    monkeypatch.setattr(TextRegressor, "forward", tight_forward)
    monkeypatch.setattr(precision.Native, "backward", tight_backward)
    capfd.readouterr()
    several = fit_fold(tiny(run="several", devices=2, **EQUAL), tiny_table)
    assert capfd.readouterr().out.count("Step 1: out of memory, so micro-batches are taken in 2 parts from here.") == 1
    assert_close(one, several)


def test_memory_for_not_even_one_text_in_one_process(tiny, tiny_table, monkeypatch):
    forward = TextRegressor.forward

    def none(model, **inputs):
        if devices.processes().process_index == 1:
            raise torch.OutOfMemoryError
        return forward(model, **inputs)

    monkeypatch.setattr(TextRegressor, "forward", none)
    with pytest.raises(InputError, match="does not hold one text at a time; lower max_length"):
        fit_fold(tiny(devices=2), tiny_table)


# --- failing as one ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence(tiny, tiny_table, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_table", full)
    with pytest.raises(InputError, match=r"^output/tiny/fold-0 cannot be written \(No space left on device\)"):
        fit_fold(tiny(devices=2), tiny_table)


def test_bad_input_is_one_sentence(tiny, tiny_table, capfd):
    with pytest.raises(InputError, match="average nothing in 6 steps; lower them"):
        fit_fold(tiny(devices=2, swa_every=100), tiny_table)
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_of_ours_is_not_hidden(tiny, tiny_table, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(fold, "prepare", broken)
    with pytest.raises(ChildFailedError, match="ZeroDivisionError: a bug"):
        fit_fold(tiny(devices=2), tiny_table)


def test_a_diverging_training_names_its_texts(tiny, tiny_table):
    with pytest.raises(InputError, match=r"the loss of step \d is (nan|inf), on the texts \w+, "):
        fit_fold(tiny(devices=2, lr=1e30, head_lr_factor=1e6, max_grad_norm=0, schedule="constant"), tiny_table)


@pytest.mark.timeout(60)
def test_a_launch_that_failed_does_not_hang_the_next_one(tiny, tiny_table, monkeypatch):
    """What is left of it must not be collected in the next one's processes, which lack its server's thread."""
    with pytest.raises(InputError) as kept:
        fit_fold(tiny(devices=2, swa_every=100), tiny_table)
    cycle = [kept.value.__context__]
    cycle.append(cycle)
    del kept, cycle  # garbage, not yet collected
    monkeypatch.setattr(fold, "prepare", lambda *arguments: (gc.collect(), prepare(*arguments))[1])
    assert checkpoint.is_finished(fit_fold(tiny(devices=2), tiny_table))


def test_a_stopped_process_stops_both_after_saving(tiny, tiny_table, monkeypatch):
    look = fold.refuse_divergence

    def send(training):
        if training.step == 9 and devices.processes().process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        look(training)

    whole = fit_fold(tiny(run="whole", devices=2, **EQUAL), tiny_table)
    config = tiny(run="stopped", devices=2, **EQUAL)
    monkeypatch.setattr(fold, "refuse_divergence", send)
    with pytest.raises(InputError, match=r"stopped by SIGTERM after step 9; the state is saved"):
        fit_fold(config, tiny_table)
    monkeypatch.setattr(fold, "refuse_divergence", look)
    assert_same(whole, fit_fold(config, tiny_table))


# --- being launched ----------------------------------------------------------------------------------------------


def machine(monkeypatch, gpus):
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda" if gpus else "cpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("gpus", "wanted", "number"), [(0, 0, 1), (0, 1, 1), (0, 2, 2), (1, 0, 1), (2, 0, 2), (2, 1, 1), (4, 2, 2)]
)
def test_how_many_processes(gpus, wanted, number, monkeypatch):
    machine(monkeypatch, gpus)
    assert devices.to_launch(wanted) == number
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert devices.to_launch(wanted) == 1, "one of several already"


def test_more_devices_than_there_are(monkeypatch):
    machine(monkeypatch, 2)
    with pytest.raises(InputError, match="devices=3, and this machine has 2; set devices=0"):
        devices.to_launch(3)


def test_a_process_that_has_used_the_gpu_cannot_share_it(monkeypatch):
    machine(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(InputError, match=r"used the GPU already.*restart the kernel first"):
        devices.to_launch(2)


def test_a_notebook_asks_about_the_gpu_without_opening_it(monkeypatch, tmp_path):
    """On this build of torch, opening one raises; so does every question that would."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "$@" >> "$0.log"\necho "Tesla T4, 7.5"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(precision, "apex_problem", lambda: "NVIDIA Apex is not installed")
    assert runtime.device_name(2) == "2 x Tesla T4"
    assert precision.choose("auto").name == "fp16"
    assert (tmp_path / "nvidia-smi.log").read_text().startswith("-i 1 ")
    assert not torch.cuda.is_initialized()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_accelerate_launches_it_from_a_shell(workspace, tiny, tiny_table):
    """--multi_gpu has Accelerate start several processes where there is no GPU, too."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--main_process_port", "0", "-m", "utils.fold", "-p", "preset", "tiny", "-p", "precision", "fp32",
               "-p", "output_dir", str(workspace / "launched"), "-p", "encoder", encoder_source("tiny")]  # fmt: skip
    for name, value in EQUAL.items():
        command += ["-p", name, str(value)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runtime.ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "fp32 on 2 x CPU" in done.stdout
    assert_close(
        fit_fold(tiny(encoder=encoder_source("tiny"), **EQUAL), tiny_table), workspace / "launched" / "tiny" / "fold-0"
    )
    mistaken = subprocess.run(
        [sys.executable, "-m", "utils.fold", "-p", "fld", "3"], capture_output=True, text=True, cwd=runtime.ROOT
    )
    assert mistaken.returncode == 1
    assert mistaken.stderr == "InputError: 'fld' is not a parameter; did you mean 'fold'?\n"
