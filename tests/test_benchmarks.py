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

from benchmarks import common, contestants, growth, quality, results, scaling, throughput
from benchmarks.contestants import WARM_UP, Clock, Setting
from tests.conftest import SHAPE
from utils import data, runtime
from utils.config import InputError
from utils.model import TextRegressor, build_model


def test_the_four_costs_are_found_again_from_the_runs_they_make():
    costs = [13.0, 0.005, 0.07, 0.4]
    sizes = [(160, 1), (160, 3), (320, 1), (320, 3)]
    found = scaling.fit([(rows, epochs, scaling.predict(costs, rows, epochs)) for rows, epochs in sizes])
    assert found == pytest.approx(costs, rel=1e-6)


def test_a_batch_takes_as_many_rounds_as_its_folds_need():
    costs = [10.0, 0.0, 0.1, 0.0]
    fold = 10 + 0.1 * 100 * 2
    assert scaling.batch_seconds(costs, 100, 2, folds=5, at_once=2) == pytest.approx(3 * fold)
    assert scaling.batch_seconds(costs, 100, 2, folds=5, at_once=5) == pytest.approx(fold)


def test_neither_the_warm_up_nor_what_was_read_ahead_is_counted():
    clock = Clock(steps=WARM_UP + 2)
    for tokens in (999, 999, 999, 40, 60, 999):
        clock.read(torch.ones(1, tokens))
    clock.ends = [100.0, 101.0, 101.5, 102.0, 102.5]
    assert clock.result() == {"tokens_per_second": 100.0}


def test_the_flops_are_those_that_torch_counts():
    shape = BertConfig(**SHAPE)
    model = BertModel(shape, add_pooling_layer=False)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted:
        model(torch.ones(2, 20, dtype=torch.long)).last_hidden_state.sum().backward()
    # The lowest layer's inputs need no gradient of theirs only if the embeddings are frozen, which they are not.
    assert common.training_flops(shape, [20, 20]) == counted.get_total_flops()


def test_an_exponent_is_that_of_the_large_sizes():
    sizes = [1, 10, 100, 1000, 10_000, 100_000]
    assert growth.exponent(sizes, [5.0, 5.0, 5.0, 3.0 * 1e3**1.5, 3.0 * 1e4**1.5, 3.0 * 1e5**1.5]) == pytest.approx(1.5)


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
    texts = data.Texts.of(table[table["fold"] != 0], build_model(config)[1], config)
    if name == "published":
        fours = itertools.combinations_with_replacement(set(texts.lengths), 4)
        assert set(clock.tokens) <= {sum(four) for four in fours}
    else:
        batches = [batch for batch in data.training_batches(texts.lengths, 4, config.seed, 0) if len(batch) == 4]
        wanted = [sum(texts.lengths[row] for row in batch) for batch in batches[: WARM_UP + 2]]
        assert clock.tokens[: WARM_UP + 2] == wanted, "all three train on the same batches"


def test_batches_that_memory_cut_in_parts_are_not_measured(workspace, monkeypatch):
    forward = TextRegressor.forward

    def small(model, **inputs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError
        return forward(model, **inputs)

    monkeypatch.setattr(TextRegressor, "forward", small)
    with pytest.raises(InputError, match="does not hold a whole batch; measure a smaller one"):
        contestants.ours(Setting("sample", "tiny", batch=4, length=64, precision="fp32"), Clock(steps=WARM_UP + 2))


def test_a_random_encoder_has_the_shape_that_it_names(workspace, monkeypatch):
    monkeypatch.setitem(common.GEOMETRIES, "base", (1, 32, 2))
    found = throughput.one("ours", Setting("sample", "base", batch=2, length=16, precision="fp32"), steps=1)
    assert found["tokens_per_second"] > 0
    about = json.loads((workspace / "output" / "random-base" / "config.json").read_text())
    assert (about["num_hidden_layers"], about["hidden_size"]) == (1, 32)


PHASES = {"forward", "backward", "clip", "optimizer", "tokenise", "averaging", "saving a state", "evaluation, tokens/s"}


@pytest.mark.parametrize(
    ("module", "words", "keys"),
    [
        ("throughput", "--one phases --encoder tiny --batch 4 --length 32 --precision fp32 --steps 2", PHASES),
        ("throughput", "--one ours --encoder tiny --batch 4 --length 32 --precision fp32 --steps 2",
         {"tokens_per_second", "to_first_step", "peak_gib"}),
        ("parts", "--one as&trained --precision fp32 --batch 2 --length 16", {"seconds", "peak_gib"}),
        ("parts", "--one MADGRAD,&ours", {"seconds", "traffic_seconds"}),
        ("growth", "--one data/sample/train.csv",
         {"reading, s", "tokenising, s", "the fold, s", "table and tokens, GiB", "all memory, GiB"}),
        ("growth", "--one 64,4,2", {"a step, s", "activations, GiB"}),
        ("quality", "--one published --preset tiny --rows 20 --published-epochs 7", {"rows", "held_out", "curve"}),
        ("quality", "--one ours --preset tiny", {"precision", "curve", "spent", "whole"}),
    ],
)  # fmt: skip
def test_every_measurement_runs_and_gives_what_the_page_reads(module, words, keys):
    found = common.in_own_process(f"benchmarks.{module}", *(word.replace("&", " ") for word in words.split()))
    assert set(found) == keys
    assert all(value > 0 for value in found.values() if isinstance(value, float))
    if "curve" in keys:
        seconds = [row["seconds"] for row in found["curve"]]
        assert seconds == sorted(seconds)
        assert "swa_rmse" in found["curve"][-1]


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("throughput", "--encoder nobody/nothing", "encoder='nobody/nothing': its config cannot be loaded"),
        ("throughput", "--data nowhere.csv", "nowhere.csv"),
        ("throughput", "--precision auto", "auto is not to be had here; choose one of: "),
        ("throughput", "--repeats 0", "argument --repeats: invalid positive value: '0'"),
        ("growth", "--most 50", "--most 50 leaves too few sizes"),
        ("quality", "--data nowhere.csv", "nowhere.csv"),
    ],
)
def test_what_cannot_be_measured_is_told_at_once(module, words, sentence):
    command = [sys.executable, "-m", f"benchmarks.{module}", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=runtime.ROOT)
    assert done.returncode
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def made_up_turn(**runs):
    one = {"tokens_per_second": 100.0, "peak_gib": 1.0, "to_first_step": 2.0}
    found = {name: one | {"tokens_per_second": runs[name]} if name in runs else None for name in contestants.NAMES}
    return {"limits": {"fp32": 1e9, "bf16": 2e9}, "runs": found}


ABOUT = {"command": "python -m benchmarks.it", "machine": "a machine", "date": "2026-01-01",
         "versions": {"torch": "2", "transformers": "5", "python": "3", "lightning": "absent"}}  # fmt: skip


def test_the_page_says_what_failed_and_takes_ratios_within_turns():
    setting = {
        "data": "sample", "encoder": "minilm", "batch": 16, "length": 256, "precision": "bf16", "mean_length": 200.0,
        "steps": 24, "flops_per_token": 1e6, "phases": None,
        "turns": [made_up_turn(ours=300.0, trainer=100.0), made_up_turn(ours=200.0, trainer=200.0),
                  made_up_turn(ours=400.0, trainer=200.0)],
    }  # fmt: skip
    text = results.throughput(ABOUT | {"settings": [setting]}, "plot")
    assert "| HF Trainer | 200 | 1.0 | 10% | 1.0 | 2.0 | 2.00 × (1.00 to 3.00) |" in text
    assert "| ours | 300 | 1.5 | 15% | 1.0 | 2.0 |  |" in text
    assert "| Lightning, SWA | failed |" in text
    results.plot_throughput({"settings": [setting]})
    none = setting | {"turns": [made_up_turn(trainer=100.0)]}
    assert "| ours | failed |" in results.throughput(ABOUT | {"settings": [none]}, "plot")


def test_the_page_says_never_where_a_goal_was_not_reached():
    found = ABOUT | {
        "preset": "demo", "fold": 1, "published": {"rows": 10, "held_out": 2, "curve": [{"seconds": 9.0, "rmse": 0.4}]},
        "ours": {"precision": "bf16", "curve": [{"seconds": 1.0, "rmse": 0.5}], "spent": {"saving": 1.0}, "whole": 4.0},
    }  # fmt: skip
    text = results.reached(found, "plot")
    assert "| 0.4000 | 9 | never |  | 0.5000 after 1 s | not evaluated yet |" in text
    assert "saving 25.0%" in text


def test_the_committed_page_is_what_the_figures_say():
    assert results.results(common.HERE)
    assert results.page(common.HERE) == (common.HERE / "RESULTS.md").read_text(encoding="utf-8")
    for name, _ in results.results(common.HERE):
        assert not results.SECTIONS[name.split("-")[0]][1] or (common.HERE / f"{name}.png").exists()
