"""The arithmetic of the benchmarks, and that each runs; what they measure is not asserted."""

import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from benchmarks import (
    common,
    contestants,
    growth,
    measure,
    plots,
    quality,
    results,
    scaling,
    sections,
    throughput,
)
from benchmarks.contestants import WARM_UP, Clock, Setting
from tests.conftest import SHAPE
from utils.config import InputError
from utils.data.tokens import training_batches
from utils.machine import runtime
from utils.modeling.model import TextModel
from utils.tasks import make_task
from utils.training.build import build_model


def test_the_fit_recovers_the_four_costs():
    costs = [13.0, 0.005, 0.07, 0.4]
    sizes = [(160, 1), (160, 3), (320, 1), (320, 3)]
    fitted = scaling.fit([(rows, epochs, scaling.predict(costs, rows, epochs)) for rows, epochs in sizes])
    assert fitted == pytest.approx(costs, rel=1e-6)


def test_a_batch_takes_as_many_rounds_as_its_folds_need():
    costs = [10.0, 0.0, 0.1, 0.0]
    fold = 10 + 0.1 * 100 * 2
    assert scaling.batch_seconds(costs, 100, 2, folds=5, at_once=2) == pytest.approx(3 * fold)
    assert scaling.batch_seconds(costs, 100, 2, folds=5, at_once=5) == pytest.approx(fold)


def test_neither_the_warm_up_nor_batches_read_ahead_count():
    clock = Clock(steps=WARM_UP + 2)
    for tokens in (999, 999, 999, 40, 60, 999):
        clock.read(torch.ones(1, tokens))
    clock.ends = [100.0, 101.0, 101.5, 102.0, 102.5]
    assert clock.result() == {"tokens_per_second": 100.0}


def test_the_flops_equal_those_that_torch_counts():
    shape = BertConfig(**SHAPE)
    model = BertModel(shape, add_pooling_layer=False)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted:
        model(torch.ones(2, 20, dtype=torch.long)).last_hidden_state.sum().backward()
    # The embeddings are not frozen, so the lowest layer's inputs need gradients too.
    assert measure.training_flops(shape, [20, 20]) == counted.get_total_flops()


def test_the_exponent_is_that_of_the_large_sizes():
    sizes = [1, 10, 100, 1000, 10_000, 100_000]
    costs = [5.0, 5.0, 5.0, 3.0 * 1e3**1.5, 3.0 * 1e4**1.5, 3.0 * 1e5**1.5]
    assert growth.exponent(sizes, costs) == pytest.approx(1.5)


def test_time_to_quality_counts_whichever_weights_are_better():
    curve = [
        {"seconds": 10.0, "rmse": 0.9},
        {"seconds": 20.0, "rmse": 0.7, "swa_rmse": 0.6},
        {"seconds": 30.0, "rmse": 0.5, "swa_rmse": 0.55},
    ]
    assert quality.best(curve) == (0.5, 30.0)
    assert quality.seconds_to(curve, 0.6) == 20.0
    assert quality.seconds_to(curve, 0.4) == math.inf


@pytest.mark.parametrize("name", ["published", "trainer", "lightning", "ours"])
def test_every_contestant_trains_and_counts_no_padding(name, workspace):
    if name == "lightning":
        pytest.importorskip("lightning")
    setting = Setting("sample", "tiny", batch=4, length=400, precision="fp32")
    clock = Clock(steps=WARM_UP + 2)
    getattr(contestants, name)(setting, clock)
    assert len(clock.ends) == WARM_UP + 2
    config = setting.config()
    table = setting.table(WARM_UP + 2)
    task = make_task(config, table)
    lengths = task.encode(table[table["fold"] != 0], build_model(config, task)[1]).lengths
    if name == "published":
        fours = itertools.combinations_with_replacement(set(lengths), 4)
        assert set(clock.tokens) <= {sum(four) for four in fours}
    else:
        batches = [batch for batch in training_batches(lengths, 4, config.seed, 0) if len(batch) == 4]
        expected = [sum(lengths[row] for row in batch) for batch in batches[: WARM_UP + 2]]
        assert clock.tokens[: WARM_UP + 2] == expected, "all three train on the same batches"


def test_batches_split_for_want_of_memory_are_not_measured(workspace, monkeypatch):
    forward = TextModel.forward

    def small(model, **inputs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError
        return forward(model, **inputs)

    monkeypatch.setattr(TextModel, "forward", small)
    with pytest.raises(InputError, match="does not hold a whole batch; measure a smaller one"):
        contestants.ours(
            Setting("sample", "tiny", batch=4, length=64, precision="fp32"), Clock(steps=WARM_UP + 2)
        )


def test_a_random_encoder_has_the_named_shape(workspace, monkeypatch):
    monkeypatch.setitem(common.SHAPES, "base", (1, 32, 2))
    result = throughput.one("ours", Setting("sample", "base", batch=2, length=16, precision="fp32"), steps=1)
    assert result["tokens_per_second"] > 0
    shape = json.loads((workspace / "output" / "random-base" / "config.json").read_text())
    assert (shape["num_hidden_layers"], shape["hidden_size"]) == (1, 32)


SMALL = ["--encoder", "tiny", "--batch", "4", "--length", "32", "--precision", "fp32", "--steps", "2"]
STEP = {"forward", "backward", "clip", "optimizer"}
FOLD = {"reading, s", "tokenising, s", "the fold, s", "table and tokens, GiB", "all memory, GiB"}


@pytest.mark.parametrize(
    ("module", "options", "keys"),
    [
        (
            "throughput",
            ["--one", "phases", *SMALL],
            STEP | {"tokenise", "averaging", "saving a state", "evaluation, tokens/s"},
        ),
        pytest.param(
            "throughput",
            ["--one", "ours", *SMALL],
            {"tokens_per_second", "to_first_step", "peak_gib"},
            marks=pytest.mark.full,
        ),
        pytest.param(
            "parts",
            ["--one", "as trained", "--precision", "fp32", "--batch", "2", "--length", "16"],
            {"seconds", "peak_gib"},
            marks=pytest.mark.full,
        ),
        pytest.param(
            "parts", ["--one", "MADGRAD, ours"], {"seconds", "traffic_seconds"}, marks=pytest.mark.full
        ),
        pytest.param("growth", ["--one", "data/sample/train.csv"], FOLD, marks=pytest.mark.full),
        pytest.param(
            "growth", ["--one", "64,4,2"], {"a step, s", "activations, GiB"}, marks=pytest.mark.full
        ),
        pytest.param(
            "quality",
            ["--one", "published", "--preset", "tiny", "--rows", "20", "--published-epochs", "7"],
            {"rows", "held_out", "curve"},
            marks=pytest.mark.full,
        ),
        ("quality", ["--one", "ours", "--preset", "tiny"], {"precision", "curve", "spent", "whole"}),
    ],
)
def test_every_measurement_runs_and_returns_what_the_page_needs(module, options, keys):
    result = common.run_module(f"benchmarks.{module}", *options)
    assert set(result) == keys
    assert all(value > 0 for value in result.values() if isinstance(value, float))
    if "curve" in keys:
        seconds = [row["seconds"] for row in result["curve"]]
        assert seconds == sorted(seconds)
        assert "swa_rmse" in result["curve"][-1]
    if "spent" in keys:
        assert set(result["spent"]) == {"preparing", "averaging", "saving", "scores and tables", "baselines"}
        assert all(seconds > 0 for seconds in result["spent"].values()), "none of them is timed in vain"


@pytest.mark.full
@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("throughput", "--encoder nobody/nothing", "encoder='nobody/nothing': its config cannot be loaded"),
        ("throughput", "--data nowhere.csv", "nowhere.csv"),
        ("throughput", "--precision auto", "auto is not available here; choose one of: "),
        ("throughput", "--repeats 0", "argument --repeats: invalid positive value: '0'"),
        ("growth", "--most 50", "--most 50 leaves too few sizes"),
        ("quality", "--data nowhere.csv", "nowhere.csv"),
    ],
)
def test_what_cannot_be_measured_is_reported_at_once(module, words, sentence):
    command = [sys.executable, "-m", f"benchmarks.{module}", *words.split()]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=runtime.ROOT)
    assert process.returncode
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr


def made_up_turn(**speeds):
    run = {"tokens_per_second": 100.0, "peak_gib": 1.0, "to_first_step": 2.0}
    runs = {
        name: run | {"tokens_per_second": speeds[name]} if name in speeds else None
        for name in contestants.NAMES
    }
    return {"limits": {"fp32": 1e9, "bf16": 2e9}, "runs": runs}


METADATA = {
    "command": "python -m benchmarks.it",
    "machine": "a machine",
    "date": "2026-01-01",
    "versions": {"torch": "2", "transformers": "5", "python": "3", "lightning": "absent"},
}


def test_the_page_says_what_failed_and_takes_ratios_within_turns():
    turns = [
        made_up_turn(ours=300.0, trainer=100.0),
        made_up_turn(ours=200.0, trainer=200.0),
        made_up_turn(ours=400.0, trainer=200.0),
    ]
    setting = vars(Setting("sample", "minilm", batch=16, length=256, precision="bf16"))
    setting |= {"mean_length": 200.0, "steps": 24, "flops_per_token": 1e6, "phases": None, "turns": turns}
    text = sections.throughput_section(METADATA | {"settings": [setting]}, "plot")
    assert "| HF Trainer | 200 | 1.0 | 10% | 1.0 | 2.0 | 2.00 × (1.00 to 3.00) |" in text
    assert "| ours | 300 | 1.5 | 15% | 1.0 | 2.0 |  |" in text
    assert "| Lightning, SWA | failed |" in text
    plots.plot_throughput({"settings": [setting]})
    without_ours = setting | {"turns": [made_up_turn(trainer=100.0)]}
    text = sections.throughput_section(METADATA | {"settings": [without_ours]}, "plot")
    assert "| ours | failed |" in text


def test_the_page_says_never_where_a_goal_was_not_reached():
    curves = [{"seconds": 9.0, "rmse": 0.4}], [{"seconds": 1.0, "rmse": 0.5}]
    measurements = METADATA | {
        "preset": "demo",
        "fold": 1,
        "published": {"rows": 10, "held_out": 2, "curve": curves[0]},
        "ours": {"precision": "bf16", "curve": curves[1], "spent": {"saving": 1.0}, "whole": 4.0},
    }
    text = sections.quality_section(measurements, "plot")
    assert "| 0.4000 | 9 | never |  | 0.5000 after 1 s | not evaluated yet |" in text
    assert "saving 25.0%" in text


def test_the_committed_page_matches_the_committed_measurements():
    assert results.read_results(common.FOLDER)
    assert results.page(common.FOLDER) == (common.FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    for name, _ in results.read_results(common.FOLDER):
        _, plot = results.SECTIONS[name.split("-")[0]]
        assert plot is None or (common.FOLDER / f"{name}.png").exists()
