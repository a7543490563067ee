"""Weights in few bits."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file

from tests.runs.helpers import OPTIONS, Stop, assert_same, stop_after
from tests.stand_ins import apex
from utils.config import InputError
from utils.machine import precision
from utils.runs.fold import fit_fold
from utils.training.lowprecision import block_floating_point, round_weights

numbers = st.floats(-1e6, 1e6, width=32)


@example(np.array([[1e-45, 0]], dtype="float32"), 3)
@given(arrays("float32", st.tuples(st.integers(1, 5), st.integers(1, 8)), elements=numbers), st.integers(2, 12))
def test_numbers_of_a_row_share_an_exponent_and_have_so_many_bits(values, bits):
    weight = torch.from_numpy(values)
    rounded = block_floating_point(weight, torch.Generator().manual_seed(0), bits)
    for row, found in zip(weight, rounded, strict=True):
        largest = float(row.abs().max())
        if largest == 0:
            assert not found.any()
            continue
        step = 2.0 ** max(-126, (torch.frexp(row.abs().max()).exponent - (bits - 1)).item())
        whole = found.double() / step
        assert torch.equal(whole, whole.round())
        assert whole.min() >= -(2 ** (bits - 1))
        assert whole.max() <= 2 ** (bits - 1) - 1
        assert (found - row).abs().max() <= step * 1.000001, "to a neighbour (or down, at the very top)"


def test_stochastic_rounding_is_right_on_average():
    weight = torch.tensor([[0.3, -0.7, 0.111, 1.0]]).repeat(20_000, 1)
    mean = block_floating_point(weight, torch.Generator().manual_seed(1), bits=4).mean(dim=0)
    torch.testing.assert_close(mean[:3], weight[0, :3], atol=0.003, rtol=0)


def test_the_same_seed_rounds_the_same_way_whatever_was_drawn_before():
    weights = [torch.randn(5, 7), torch.randn(3)]
    copies = [weight.clone() for weight in weights]
    round_weights(weights, "bfp8", seed=4)
    torch.rand(10)
    round_weights(copies, "bfp8", seed=4)
    assert all(map(torch.equal, weights, copies))


@pytest.mark.parametrize("name", ["bf16", "bfp8"])
def test_a_fold_is_trained_in_it_averaged_in_float32_and_resumed(name, tiny, tiny_table, monkeypatch):
    options = {**OPTIONS, "weight_format": name}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    weights, average = (load_file(whole / kind / "model.safetensors") for kind in ("last", "averaged"))
    if name == "bf16":
        held = [key for key, value in weights.items() if not torch.equal(value, value.bfloat16().float())]
        assert held in ([], ["head.location", "head.scale"]), "buffers, no weights"
    assert any(not torch.equal(value, value.bfloat16().float()) for key, value in average.items() if "layer" in key)
    go_on = stop_after(13, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(run="broken", save_every=1, **options), tiny_table)
    go_on()
    assert_same(whole, fit_fold(tiny(run="broken", save_every=1, **options), tiny_table))
    plain = fit_fold(tiny(run="plain", **OPTIONS), tiny_table)
    assert not pd.read_csv(plain / "history.csv")["rmse"].equals(pd.read_csv(whole / "history.csv")["rmse"])


def test_not_under_o2(tiny, tiny_table, monkeypatch):
    apex.install(monkeypatch)
    monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice("apex-O2", "asked for"))
    with pytest.raises(InputError, match="apex-O2 trains float16 ones; set precision=fp32"):
        fit_fold(tiny(weight_format="bf16"), tiny_table)
