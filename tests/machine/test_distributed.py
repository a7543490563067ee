"""Several devices: gloo processes on the CPU give the result of one process, and fail together."""

import gc
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from tests.runs.helpers import Stop, assert_same, stop_after
from tests.stand_ins import apex
from utils.config import InputError
from utils.machine import distributed, precision, runtime
from utils.machine.encoders import encoder_source
from utils.modeling.model import TextModel
from utils.runs import artifacts, fold
from utils.runs.fold import fit_fold
from utils.training.setup import prepare

# 48 training rows in batches of 5: each process gets 2 or 3 of them, and 1 or 2 of the last batch's 3.
EQUAL = {
    "epochs": 3,
    "swa_start": 1.0,
    "swa_every": 2,
    "eval_every": 4,
    "batch_size": 5,
    "eval_batch_size": 5,
    "lr": 1e-3,
    "head_dropout": 0.0,
    "layer_dropout": 0.0,
    "encoder_dropout": 0.0,
}
PLATEAU = {"schedule": "plateau", "lr_patience": 1, "lr_factor": 0.1, "warmup_ratio": 0}


def assert_close(a, b, tolerance=2e-5):
    """Two folds have the same predictions, histories and weights, up to rounding."""
    predictions = [artifacts.read_predictions(folder) for folder in (a, b)]
    assert predictions[0]["id"].tolist() == predictions[1]["id"].tolist()
    names = [name for name in artifacts.WEIGHTS if name in predictions[0]]
    np.testing.assert_allclose(*(table[names] for table in predictions), atol=tolerance)
    columns = ["step", "train_loss", "rmse", "averaged_rmse", "lr head"]
    histories = [pd.read_csv(folder / "history.csv")[columns] for folder in (a, b)]
    np.testing.assert_allclose(*histories, rtol=1e-5, atol=tolerance)
    for name in names:
        weights = [load_file(folder / name / "model.safetensors") for folder in (a, b)]
        assert weights[0].keys() == weights[1].keys()
        for key, value in weights[0].items():
            message = f"{name} {key}: {{}}".format
            torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=tolerance, msg=message)


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=40), st.integers(1, 9))
def test_the_shards_of_a_batch_make_up_the_batch(rows, number):
    class Process:
        num_processes = number

    shards = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "processes", lambda: Process)
        for Process.process_index in range(number):
            shards.append(distributed.shard(rows))
    assert sorted(row for shard in shards for row in shard) == sorted(rows)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (2, {"accumulation_steps": 2, "loss": "rmse", "optimizer": "madgrad", "max_grad_norm": 0.1}),
        (2, {"averaging": "ema", "ema_decay": 0.5, "swa_every": 1, "num_workers": 1, **PLATEAU}),
        (4, {"loss": "smooth_l1", "standardize": False}),  # one process has no row of the last batch
    ],
    ids=str,
)
def test_several_processes_give_the_result_of_one(number, options, tiny, tiny_table, capfd):
    options = {**EQUAL, **options}
    one = fit_fold(tiny(run="one", **options), tiny_table)
    capfd.readouterr()
    several = fit_fold(tiny(run="several", devices=number, **options), tiny_table)
    output = capfd.readouterr().out
    assert f"fp32 on {number} x CPU" in output
    assert len(re.findall(r"RMSE raw", output)) == len(pd.read_csv(several / "history.csv")), (
        "one process reports"
    )
    assert_close(one, several)


@pytest.mark.parametrize("level", ["apex-O1", "apex-O2"])
def test_several_processes_under_apex(level, tiny, tiny_table, monkeypatch):
    """With the stand-in: gradients are summed while scaled, and both processes skip an overflow in either."""
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
        undo = stop_after(step, monkeypatch)
        with pytest.raises(ChildFailedError, match="Stop"):
            fit_fold(config, tiny_table)
        undo()
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_a_fold_resumes_with_another_number_of_devices(numbers, tiny, tiny_table, monkeypatch):
    whole = fit_fold(tiny(run="whole", **EQUAL), tiny_table)
    first, second = (tiny(run="moved", save_every=1, devices=number, **EQUAL) for number in numbers)
    undo = stop_after(9, monkeypatch)
    with pytest.raises((Stop, ChildFailedError)):
        fit_fold(first, tiny_table)
    undo()
    assert_close(whole, fit_fold(second, tiny_table))


def test_the_masks_differ_between_processes(tiny, tiny_table, monkeypatch, workspace):
    def draw(training):
        (workspace / f"draw-{distributed.processes().process_index}").write_text(str(torch.rand(1).item()))

    monkeypatch.setattr(fold, "check_divergence", draw)
    fit_fold(tiny(devices=2), tiny_table)
    assert (workspace / "draw-0").read_text() != (workspace / "draw-1").read_text()


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_memory_running_out_in_one_process_halves_the_micro_batches_of_all(
    moment, tiny, tiny_table, monkeypatch, capfd
):
    one = fit_fold(tiny(run="one", **EQUAL), tiny_table)
    forward, backward = TextModel.forward, precision.Native.backward

    def run_out(large):
        if large and distributed.processes().process_index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def limited_forward(model, **inputs):
        run_out.rows = len(inputs["input_ids"])
        run_out(model.training and moment == "forward" and run_out.rows > 1)
        return forward(model, **inputs)

    def limited_backward(backend, loss, last):
        run_out(moment == "backward" and run_out.rows > 1)
        backward(backend, loss, last)

    monkeypatch.setattr(TextModel, "forward", limited_forward)
    monkeypatch.setattr(precision.Native, "backward", limited_backward)
    capfd.readouterr()
    several = fit_fold(tiny(run="several", devices=2, **EQUAL), tiny_table)
    warning = "Step 1: out of memory, so micro-batches are taken in 2 parts from here."
    assert capfd.readouterr().out.count(warning) == 1
    assert_close(one, several)


def test_memory_for_not_even_one_text_in_one_process(tiny, tiny_table, monkeypatch):
    forward = TextModel.forward

    def failing_forward(model, **inputs):
        if distributed.processes().process_index == 1:
            raise torch.OutOfMemoryError
        return forward(model, **inputs)

    monkeypatch.setattr(TextModel, "forward", failing_forward)
    with pytest.raises(InputError, match="does not hold one text at a time; lower max_length"):
        fit_fold(tiny(devices=2), tiny_table)


# --- failing together ---------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence(tiny, tiny_table, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fold, "write_table", full)
    with pytest.raises(
        InputError, match=r"^output/tiny/fold-0 cannot be written \(No space left on device\)"
    ):
        fit_fold(tiny(devices=2), tiny_table)


def test_bad_input_is_one_sentence(tiny, tiny_table, capfd):
    with pytest.raises(InputError, match="average nothing in 6 steps; lower them"):
        fit_fold(tiny(devices=2, swa_every=100), tiny_table)
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_is_not_hidden(tiny, tiny_table, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(fold, "prepare", broken)
    with pytest.raises(ChildFailedError, match="ZeroDivisionError: a bug"):
        fit_fold(tiny(devices=2), tiny_table)


def test_a_diverging_training_names_its_texts(tiny, tiny_table):
    with pytest.raises(InputError, match=r"the loss of step \d is (nan|inf), on the texts \w+, "):
        fit_fold(
            tiny(devices=2, lr=1e30, head_lr_factor=1e6, max_grad_norm=0, schedule="constant"), tiny_table
        )


@pytest.mark.timeout(60)
def test_a_launch_that_failed_does_not_hang_the_next_one(tiny, tiny_table, monkeypatch):
    """The next one's processes must not garbage-collect what is left of it: they lack its server thread."""
    with pytest.raises(InputError) as kept:
        fit_fold(tiny(devices=2, swa_every=100), tiny_table)
    cycle = [kept.value.__context__]
    cycle.append(cycle)
    del kept, cycle  # garbage, but not yet collected
    monkeypatch.setattr(fold, "prepare", lambda *arguments: (gc.collect(), prepare(*arguments))[1])
    assert artifacts.is_finished(fit_fold(tiny(devices=2), tiny_table))


def test_a_stopped_process_stops_both_after_saving(tiny, tiny_table, monkeypatch):
    check_divergence = fold.check_divergence

    def send(training):
        if training.step == 9 and distributed.processes().process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        check_divergence(training)

    whole = fit_fold(tiny(run="whole", devices=2, **EQUAL), tiny_table)
    config = tiny(run="stopped", devices=2, **EQUAL)
    monkeypatch.setattr(fold, "check_divergence", send)
    with pytest.raises(InputError, match=r"stopped by SIGTERM after step 9; the state is saved"):
        fit_fold(config, tiny_table)
    monkeypatch.setattr(fold, "check_divergence", check_divergence)
    assert_same(whole, fit_fold(config, tiny_table))


def test_the_error_of_the_process_that_failed_first_is_raised(capfd):
    """The others are stopped, and what they raise then must not hide it."""

    def fail(error):
        def raise_stopped(*_):
            raise InputError("stopped")

        signal.signal(signal.SIGTERM, raise_stopped)
        if distributed.processes().process_index == 1:
            raise error
        time.sleep(30)

    with pytest.raises(InputError, match=r"^a sentence: with a colon$"):
        distributed.launch(fail, (InputError("a sentence: with a colon"),), 2)
    with pytest.raises(ChildFailedError, match="ZeroDivisionError"):
        distributed.launch(fail, (ZeroDivisionError(),), 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_is_named_and_the_next_run_resumes(rank, tiny, tiny_table, monkeypatch):
    check_divergence = fold.check_divergence

    def kill(training):
        if training.step == 9 and distributed.processes().process_index == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        check_divergence(training)

    config = tiny(devices=2, save_every=1, **EQUAL)
    monkeypatch.setattr(fold, "check_divergence", kill)
    with pytest.raises(InputError, match=rf"^process {rank} was killed \(SIGKILL\), .*run again to resume.$"):
        fit_fold(config, tiny_table)
    monkeypatch.setattr(fold, "check_divergence", check_divergence)
    assert artifacts.is_finished(fit_fold(config, tiny_table))


def test_memory_that_ran_out_elsewhere_is_an_error_everywhere(tmp_path):
    def run_out():
        if distributed.processes().process_index == 1:
            distributed.all_reduce_max(1)
        else:
            with pytest.raises(distributed.OutOfMemoryElsewhere):
                distributed.raise_if_out_of_memory_elsewhere()
            (tmp_path / "raised").touch()

    distributed.launch(run_out, (), 2)
    assert (tmp_path / "raised").exists()
    distributed.raise_if_out_of_memory_elsewhere()  # does nothing for one process


# --- launching ----------------------------------------------------------------------------------------------


def machine(monkeypatch, gpus):
    monkeypatch.setattr(runtime, "device", lambda: torch.device("cuda" if gpus else "cpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("gpus", "wanted", "number"),
    [(0, 0, 1), (0, 1, 1), (0, 2, 2), (1, 0, 1), (2, 0, 2), (2, 1, 1), (4, 2, 2)],
)
def test_how_many_processes(gpus, wanted, number, monkeypatch):
    machine(monkeypatch, gpus)
    assert distributed.processes_to_launch(wanted) == number
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.processes_to_launch(wanted) == 1, "one of several already"


def test_more_devices_than_the_machine_has(monkeypatch):
    machine(monkeypatch, 2)
    with pytest.raises(InputError, match="devices=3, and this machine has 2; set devices=0"):
        distributed.processes_to_launch(3)


def test_a_process_that_has_used_the_gpu_cannot_share_it(monkeypatch):
    machine(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(InputError, match=r"used the GPU already.*restart the kernel first"):
        distributed.processes_to_launch(2)


def test_a_notebook_asks_about_the_gpu_without_opening_it(monkeypatch, tmp_path):
    """torch must not initialize CUDA: on a build without CUDA, whatever would do so raises an error."""
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text('#!/bin/sh\necho "$@" >> "$0.log"\necho "Tesla T4, 7.5"\n')
    nvidia_smi.chmod(0o755)
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


def test_accelerate_launches_a_fold_from_a_shell(workspace, tiny, tiny_table):
    """--multi_gpu makes Accelerate start several processes even without a GPU."""
    source = encoder_source("tiny")
    options = {"encoder": source, **EQUAL}
    parameters = {"preset": "tiny", "precision": "fp32", "output_dir": workspace / "launched", **options}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "utils", "train"]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=runtime.ROOT, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "fp32 on 2 x CPU" in process.stdout
    one = fit_fold(tiny(**options), tiny_table)
    assert_close(one, workspace / "launched" / "tiny" / "fold-0")


@pytest.mark.full
def test_the_command_line_reports_a_typo_in_one_line():
    command = [sys.executable, "-m", "utils", "train", "-p", "fld", "3"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=runtime.ROOT)
    assert process.returncode == 1
    assert process.stderr == "InputError: 'fld' is not a parameter; did you mean 'fold'?\n"
