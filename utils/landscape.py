"""The loss around a fold's weights: along lines, in planes, under random perturbation, and as averages grow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from utils import checkpoint, data
from utils.config import Config
from utils.metrics import score
from utils.model import TextRegressor
from utils.predict import predict_texts

Weights = dict[str, torch.Tensor]


@dataclass
class Landscape:
    """A fold's weights as points, and the RMSE of any mixture of them on some training and some held-out texts.

    ``open`` reads it from a fold's folder; it needs the texts, so the table too.
    """

    config: Config
    model: TextRegressor
    tokenizer: object
    texts: dict[str, data.Texts]  # "train" and "held out"
    points: dict[str, Weights]  # last, best, swa and the snapshots that went into the average, in their order

    @classmethod
    def open(cls, folder: Path, table: pd.DataFrame, config: Config, texts: int = 64) -> "Landscape":
        """At most ``texts`` random training texts, and as many held-out ones."""
        kinds = [kind for kind in checkpoint.KINDS if (folder / kind / "model.safetensors").is_file()]
        model, tokenizer = checkpoint.load_model(folder, kinds[0])
        points = {kind: load_file(folder / kind / "model.safetensors") for kind in kinds}
        points |= {path.stem: load_file(path) for path in sorted((folder / "snapshots").glob("*.safetensors"))}
        held_out = table["fold"] == checkpoint.read_result(folder)["fold"]
        parts = {}
        for name, rows in {"train": table[~held_out], "held out": table[held_out]}.items():
            chosen = rows.sample(min(texts, len(rows)), random_state=config.seed)
            parts[name] = data.Texts.of(chosen, tokenizer, config)
        return cls(config, model, tokenizer, parts, points)

    @property
    def snapshots(self) -> list[str]:
        return [name for name in self.points if name.startswith("step-")]

    def rmse(self, weights: Weights) -> dict[str, float]:
        """RMSE of the model with these weights, on each part of the texts."""
        self.model.load_state_dict(weights)
        return {
            name: score(
                texts.targets,
                predict_texts(self.model, texts, self.tokenizer, self.config),
                list(self.config.target_columns),
            )["rmse"]
            for name, texts in self.texts.items()
        }

    def mixture(self, shares: dict[str, float]) -> Weights:
        """The sum of the named points, each times its share; the shares should add up to 1."""
        first = next(iter(shares))
        return {
            name: sum(share * self.points[point][name] for point, share in shares.items())
            if value.is_floating_point()
            else value
            for name, value in self.points[first].items()
        }


def line(landscape: Landscape, start: str, end: str, positions: np.ndarray) -> pd.DataFrame:
    """RMSE along the straight line from ``start`` (position 0) to ``end`` (1), and beyond."""
    rows = []
    for position in positions:
        weights = landscape.mixture({start: 1 - position, end: position})
        rows.append({"position": float(position), **landscape.rmse(weights)})
    return pd.DataFrame(rows)


def plane_points(landscape: Landscape) -> tuple[str, str, str] | None:
    """The averaged weights and the first and last snapshot, or else last and best weights; None if on one line."""
    candidates = [("swa", *landscape.snapshots[:: max(1, len(landscape.snapshots) - 1)][:2]), ("swa", "last", "best")]
    for names in candidates:
        if len(names) == 3 and all(name in landscape.points for name in names):
            origin, first, second = (_flat(landscape.points[name]) for name in names)
            u, v = first - origin, second - origin
            if float(u @ v) ** 2 < (1 - 1e-9) * float(u @ u) * float(v @ v):
                return names
    return None


def plane(landscape: Landscape, names: tuple[str, str, str], size: int = 7, margin: float = 0.3) -> pd.DataFrame:
    """RMSE on a grid in the plane through three points (Izmailov et al. 2018, appendix A.1).

    Returns:
        A row a grid point: x and y, distances in the space of weights from the first point along the plane's two
        orthonormal directions, and the RMSE of each part. ``attrs["points"]``: where the three points lie.
    """
    origin, first, second = (_flat(landscape.points[name]) for name in names)
    u, v = first - origin, second - origin
    width = float(u.norm())
    along = float(v @ u / (u @ u))
    height = float((v - along * u).norm())
    places = {names[0]: (0.0, 0.0), names[1]: (width, 0.0), names[2]: (along * width, height)}
    low, high = np.min(list(places.values()), axis=0), np.max(list(places.values()), axis=0)
    middle, half = (low + high) / 2, (0.5 + margin) * (high - low).max()  # a square
    low, high = middle - half, middle + half
    rows = []
    for y in np.linspace(low[1], high[1], size):
        for x in np.linspace(low[0], high[0], size):
            b = y / height  # of the second direction, whose part along the first is taken back
            a = x / width - b * along
            weights = landscape.mixture({names[0]: 1 - a - b, names[1]: a, names[2]: b})
            rows.append({"x": x, "y": y, **landscape.rmse(weights)})
    found = pd.DataFrame(rows)
    found.attrs["points"] = places
    return found


def perturbed(landscape: Landscape, point: str, sizes: list[float], draws: int = 3, seed: int = 0) -> pd.DataFrame:
    """RMSE after random steps away from ``point``: the flatter the optimum, the less it rises.

    Each tensor moves by ``size`` times its own norm in a random direction, so that layers of different scale are
    disturbed alike (after Li et al. 2018, arXiv:1712.09913, who scale filter by filter). The same directions are drawn
    for every point and size.
    """
    rows, learnt = [], dict(landscape.model.named_parameters())
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed + draw)
        directions = {}
        for name, value in landscape.points[point].items():
            if name in learnt:  # not the targets' location and scale
                noise = torch.randn(value.shape, generator=generator)
                directions[name] = noise / noise.norm() if noise.numel() else noise
        for size in sizes:
            weights = {
                name: value + size * value.norm() * directions[name] if name in directions else value
                for name, value in landscape.points[point].items()
            }
            rows.append({"point": point, "size": size, "draw": draw, **landscape.rmse(weights)})
    return pd.DataFrame(rows)


def growing_average(landscape: Landscape) -> pd.DataFrame:
    """RMSE of the mean of the first 1, 2, ... snapshots."""
    rows, names = [], landscape.snapshots
    for number in range(1, len(names) + 1):
        weights = landscape.mixture(dict.fromkeys(names[:number], 1 / number))
        rows.append({"averaged": number, **landscape.rmse(weights)})
    return pd.DataFrame(rows)


def _flat(weights: Weights) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in weights.values() if value.is_floating_point()])
