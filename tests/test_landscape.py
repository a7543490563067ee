"""The loss around weights."""

import numpy as np
import pytest
import torch

from utils import checkpoint
from utils.fold import fit_fold
from utils.landscape import Landscape, _flat, growing_average, line, perturbed, plane, plane_points


@pytest.fixture
def landscape(tiny, tiny_table):
    config = tiny(epochs=3, swa_every=1, lr=5e-3, snapshots=3)
    folder = fit_fold(config, tiny_table)
    return Landscape.open(folder, tiny_table, config, texts=100), folder


def test_the_points_score_what_the_fold_scored(landscape):
    """On all held-out texts: what result.json says."""
    landscape, folder = landscape
    for kind, scores in checkpoint.read_result(folder)["scores"].items():
        assert landscape.rmse(landscape.points[kind])["held out"] == pytest.approx(scores["rmse"], abs=1e-5)
    assert landscape.snapshots == ["step-000004", "step-000006", "step-000009"]


def test_the_average_is_the_mean_of_its_snapshots(tiny, tiny_table):
    config = tiny(epochs=3, swa_every=1, snapshots=99)
    found = Landscape.open(fit_fold(config, tiny_table), tiny_table, config)
    assert len(found.snapshots) == 6
    mean = found.mixture(dict.fromkeys(found.snapshots, 1 / 6))
    for name, value in found.points["swa"].items():
        torch.testing.assert_close(mean[name], value, rtol=1e-5, atol=1e-6)
    averaged = growing_average(found)
    assert averaged["averaged"].tolist() == [1, 2, 3, 4, 5, 6]
    assert averaged["held out"].iloc[-1] == pytest.approx(found.rmse(found.points["swa"])["held out"], abs=1e-5)


def test_a_line_passes_through_its_ends(landscape):
    landscape, _ = landscape
    found = line(landscape, "last", "swa", np.array([0.0, 0.5, 1.0])).set_index("position")
    assert found.loc[0.0, "train"] == pytest.approx(landscape.rmse(landscape.points["last"])["train"])
    assert found.loc[1.0, "train"] == pytest.approx(landscape.rmse(landscape.points["swa"])["train"])


def test_a_plane_is_orthonormal_and_passes_through_its_points(landscape, monkeypatch):
    landscape, _ = landscape
    names = plane_points(landscape)
    assert names == ("swa", "step-000004", "step-000009")
    seen = []
    monkeypatch.setattr(Landscape, "rmse", lambda self, weights: seen.append(_flat(weights)) or {"train": 0.0})
    found = plane(landscape, names, size=3, margin=0.0)
    places = found.attrs["points"]
    for place, weights in zip(found[["x", "y"]].to_numpy(), seen, strict=True):
        for name in names:  # distances in the plane are distances in the space of weights
            apart = float((weights - _flat(landscape.points[name])).norm())
            assert apart == pytest.approx(np.hypot(*(place - places[name])), rel=1e-3, abs=1e-4)


def test_points_on_one_line_are_no_plane(landscape):
    landscape, _ = landscape
    landscape.points = dict.fromkeys(("last", "best", "swa"), landscape.points["last"])
    assert plane_points(landscape) is None


def test_a_perturbation_is_as_large_as_it_says_and_the_same_for_every_point(landscape, monkeypatch):
    landscape, _ = landscape
    seen = []
    monkeypatch.setattr(Landscape, "rmse", lambda self, weights: seen.append(weights) or {"train": 0.0})
    found = perturbed(landscape, "last", [0.0, 0.1], draws=2)
    assert found["size"].tolist() == [0.0, 0.1, 0.0, 0.1]
    for name, value in landscape.points["last"].items():
        if name in ("target_mean", "target_std"):
            assert torch.equal(seen[1][name], value)
        elif value.is_floating_point() and value.norm() > 0:
            assert torch.equal(seen[0][name], value)
            assert (seen[1][name] - value).norm() / value.norm() == pytest.approx(0.1, rel=1e-2)
    assert not torch.equal(seen[1]["head.weight"], seen[3]["head.weight"])
    perturbed(landscape, "last", [0.1], draws=1)
    assert torch.equal(seen[1]["head.weight"], seen[-1]["head.weight"])
