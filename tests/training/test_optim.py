import sys
import types

import pytest
import torch

from tests.conftest import FAMILIES, SHAPE
from utils.config import Config, InputError
from utils.machine import runtime
from utils.machine.precision import Native
from utils.modeling.model import TextModel, TextModelConfig
from utils.training.optim import make_optimizer, parameter_groups


def make_model(family, **changes):
    config = type(FAMILIES[family])(**{**FAMILIES[family].to_dict(), **changes})
    return TextModel(TextModelConfig(encoder=config))


@pytest.mark.parametrize("mode", ["grouped", "layerwise", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_exactly_one_group(family, mode):
    model = make_model(family)
    groups = parameter_groups(model, Config.make("demo", param_groups=mode))
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    assert len({group["name"] for group in groups}) == len(groups)


def rate_and_decay(groups, parameter):
    (group,) = (group for group in groups if any(member is parameter for member in group["params"]))
    return group["lr"], group["weight_decay"]


@pytest.mark.parametrize("family", FAMILIES)
def test_layerwise_rates_fall_towards_the_embeddings(family):
    model = make_model(family)
    groups = parameter_groups(model, Config.make("demo", lr=1e-4, layer_decay=0.5, weight_decay=0.1))
    expected = {"embeddings": 1.25e-5, "0": 2.5e-5, "1": 5e-5, "2": 1e-4, "top": 1e-4, "head": 2e-3}
    seen = set()
    for name, parameter in model.named_parameters():
        layer = next((part for part in name.split(".") if part.isdigit()), "top")
        part = "head" if not name.startswith("encoder.") else "embeddings" if "embed" in name else layer
        assert rate_and_decay(groups, parameter)[0] == pytest.approx(expected[part]), name
        seen.add(part)
    assert seen >= {"embeddings", "0", "1", "2", "head"}


@pytest.mark.parametrize(
    ("depth", "tiers"), [(12, "000011112222"), (6, "001122"), (4, "0012"), (3, "012"), (1, "0")]
)
def test_grouped_rates_are_the_published_thirds(depth, tiers):
    model = make_model("bert", num_hidden_layers=depth)
    config = Config.make("commonlit_original", lr=2.6e-5, weight_decay=0.1)
    groups = parameter_groups(model, config)
    for layer, tier in zip(model.encoder.encoder.layer, tiers, strict=True):
        rate, decay = rate_and_decay(groups, layer.output.dense.weight)
        assert rate == pytest.approx({"0": 1e-5, "1": 2.6e-5, "2": 6.76e-5}[tier])
        assert decay == 0.1
        assert rate_and_decay(groups, layer.output.dense.bias) == (rate, 0.0)
        assert rate_and_decay(groups, layer.output.LayerNorm.weight) == (rate, 0.0)
    assert rate_and_decay(groups, model.encoder.embeddings.word_embeddings.weight)[0] == 2.6e-5
    assert rate_and_decay(groups, model.head.linear.weight) == (pytest.approx(5.2e-4), 0.0)
    assert rate_and_decay(groups, model.pooling.layer_weights) == (pytest.approx(5.2e-4), 0.0)


def test_frozen_parameters_are_left_out():
    model = make_model("bert")
    model.encoder.embeddings.requires_grad_(False)
    groups = parameter_groups(model, Config.make("demo"))
    assert not any(group["name"].startswith("embeddings") for group in groups)


def test_an_encoder_whose_layers_share_weights_is_refused_where_layers_matter():
    from transformers import AlbertConfig

    model = TextModel(TextModelConfig(encoder=AlbertConfig(**SHAPE, embedding_size=16)))
    with pytest.raises(ValueError, match='use param_groups="none"'):
        parameter_groups(model, Config.make("demo"))
    assert parameter_groups(model, Config.make("demo", param_groups="none"))


@pytest.mark.parametrize("name", ["madgrad", "adamw", "adam", "sgd"])
def test_optimizers_lower_a_loss(name):
    model = make_model("bert")
    config = Config.make("demo", optimizer=name)
    optimizer = make_optimizer(parameter_groups(model, config), config)
    assert type(optimizer).__name__.lower() == name
    ids = torch.arange(5, 29).view(2, 12)
    losses = []
    for _ in range(8):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        loss = (logits - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def sgd(w, g, state, step, lr, decay, eps):
    """Momentum 0.9; the decay goes through it."""
    state["m"] = 0.9 * state["m"] + g + decay * w
    return w - lr * state["m"]


def adam(w, g, state, step, lr, decay, eps):
    """The decay goes through both averages."""
    g = g + decay * w
    state["m"] = 0.9 * state["m"] + 0.1 * g
    state["v"] = 0.999 * state["v"] + 0.001 * g**2
    return w - lr * (state["m"] / (1 - 0.9**step)) / ((state["v"] / (1 - 0.999**step)) ** 0.5 + eps)


def adamw(w, g, state, step, lr, decay, eps):
    """The decay goes past them."""
    return adam(w, g, state, step, lr, 0, eps) - lr * decay * w


@pytest.mark.parametrize("reference", [sgd, adam, adamw], ids=lambda function: function.__name__)
def test_the_optimizers_step_is_the_written_out_one(reference):
    """Two groups, each with its own rate and decay."""
    settings = [(0.01, 0.3), (0.05, 0.0)]
    weights = [torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5])) for _ in settings]
    groups = [
        {"params": [weight], "lr": lr, "weight_decay": decay}
        for weight, (lr, decay) in zip(weights, settings, strict=True)
    ]
    optimizer = make_optimizer(groups, Config.make("demo", optimizer=reference.__name__, eps=1e-3))
    expected = [weight.detach().double() for weight in weights]
    states = [{"m": 0.0, "v": 0.0} for _ in settings]
    for step in range(1, 6):
        for number, (weight, (lr, decay)) in enumerate(zip(weights, settings, strict=True)):
            weight.grad = torch.tensor([0.3 * step, -0.1, 0.2 - 0.1 * step])
            expected[number] = reference(
                expected[number], weight.grad.double(), states[number], step, lr, decay, 1e-3
            )
        optimizer.step()
        for weight, value in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach().double(), value, rtol=1e-5, atol=1e-6)


def test_fused_adam_without_apex_is_refused():
    with pytest.raises(InputError, match="needs NVIDIA Apex"):
        make_optimizer([], Config.make("demo", optimizer="fused_adam"))


def test_fused_adam_works_through_accelerate(monkeypatch):
    """Apex's FusedAdam has a zero_grad without arguments."""

    class FusedAdam(torch.optim.AdamW):
        def __init__(self, groups, adam_w_mode, **options):
            assert adam_w_mode
            super().__init__(groups, **options)

        def zero_grad(self):
            super().zero_grad()

    optimizers = types.ModuleType("apex.optimizers")
    optimizers.FusedAdam = FusedAdam
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    model = make_model("bert")
    config = Config.make("demo", optimizer="fused_adam")
    with pytest.raises(InputError, match="needs a CUDA GPU"):
        make_optimizer(parameter_groups(model, config), config)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "device", lambda: torch.device("cuda"))
        optimizer = make_optimizer(parameter_groups(model, config), config)
    _, stepped = Native("fp32").prepare(model, optimizer)
    before = model.head.linear.bias.detach().clone()
    model.head.linear.bias.grad = torch.ones(1)
    stepped.step()
    stepped.zero_grad()
    assert not torch.equal(model.head.linear.bias, before)
    assert model.head.linear.bias.grad is None
