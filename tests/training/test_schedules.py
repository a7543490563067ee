"""Learning rates: every schedule against a reference, with layer-wise groups, SWA's phase and resuming."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import OneCycleLR, StepLR
from transformers import get_cosine_schedule_with_warmup

from tests.conftest import CHOICES
from utils.config import Config
from utils.training.optim import make_optimizer
from utils.training.schedules import LearningRates, count_steps, drive, evaluates_after, planned_rates

GROUPS = [{"name": "low", "lr": 1e-5}, {"name": "high", "lr": 1e-3}]
#: Every schedule, with settings under which it moves.
SCHEDULES = {
    "cosine": {"min_lr_ratio": 0.1},
    "linear": {},
    "constant": {},
    "step": {"lr_factor": 0.3, "lr_step_epochs": 0.5},
    "plateau": {"lr_factor": 0.3, "lr_patience": 1, "min_lr_ratio": 0.05, "eval_every": 2},
    "one_cycle": {},
}
SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan]), min_size=30, max_size=30)


def make_config(**overrides):
    settings_of_schedule = SCHEDULES[overrides.get("schedule", "linear")]
    return Config.make("demo", **{"epochs": 5, "swa_start": 3, **settings_of_schedule, **overrides})


def plan(steps_per_epoch=10, scores=(), **overrides):
    config = make_config(**overrides)
    total_steps = round(config.epochs * steps_per_epoch)
    return planned_rates(GROUPS, config, steps_per_epoch, total_steps, scores), config


def high(scores=(), **overrides):
    """The second group's rate at each step, in shares of its peak, without averaging."""
    rates, _ = plan(scores=scores, averaging="none", **overrides)
    return [row["high"] / 1e-3 for row in rates]


def momenta(**overrides):
    config = make_config(**overrides)
    return [rates.optimizer.param_groups[1]["momentum"] for rates in drive(GROUPS, config, 10, 50)]


def make_rates(config, steps_per_epoch=10, total_steps=50, groups=GROUPS):
    """LearningRates of the Config's own optimizer over small weights."""
    groups = [{**group, "params": [torch.nn.Parameter(torch.ones(2))]} for group in groups]
    return LearningRates(make_optimizer(groups, config), config, steps_per_epoch, total_steps)


def test_every_schedule_is_tested():
    assert tuple(SCHEDULES) == CHOICES["schedule"]


# --- each schedule against a reference ----------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_schedule_follows_the_warm_up(schedule):
    shares = high(
        schedule=schedule, warmup_ratio=0.1, **({"min_lr_ratio": 0} if schedule == "cosine" else {})
    )
    assert shares[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    cosine = 0.5 * (1 + math.cos(math.pi * 44 / 45))
    expected = {"cosine": cosine, "linear": 1 / 45, "constant": 1}[schedule]  # at the last step
    assert shares[-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "step", "plateau"])
@pytest.mark.parametrize("ratio", [0, 0.1, 0.3])
def test_the_warm_up_is_a_line_from_zero_whatever_the_schedule(schedule, ratio):
    steps = round(50 * ratio)
    overrides = {"schedule": schedule, "warmup_ratio": ratio}
    if schedule == "step":
        overrides["lr_step_epochs"] = 4
    shares = high(**overrides)
    assert shares[: steps + 1] == pytest.approx([step / max(steps, 1) for step in range(steps)] + [1])


def test_cosine_without_a_floor_has_the_same_bits_as_transformers_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=7e-5)
    schedule = get_cosine_schedule_with_warmup(optimizer, 5, 47)
    group = [{"name": "all", "lr": 7e-5}]
    config = Config.make("demo", schedule="cosine", warmup_ratio=5 / 47, averaging="none")
    for row in planned_rates(group, config, 10, 47):
        assert row["all"] == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_cosine_falls_to_the_least_rate():
    shares = high(schedule="cosine", warmup_ratio=0.1, min_lr_ratio=0.2)
    expected = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * step / 45)) for step in range(45)]
    assert shares[5:] == pytest.approx(expected)


def test_step_multiplies_at_the_ends_of_every_nth_epoch():
    shares = high(schedule="step", lr_step_epochs=2, lr_factor=0.3, warmup_ratio=0.1)
    assert shares[5:20] == [1] * 15
    assert shares[20:] == pytest.approx([0.3] * 20 + [0.09] * 10)


@pytest.mark.parametrize(("epochs", "every"), [(1, 10), (0.5, 5), (0.01, 1), (9, 90)])
def test_step_without_warm_up_is_torchs(epochs, every):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = StepLR(optimizer, every, gamma=0.7)
    for share in high(schedule="step", lr_step_epochs=epochs, lr_factor=0.7, warmup_ratio=0):
        assert share == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_a_plateau_of_patience_evaluations_lowers_the_rate_and_not_one_fewer(patience):
    shares = high([0.5] * 30, schedule="plateau", lr_patience=patience, lr_factor=0.5, warmup_ratio=0)
    reductions = [step for step in range(1, 50) if shares[step] < shares[step - 1]]
    first = 2 * (1 + patience)  # evaluations lie two steps apart; the first one is the best
    assert reductions[:2] == [first, first + 2 * patience]


def lowered(scores, patience, factor, floor):
    """What a plateau makes of the scores: the share of the peak after each, written out."""
    shares, share, best, waited = [], 1.0, math.inf, 0
    for score in scores:
        if not math.isnan(score):
            waited = 0 if score < best else waited + 1
            best = min(best, score)
            if waited == patience:
                share, waited = max(share * factor, floor), 0
        shares.append(share)
    return shares


@settings(max_examples=60)
@given(scores=SCORES, patience=st.integers(1, 4), floor=st.sampled_from([0, 0.05, 0.3]))
def test_a_plateau_lowers_the_rate_by_its_scores_alone(scores, patience, floor):
    options = {"lr_patience": patience, "lr_factor": 0.5, "min_lr_ratio": floor, "eval_every": 2}
    shares = high(scores, schedule="plateau", warmup_ratio=0, **options)
    assert shares[2::2] == pytest.approx(lowered(scores, patience, 0.5, floor)[:24])
    assert shares[3::2] == shares[2::2], "between two evaluations nothing changes"


def test_a_plateau_follows_the_metrics_direction():
    config = make_config(schedule="plateau", averaging="none", warmup_ratio=0)
    error, share = make_rates(config), make_rates(config)
    for score, expected in [(0.1, 1), (0.2, 1), (0.15, 0.3), (0.3, 0.3), (0.3, 0.09)]:
        error.evaluated(-score, higher_is_better=False)
        share.evaluated(score, higher_is_better=True)
        assert share.current() == error.current()
        assert share.current()["high"] == pytest.approx(expected * 1e-3)


def test_a_plateau_begins_to_count_after_the_warm_up():
    """Evaluations lie two steps apart, and the warm-up has ten steps."""
    shares = high([0.1] + [0.5] * 30, schedule="plateau", lr_patience=2, warmup_ratio=0.2)
    assert shares[10:14] == [1] * 4, "the best of the warm-up would have counted"
    assert shares[14] == pytest.approx(0.3)


def test_one_cycle_goes_up_for_a_tenth_and_far_down_and_momentum_the_other_way():
    shares, momentum = high(schedule="one_cycle"), momenta(schedule="one_cycle", averaging="none")
    assert [shares[0], shares[4], shares[49]] == pytest.approx([0.1, 1, 0.001])
    assert [momentum[0], momentum[4], momentum[49]] == pytest.approx([0.95, 0.85, 0.95])
    assert shares == [*sorted(shares[:4]), *sorted(shares[4:], reverse=True)]
    assert (shares[26] + shares[27]) / 2 == pytest.approx(0.5005), "half-way down, between two steps"


def test_one_cycle_is_torchs_over_the_real_steps():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    schedule = OneCycleLR(optimizer, 1e-3, 50, pct_start=0.1, div_factor=10, final_div_factor=100)
    for rates in drive(GROUPS, make_config(schedule="one_cycle", averaging="none"), 10, 50):
        own, torchs = rates.optimizer.param_groups[1], optimizer.param_groups[0]
        assert (own["lr"], own["momentum"]) == (torchs["lr"], torchs["momentum"])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("total_steps", [1, 2, 3, 9, 10, 11, 19, 20, 21])
def test_a_cycle_of_few_steps_still_climbs_to_the_peak_and_stays_down(total_steps):
    rates = make_rates(make_config(schedule="one_cycle", averaging="none"), total_steps, total_steps)
    shares = []
    for _ in range(total_steps):
        shares.append(rates.current()["high"] / 1e-3)
        rates.optimizer.step()
        rates.step()
    assert shares[0] == pytest.approx(0.1)
    if total_steps > 1:
        assert max(shares) > 0.97
    if total_steps > 2:
        assert shares[-1] == pytest.approx(0.001)
    assert rates.current()["high"] / 1e-3 == shares[-1], "after the last step the cycle would turn again"


@pytest.mark.parametrize(
    ("optimizer", "key", "own", "cycles"),
    [
        ("sgd", "momentum", 0.9, True),
        ("adam", "betas", (0.9, 0.999), True),
        ("adamw", "betas", (0.9, 0.999), True),
        ("madgrad", "momentum", 0.9, False),  # which is of another meaning
    ],
)
def test_the_cycle_moves_momentum_where_the_optimizer_has_one(optimizer, key, own, cycles):
    rates = make_rates(make_config(schedule="one_cycle", optimizer=optimizer, swa_start=3))
    seen = []
    for _ in range(31):
        seen.append([group[key] for group in rates.optimizer.param_groups])
        rates.optimizer.step()
        rates.step()
    for step, expected in [(0, 0.95), (4, 0.85)]:
        for value in seen[step]:
            momentum, *rest = value if key == "betas" else [value]
            assert momentum == pytest.approx(expected if cycles else own)
            assert rest == ([0.999] if key == "betas" else [])
    assert seen[30] == [own] * 2, "SWA has the optimizer's own"


# --- groups, and SWA's phase --------------------------------------------------------------------------------

ANY_SCHEDULE = {
    "schedule": st.sampled_from(list(SCHEDULES)),
    "scores": SCORES,
    "warmup": st.sampled_from([0, 0.06, 0.3]),
}


@settings(max_examples=60)
@given(**ANY_SCHEDULE)
def test_every_schedule_keeps_the_ratio_between_the_groups_rates(schedule, scores, warmup):
    rates, _ = plan(scores=scores, schedule=schedule, warmup_ratio=warmup, averaging="none")
    for row in rates:
        assert row["low"] * 100 == pytest.approx(row["high"])


@settings(max_examples=60)
@given(
    **ANY_SCHEDULE,
    anneal=st.sampled_from(["cos", "linear"]),
    anneal_epochs=st.sampled_from([0, 0.3, 1]),
    start=st.sampled_from([0.5, 2, 3.5]),
    factor=st.floats(0.1, 2),
)
def test_swa_follows_any_schedule_and_keeps_the_ratio(
    schedule, scores, warmup, anneal, anneal_epochs, start, factor
):
    options = {
        "schedule": schedule,
        "scores": scores,
        "warmup_ratio": warmup,
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


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ema_does_not_change_the_rates(schedule):
    options = {"schedule": schedule, "scores": [0.5] * 30}
    assert plan(averaging="ema", **options)[0] == plan(averaging="none", **options)[0]


# --- the steps of a run, and resuming -----------------------------------------------------------------------


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


OPTIMIZERS = [name for name in CHOICES["optimizer"] if name != "fused_adam"]  # which needs a GPU


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_follows_the_planned_rates(schedule, optimizer):
    scores = [0.5] * 30
    rates, config = plan(schedule=schedule, scores=scores, optimizer=optimizer)
    schedule = make_rates(config)
    for step, row in enumerate(rates, start=1):
        assert schedule.current() == row
        schedule.optimizer.step()
        schedule.step()
        if config.eval_every and step % config.eval_every == 0:
            schedule.evaluated(scores[step // config.eval_every - 1])


@pytest.mark.parametrize(
    ("start", "every", "steps"),
    [(0, 2, [2, 4, 6]), (1.0, 2, [4, 6]), (1.5, 1, [5, 6]), (1.2, 0, [6]), (2, 4, [])],
)
def test_evaluations_begin_at_an_epoch(start, every, steps):
    config = Config.make("tiny", eval_from=start, eval_every=every)
    assert [step for step in range(1, 7) if evaluates_after(step, config, 3)] == steps


def train(rates, steps):
    """Steps of both groups on losses of their own, with an evaluation after every second one."""
    weights = [group["params"][0] for group in rates.optimizer.param_groups]
    for step in steps:
        rates.optimizer.zero_grad()
        sum((step % 3 - weight).square().sum() for weight in weights).backward()
        rates.optimizer.step()
        rates.step()
        if step % 2 == 0:
            rates.evaluated([0.3, 0.2, 0.25, math.nan, 0.25][step // 2 % 5])
    return weights


def load(rates, saved, weights):
    """A new process's LearningRates and optimizer, brought to what was saved, as a fold's state is."""
    state = torch.load(io.BytesIO(saved), weights_only=True)
    rates.load_state_dict(state["rates"])
    rates.optimizer.load_state_dict(state["optimizer"])
    with torch.no_grad():
        for group, weight in zip(rates.optimizer.param_groups, weights, strict=True):
            group["params"][0].copy_(weight)


def momentum_of(rates):
    return [group.get("betas", group.get("momentum")) for group in rates.optimizer.param_groups]


@pytest.mark.parametrize("averaging", ["swa", "none"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_interrupted_schedule_goes_on_bit_identically(schedule, optimizer, averaging):
    options = {"schedule": schedule, "optimizer": optimizer, "averaging": averaging}
    config = make_config(weight_decay=0.1, warmup_ratio=0.2, **options)
    whole, *parts = (make_rates(config, steps_per_epoch=4, total_steps=20) for _ in range(9))
    expected = train(whole, range(1, 21))
    for stop in (2, 9, 12, 13):  # in the warm-up; before, at and after the start of SWA's phase
        first, second = parts.pop(), parts.pop()
        weights = train(first, range(1, stop + 1))
        file = io.BytesIO()
        torch.save({"rates": first.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
        load(second, file.getvalue(), weights)
        assert second.current() == first.current()
        resumed = train(second, range(stop + 1, 21))
        assert second.current() == whole.current(), stop
        assert momentum_of(second) == momentum_of(whole)
        for weight, other in zip(resumed, expected, strict=True):
            assert torch.equal(weight, other), stop
