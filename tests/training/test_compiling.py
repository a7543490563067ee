"""torch.compile as a choice: what it means, few programs, the same results, the same names of weights."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from tests.machine.test_distributed import assert_close
from tests.runs.helpers import OPTIONS, Stop, stop_after
from utils.config import InputError
from utils.machine.precision import Choice
from utils.modeling.model import TextModel
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.training import compiling
from utils.training.loop import evaluate, train_epoch
from utils.training.setup import prepare

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("wanted", "precision", "device", "batch_size", "expected"),
    [
        ("off", "bf16", CUDA, 4, "off"),
        ("auto", "fp32", CPU, 4, "off"),
        ("auto", "apex-O1", CUDA, 4, "off"),
        ("auto", "fp16", CUDA, 4, "graphs"),
        ("auto", "fp16", CUDA, 16, "on"),
        ("on", "fp32", CPU, 4, "on"),
        ("graphs", "fp32", CUDA, 64, "graphs"),
    ],
)
def test_what_compile_means(wanted, precision, device, batch_size, expected, tiny):
    config = tiny(compile=wanted, batch_size=batch_size, max_length=256)
    assert compiling.choose(config, Choice(precision, ""), device) == expected


@pytest.mark.parametrize(
    ("wanted", "precision", "device", "message"),
    [
        ("on", "apex-O2", CUDA, "compile=on cannot be used with apex-O2, .*; set compile=off, or precision="),
        ("graphs", "apex-O1", CUDA, "compile=graphs cannot be used with apex-O1"),
        ("graphs", "fp32", CPU, "compile=graphs needs a CUDA GPU, and there is none; set compile=auto"),
    ],
)
def test_what_cannot_be_compiled(wanted, precision, device, message, tiny):
    with pytest.raises(InputError, match=message):
        compiling.choose(tiny(compile=wanted), Choice(precision, ""), device)


@pytest.fixture
def traced(monkeypatch):
    """Models are traced as by torch.compile, and run as they are: compiling takes a minute on a CPU."""
    torch.compiler.reset()
    counters.clear()
    compile_module = torch.nn.Module.compile

    def trace(model, dynamic, mode):
        compile_module(model, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    yield
    torch.compiler.reset()


def test_compiling_leaves_the_names_of_weights_as_they_are(tiny, tiny_table):
    """Nothing is compiled before the first call."""
    plain, compiled = (prepare(tiny(compile=kind), tiny_table, 0) for kind in ("off", "on"))
    assert compiled.model._compiled_call_impl
    assert compiled.averager.model._compiled_call_impl
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert list(compiled.averager.state_dict()) == list(plain.averager.state_dict())


@pytest.mark.full
def test_batches_of_many_shapes_share_few_programs(traced, tiny, tiny_table):
    """All lengths, and all sizes but 1: programs for training and evaluation, for padded and full batches."""
    texts = [text[: 20 + 5 * row] for row, text in enumerate(tiny_table["excerpt"])]
    table = tiny_table.assign(excerpt=texts)
    training = prepare(tiny(compile="on", batch_size=5, eval_batch_size=7), table, 0)
    for epoch in range(2):
        list(train_epoch(training, epoch))
        evaluate(training)
    assert 1 < counters["stats"]["unique_graphs"] <= 10
    assert not counters["recompile_limit"]


@pytest.mark.full
def test_a_compiled_fold_has_the_same_results_and_names(traced, tiny, tiny_table, monkeypatch):
    """Also where it was killed and goes on, and where it was begun without compiling."""
    plain = fit_fold(tiny(run="plain", **OPTIONS), tiny_table)
    config = tiny(run="compiled", compile="on", save_every=1, **OPTIONS)
    for step, compiled in ((5, "off"), (11, "on")):
        undo = stop_after(step, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(replace(config, compile=compiled), tiny_table)
        undo()
    assert counters["stats"]["unique_graphs"]
    assert_close(plain, fit_fold(config, tiny_table))


@pytest.mark.full
def test_memory_that_runs_out_in_a_compiled_step(traced, tiny, tiny_table, monkeypatch, capsys):
    options = {"head_dropout": 0, "batch_size": 8}
    plain = fit_fold(tiny(run="plain", **options), tiny_table)
    forward = TextModel.forward

    def limited(model, **inputs):
        if model.training and len(inputs["input_ids"]) > 3:
            raise torch.OutOfMemoryError
        return forward(model, **inputs)

    monkeypatch.setattr(TextModel, "forward", limited)
    tight = fit_fold(tiny(run="tight", compile="on", **options), tiny_table)
    assert "micro-batches are taken in 4 parts" in capsys.readouterr().out
    assert_close(plain, tight, tolerance=1e-4)


@pytest.mark.full
def test_what_compiling_cost_is_told(traced, tiny, tiny_table, capsys):
    folder = fit_fold(tiny(compile="on"), tiny_table)
    assert artifacts.read_result(folder)["compile_seconds"] > 0
    assert "Compiling took " in capsys.readouterr().out


def test_a_machine_that_cannot_compile_is_told_what_to_do(tiny, tiny_table, monkeypatch):
    def fail(*_, **options):
        raise torch._dynamo.exc.InvalidBackend("nothing")

    monkeypatch.setattr(TextModel, "compile", lambda model, **_: setattr(model, "_compiled_call_impl", fail))
    with pytest.raises(InputError, match=r"cannot be compiled here \(.*\); .* set compile=off and run again"):
        fit_fold(tiny(compile="on"), tiny_table)


@pytest.mark.full
def test_a_really_compiled_fold_has_the_same_results(tiny, tiny_table):
    """Without dropout: compiled code draws other masks."""
    torch.compiler.reset()
    options = {"head_dropout": 0.0}
    folders = [fit_fold(tiny(run=kind, compile=kind, **options), tiny_table) for kind in ("off", "on")]
    assert_close(*folders)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", ["on", "graphs"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_fold_compiled_for_a_gpu_has_the_same_results(kind, accumulation_steps, tiny, tiny_table):
    options = {"head_dropout": 0.0, "batch_size": 4, "accumulation_steps": accumulation_steps}
    folders = [fit_fold(tiny(run=one, compile=one, **options), tiny_table) for one in ("off", kind)]
    assert_close(*folders, tolerance=1e-4)
