import math
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import FAMILIES, SHAPE
from utils.config import Config, InputError
from utils.machine import runtime
from utils.machine.precision import Native
from utils.modeling.model import TextModel, TextModelConfig
from utils.training.optim import make_optimizer, parameter_groups
from utils.training.schedules import LearningRates, count_steps, planned_rates


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


@pytest.mark.parametrize("name", ["madgrad", "adamw"])
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


# --- learning rates ----------------------------------------------------------------------------------------

GROUPS = [{"name": "low", "lr": 1e-5}, {"name": "high", "lr": 1e-3}]


def plan(steps_per_epoch=10, **overrides):
    config = Config.make("demo", **{"epochs": 5, "swa_start": 3, **overrides})
    return planned_rates(GROUPS, config, steps_per_epoch, round(config.epochs * steps_per_epoch)), config


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_schedule_follows_the_warm_up(schedule):
    rates, _ = plan(averaging="none", schedule=schedule, warmup_ratio=0.1)
    high = [row["high"] for row in rates]
    assert high[:6] == pytest.approx([0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    cosine = 0.5 * (1 + math.cos(math.pi * 44 / 45))
    share = {"cosine": cosine, "linear": 1 / 45, "constant": 1}[schedule]  # of the peak, at the last step
    assert high[-1] == pytest.approx(1e-3 * share, rel=1e-4)


@settings(max_examples=40)
@given(
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    anneal=st.sampled_from(["cos", "linear"]),
    anneal_epochs=st.sampled_from([0, 0.3, 1]),
    start=st.sampled_from([0.5, 2, 3.5]),
    factor=st.floats(0.1, 2),
)
def test_swa_keeps_the_ratio_between_the_groups_rates(schedule, anneal, anneal_epochs, start, factor):
    options = {
        "schedule": schedule,
        "swa_anneal": anneal,
        "swa_anneal_epochs": anneal_epochs,
        "swa_start": start,
        "swa_lr_factor": factor,
    }
    rates, _ = plan(**options)
    for row in rates:
        assert row["low"] * 100 == pytest.approx(row["high"])
    assert rates[-1]["high"] == pytest.approx(factor * 1e-3)
    without, _ = plan(**{**options, "averaging": "none"})
    assert rates[: round(start * 10)] == without[: round(start * 10)]
    settled = round(start * 10) + round(anneal_epochs * 10) + 1
    assert [row["high"] for row in rates[settled:]] == pytest.approx([factor * 1e-3] * (50 - settled))


def test_the_published_flat_rate_raises_that_of_the_lowest_layers():
    rates, _ = plan(swa_flat_lr=1e-4, swa_anneal_epochs=1)
    assert rates[-1] == pytest.approx({"low": 1e-4, "high": 1e-4})


def test_ema_does_not_change_the_rates():
    assert plan(averaging="ema")[0] == plan(averaging="none")[0]


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (100, {"batch_size": 16, "epochs": 5}, (7, 35)),
        (100, {"batch_size": 16, "accumulation_steps": 2, "epochs": 5}, (4, 20)),
        (160, {"batch_size": 16, "epochs": 1.1, "swa_start": 1}, (10, 11)),
        (160, {"batch_size": 16, "epochs": 1.11, "swa_start": 1}, (10, 12)),
    ],
)
def test_steps_per_epoch_and_in_all(rows, options, expected):
    assert count_steps(Config.make("demo", **options), rows) == expected


def test_training_follows_the_planned_rates():
    rates, config = plan()
    groups = [{**group, "params": [torch.nn.Parameter(torch.ones(2))]} for group in GROUPS]
    optimizer = make_optimizer(groups, config)
    schedule = LearningRates(optimizer, config, 10, 50)
    for row in rates:
        assert schedule.current() == row
        optimizer.step()
        schedule.step()
