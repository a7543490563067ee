"""Weights in low precision."""

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
shapes = st.tuples(st.integers(1, 5), st.integers(1, 8))


@example(np.array([[1e-45, 0]], dtype="float32"), 3)
@given(arrays("float32", shapes, elements=numbers), st.integers(2, 12))
def test_numbers_of_a_row_share_an_exponent_and_have_that_many_bits(values, bits):
    weight = torch.from_numpy(values)
    rounded = block_floating_point(weight, torch.Generator().manual_seed(0), bits)
    for row, rounded_row in zip(weight, rounded, strict=True):
        largest = row.abs().max()
        if largest == 0:
            assert not rounded_row.any()
            continue
        step = 2.0 ** max(-126, (torch.frexp(largest).exponent - (bits - 1)).item())
        mantissas = rounded_row.double() / step
        assert torch.equal(mantissas, mantissas.round())
        assert mantissas.min() >= -(2 ** (bits - 1))
        assert mantissas.max() <= 2 ** (bits - 1) - 1
        assert (rounded_row - row).abs().max() <= step * 1.000001, "not a neighbour on the grid"


def test_stochastic_rounding_is_unbiased():
    weight = torch.tensor([[0.3, -0.7, 0.111, 1.0]]).repeat(20_000, 1)
    mean = block_floating_point(weight, torch.Generator().manual_seed(1), bits=4).mean(dim=0)
    torch.testing.assert_close(mean[:3], weight[0, :3], atol=0.003, rtol=0)


def test_rounding_depends_on_its_seed_and_not_on_the_global_random_state():
    weights = [torch.randn(5, 7), torch.randn(3)]
    copies = [weight.clone() for weight in weights]
    round_weights(weights, "bfp8", seed=4)
    torch.rand(10)
    round_weights(copies, "bfp8", seed=4)
    assert all(map(torch.equal, weights, copies))


def beyond_bf16(folder):
    """The names of the tensors that bfloat16 cannot represent."""
    tensors = load_file(folder / "model.safetensors")
    return [name for name, value in tensors.items() if not torch.equal(value, value.bfloat16().float())]


@pytest.mark.parametrize("name", ["bf16", "bfp8"])
def test_weights_are_trained_in_it_averaged_in_float32_and_resumed(name, tiny, tiny_table, monkeypatch):
    options = {**OPTIONS, "weight_format": name}
    whole = fit_fold(tiny(run="whole", **options), tiny_table)
    if name == "bf16":
        buffers = ["head.location", "head.scale"]
        assert beyond_bf16(whole / "last") in ([], buffers), "weights that are not bfloat16"
    assert any("layer" in key for key in beyond_bf16(whole / "averaged"))
    restore = stop_after(13, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(run="interrupted", save_every=1, **options), tiny_table)
    restore()
    assert_same(whole, fit_fold(tiny(run="interrupted", save_every=1, **options), tiny_table))
    float32 = fit_fold(tiny(run="float32", **OPTIONS), tiny_table)
    histories = [pd.read_csv(folder / "history.csv")["rmse"] for folder in (whole, float32)]
    assert not histories[0].equals(histories[1])


def test_a_weight_format_is_refused_with_apex_o2(tiny, tiny_table, monkeypatch):
    apex.install(monkeypatch)
    monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice("apex-O2", "asked for"))
    with pytest.raises(InputError, match="apex-O2 trains float16 ones; set precision=fp32"):
        fit_fold(tiny(weight_format="bf16"), tiny_table)
