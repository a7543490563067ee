"""No step waits for the device. On a CPU it is torch's "meta", whose tensors have no values to read."""

import contextlib
import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import FAMILIES, save_encoder
from tests.modeling.test_losses import SoftF1
from utils.machine import precision, runtime
from utils.training import averaging, loop, optim, setup
from utils.training.loop import train_epoch
from utils.training.lowprecision import FORMATS
from utils.training.madgrad import MADGRAD
from utils.training.setup import prepare

META = torch.device("meta")
#: Copies of one number to the device that a forward pass of transformers waits for. The wait comes before the
#: first layer, so the GPU idles for as long as it takes to launch that one.
KNOWN = {"deberta-v2": 1, "deberta-v3": 1}


class BlockingCopies(TorchDispatchMode):
    """Counts the copies from one device to another that the CPU waits for; ``sizes`` has their elements."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        result = function(*arguments, **options)
        moved = function is torch.ops.aten._to_copy.default and result.device != arguments[0].device
        if moved and not options.get("non_blocking"):
            self.sizes.append(result.numel())
        return result


@pytest.fixture
def on_meta(monkeypatch):
    """Makes a Training whose device is "meta", from ``prepare``'s arguments."""
    adamw, states = torch.optim.AdamW, runtime.random_states
    monkeypatch.setitem(optim.TORCH, "adamw", lambda *args, fused, **options: adamw(*args, **options))
    monkeypatch.setattr(runtime, "random_states", lambda device: states(torch.device("cpu")))
    monkeypatch.setattr(setup, "place_model", lambda model, *_: model.to(META))
    monkeypatch.setattr(precision.Accelerator, "prepare_model", lambda accelerator, model, **_: model)

    def make(*arguments):
        training = prepare(*arguments)
        training.backend.device = META
        training.task.loss.to(META)
        return training

    return make


def blocking_copies(training):
    """The sizes of those in an epoch. Reading a value raises an error of torch's."""
    with BlockingCopies() as copies:
        assert len(list(train_epoch(training, 0))) == training.steps_per_epoch
    return copies.sizes


@pytest.mark.parametrize("name", FAMILIES)
def test_no_step_of_any_encoder_reads_the_device(name, on_meta, tiny, tiny_table, tmp_path):
    shape = copy.deepcopy(FAMILIES[name])
    shape.vocab_size = 2000  # as the tokenizer has
    folder = save_encoder(tmp_path / name, shape)
    training = on_meta(tiny(encoder=str(folder), batch_size=12), tiny_table, 0)
    assert blocking_copies(training) == KNOWN.get(name, 0) * 4 * [1]


RECIPES = [
    {"averaging": "ema", "swa_start": 0.0, "loss": "rmse"},
    {"swa_start": 0.0, "swa_every": 1, "accumulation_steps": 2, "max_grad_norm": 0},
    {"optimizer": "madgrad", "encoder_dropout": 0.1, "pooling": "attention", "batch_size": 5},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_no_recipe_reads_the_device(recipe, on_meta, tiny, tiny_table):
    assert blocking_copies(on_meta(tiny(**recipe), tiny_table, 0)) == []


def test_a_loss_of_several_statistics_does_not_read_the_device(on_meta, tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(runtime, "restore_random_states", lambda states, device: None)
    training = on_meta(tiny(), tiny_table, 0)
    training.task.loss = SoftF1()
    assert blocking_copies(training) == []


def test_madgrad_under_a_gradient_scaler_does_not_read_the_device():
    weight = torch.nn.Parameter(torch.ones(3, device=META))
    weight.grad = torch.ones(3, device=META)
    optimizer = MADGRAD([weight], weight_decay=0.1)
    optimizer.found_inf = optimizer.grad_scale = torch.ones((), device=META)  # as the scaler sets them
    with BlockingCopies() as copies:
        optimizer.step()
    assert copies.sizes == []


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_weights_does_not_read_the_device(name):
    assert FORMATS[name](torch.ones(3, 4, device=META), None).device == META


@pytest.mark.parametrize("culprit", ["mask", "average", "counts"])
def test_what_waits_is_found(culprit, on_meta, tiny, tiny_table, monkeypatch):
    """The test above fails for what used to wait."""
    if culprit == "mask":
        monkeypatch.setattr(loop, "known_padding", lambda mask: contextlib.nullcontext())
    if culprit == "average":
        update = lambda averager, model, weights: averager._averaged.update_parameters(model)  # noqa: E731
        monkeypatch.setattr(averaging.Averager, "update", update)
    if culprit == "counts":
        monkeypatch.setattr(runtime, "to_device", lambda tensor, device: tensor.to(device))
    training = on_meta(tiny(swa_start=0.0, swa_every=1), tiny_table, 0)
    with pytest.raises((RuntimeError, AssertionError), match=r"meta tensor|a blocking copy"):
        assert not blocking_copies(training), "a blocking copy"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("chosen", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("recipe", [{}, *RECIPES, {"weight_format": "bfp8"}], ids=str)
def test_no_step_waits_for_the_gpu(chosen, recipe, tiny, tiny_table):
    training = prepare(tiny(precision=chosen, **recipe), tiny_table, 0)
    list(train_epoch(training, 0))  # whose first step loads kernels and fills the allocator
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(train_epoch(training, 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
