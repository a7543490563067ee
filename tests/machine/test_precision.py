import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from tests.stand_ins import apex
from utils.config import InputError
from utils.machine import precision, runtime
from utils.machine.apex_amp import Problem, apex_problem
from utils.machine.precision import Choice, choose
from utils.runs.artifacts import load_model
from utils.runs.fold import fit_fold
from utils.training.setup import prepare

WEIGHTS = ["last", "best", "averaged"]


def machine(monkeypatch, device, bf16=False, amp=False):
    """Pretend that the machine has this device."""
    monkeypatch.setattr(runtime, "device", lambda: torch.device(device))
    monkeypatch.setattr(runtime, "gpu", lambda: ("a GPU", bf16))
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: bf16)
    monkeypatch.setattr(
        precision, "apex_problem", lambda: None if amp else Problem("NVIDIA Apex is not installed")
    )


@pytest.mark.parametrize(
    ("device", "bf16", "amp", "expected", "reason"),
    [
        ("cuda", True, True, "apex-O1", "Apex with amp is installed"),
        ("cuda", False, True, "apex-O1", "Apex with amp is installed"),
        ("cuda", True, False, "bf16", "Apex is not installed"),
        ("cuda", False, False, "fp16", "no native bfloat16.*Apex is not installed"),
        ("cpu", True, False, "bf16", "CPU has bfloat16 natively$"),
        ("cpu", False, False, "fp32", "CPU has no native half precision"),
        ("mps", False, False, "fp32", "MPS has no native half precision"),
    ],
)
def test_auto(monkeypatch, device, bf16, amp, expected, reason):
    machine(monkeypatch, device, bf16, amp)
    choice = choose("auto")
    assert choice.name == expected
    assert re.search(reason, choice.reason)


@pytest.mark.parametrize(
    ("wanted", "device", "words"),
    [
        ("apex-O1", "cpu", "needs a CUDA GPU"),
        ("apex-O2", "cuda", "Apex is not installed; build it"),
        ("fp16", "cpu", "needs a CUDA GPU"),
        ("bf16", "cpu", "no native bfloat16"),
        ("bf16", "cuda", "no native bfloat16"),
    ],
)
def test_an_unavailable_precision_is_an_error(monkeypatch, wanted, device, words):
    machine(monkeypatch, device)
    with pytest.raises(InputError, match=words):
        choose(wanted)


@pytest.mark.parametrize(
    ("device", "bf16", "amp", "expected"),
    [
        ("cpu", False, True, ["fp32"]),
        ("cpu", True, False, ["fp32", "bf16"]),
        ("mps", True, True, ["fp32"]),
        ("cuda", False, False, ["fp32", "fp16"]),
        ("cuda", True, True, ["fp32", "bf16", "fp16", "apex-O1"]),
    ],
)
def test_choose_accepts_what_is_available(monkeypatch, device, bf16, amp, expected):
    machine(monkeypatch, device, bf16, amp)
    assert precision.available() == expected
    assert [choose(name).name for name in expected] == expected


def test_an_available_precision_is_chosen(monkeypatch):
    machine(monkeypatch, "cuda", bf16=True, amp=True)
    for wanted in ("apex-O1", "apex-O2", "fp16", "bf16", "fp32"):
        assert choose(wanted) == Choice(wanted, "asked for")


@pytest.fixture
def no_apex(monkeypatch):
    """No package of that name is imported, before the test or after it."""

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
            del sys.modules[name]

    forget()
    yield
    forget()


def fake_package(folder, monkeypatch, **files):
    (folder / "apex").mkdir()
    for name, text in files.items():
        path = folder / "apex" / name.replace("__slash__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_no_apex_and_pypis_unrelated_apex(tmp_path, monkeypatch, no_apex):
    assert str(apex_problem()) == "NVIDIA Apex is not installed"
    fake_package(tmp_path, monkeypatch, __init__="from pyramid.config import Configurator")
    assert "unrelated" in str(apex_problem())
    assert "python -m pip uninstall -y apex" in str(apex_problem())


def test_a_build_without_amp(tmp_path, monkeypatch, no_apex):
    fake_package(tmp_path, monkeypatch, __init__="", optimizers__slash____init__="")
    assert "build without apex.amp" in str(apex_problem())


def test_a_folder_of_that_name_is_not_a_package(tmp_path, monkeypatch, no_apex):
    (tmp_path / "apex").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "a folder named apex" in str(apex_problem())


def test_the_right_apex(tmp_path, monkeypatch, no_apex):
    fake_package(
        tmp_path, monkeypatch, __init__="", amp="initialize = scale_loss = master_params = state_dict = print"
    )
    assert apex_problem() is None


# --- Apex's contract ----------------------------------------------------------------------------------------


def train_with(amp_level, tiny, tiny_table, monkeypatch, **overrides):
    monkeypatch.setattr(precision, "choose", lambda wanted: Choice(amp_level, "asked for"))
    return fit_fold(tiny(run=amp_level, **overrides), tiny_table)


def test_apex_o1_keeps_the_contract_and_trains_the_same(tiny, tiny_table, monkeypatch):
    """The stand-in computes in float32, so everything must be the same as without it, clipping included."""
    options = {"accumulation_steps": 2, "batch_size": 4, "loss": "rmse", "max_grad_norm": 0.5}
    plain = pd.read_csv(fit_fold(tiny(run="plain", **options), tiny_table) / "predictions.csv")
    amp = apex.install(monkeypatch)
    folder = train_with("apex-O1", tiny, tiny_table, monkeypatch, **options)
    predictions = pd.read_csv(folder / "predictions.csv")
    np.testing.assert_allclose(predictions[WEIGHTS], plain[WEIGHTS], atol=1e-5)
    assert amp.initialized
    assert amp.calls[:4] == ["delayed", "unscaled"] * 2
    assert (pd.read_csv(folder / "history.csv")["loss_scale"] == apex.LOSS_SCALE).all()
    with pytest.raises(InputError, match="restart the kernel"):
        train_with("apex-O1", tiny, tiny_table, monkeypatch, retrain=True)


def test_apex_o2_averages_and_saves_the_float32_masters(tiny, tiny_table, monkeypatch):
    amp = apex.install(monkeypatch)
    # Rates so low that bfloat16 weights would not change: only the masters can.
    options = {"accumulation_steps": 2, "batch_size": 8, "loss": "rmse", "averaging": "swa", "lr": 1e-6}
    folder = train_with("apex-O2", tiny, tiny_table, monkeypatch, **options)
    last, averaged = (load_model(folder / name)[0] for name in ("last", "averaged"))
    assert {p.dtype for p in last.parameters()} == {torch.float32}
    masters = {id(parameter): master for parameter, master in amp.pairs}
    for (name, parameter), half in zip(last.named_parameters(), amp.model.parameters(), strict=True):
        assert half.dtype == torch.bfloat16
        assert torch.equal(parameter, masters[id(half)]), name
    targets = tiny_table.loc[tiny_table["fold"] != 0, "target"]
    for model in (last, averaged):  # O2 would have rounded the location
        assert model.head.location.item() == pytest.approx(targets.mean(), rel=1e-6)
    assert any(not torch.equal(p, p.to(torch.bfloat16).float()) for p in last.parameters())
    # Only the last weights were averaged: the average equals them, unrounded.
    for (name, a), (_, b) in zip(averaged.named_parameters(), last.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("breach", "words"),
    [
        ("schedule first", "schedule was made before"),
        ("half model", "needs float32"),
        ("accelerate first", "plain torch.optim.Optimizer|wrapped"),
        ("twice", "called twice"),
    ],
)
def test_the_stand_in_fails_where_apex_would(breach, words, tiny, tiny_table, monkeypatch):
    amp = apex.install(monkeypatch)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    training = prepare(tiny(precision="bf16" if breach == "accelerate first" else "fp32"), tiny_table, 0)
    model, optimizer = training.model, training.rates.optimizer
    if breach == "half model":
        model = torch.nn.Linear(2, 1).half()
    if breach != "schedule first":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if breach == "accelerate first":
        optimizer = training.optimizer
    if breach == "twice":
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        amp.initialize(model, optimizer)
    with pytest.raises(AssertionError, match=words):
        amp.initialize(model, optimizer)
