"""The score around a fold's weights: along lines, in planes, after random steps, and as averages grow."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from utils.data.tokens import Examples
from utils.modeling.model import TextModel
from utils.reporting.views import make_view
from utils.runs import artifacts
from utils.runs.run import Run
from utils.tasks import Task
from utils.tasks.metrics import Metric
from utils.training.predict import predict_examples

Weights = dict[str, torch.Tensor]


@dataclass
class Landscape:
    """A fold's weights as points, and the score of any mixture of them on some of its texts."""

    task: Task
    model: TextModel
    tokenizer: PreTrainedTokenizerBase
    examples: dict[str, Examples]  # of "train" and "held out"
    targets: dict[str, np.ndarray]  # of both, each (rows, columns)
    points: dict[str, Weights]  # last, best, averaged, and in their order the snapshots that were averaged

    @classmethod
    def open(cls, folder: Path, run: Run, texts: int = 64) -> "Landscape":
        """Read a fold of ``run`` from its folder, with at most ``texts`` random texts of each part."""
        paths = {name: folder / name / "model.safetensors" for name in artifacts.WEIGHTS}
        points = {name: load_file(path) for name, path in paths.items() if path.is_file()}
        model, tokenizer = artifacts.load_model(folder / next(iter(points)))
        points |= {
            path.stem: load_file(path) for path in sorted((folder / "snapshots").glob("*.safetensors"))
        }
        held_out = run.table["fold"] == artifacts.read_result(folder)["fold"]
        parts = {"train": run.table[~held_out], "held out": run.table[held_out]}
        parts = {
            name: rows.sample(min(texts, len(rows)), random_state=run.config.seed)
            for name, rows in parts.items()
        }
        examples = {name: run.task.encode(rows, tokenizer) for name, rows in parts.items()}
        targets = {name: run.task.targets(rows) for name, rows in parts.items()}
        return cls(run.task, model, tokenizer, examples, targets, points)

    @property
    def metric(self) -> Metric:
        """What ``scores`` are: the task's metric, or where few texts do not do for it, the mean error."""
        return make_view(self.task).measure

    @property
    def snapshots(self) -> list[str]:
        return [name for name in self.points if name.startswith("step-")]

    def scores(self, weights: Weights) -> dict[str, float]:
        """The score of the model with these weights, on each part of the texts."""
        self.model.load_state_dict(weights)
        predictions = {
            part: predict_examples(self.model, self.task, examples, self.tokenizer)
            for part, examples in self.examples.items()
        }
        view = make_view(self.task)
        return {part: view.error_of(self.targets[part], array) for part, array in predictions.items()}

    def mixture(self, shares: dict[str, float]) -> Weights:
        """The sum of the named points, each times its share; the shares should add up to 1."""
        weights = dict(self.points[next(iter(shares))])
        for name, value in weights.items():
            if value.is_floating_point():
                terms = (share * self.points[point][name] for point, share in shares.items())
                weights[name] = sum(terms, torch.zeros_like(value))
        return weights


def line(landscape: Landscape, start: str, end: str, positions: np.ndarray) -> pd.DataFrame:
    """The score along the straight line from ``start`` (position 0) to ``end`` (1), and beyond."""
    rows = []
    for position in positions:
        weights = landscape.mixture({start: 1 - position, end: position})
        rows.append({"position": float(position), **landscape.scores(weights)})
    return pd.DataFrame(rows)


def plane_points(landscape: Landscape) -> tuple[str, str, str] | None:
    """The averaged weights, and first and last snapshot or last and best weights; None if on one line."""
    ends = landscape.snapshots[:: max(1, len(landscape.snapshots) - 1)][:2]
    for names in (("averaged", *ends), ("averaged", "last", "best")):
        if len(names) == 3 and all(name in landscape.points for name in names):
            u, v = _edges(landscape, names)
            if float(u @ v) ** 2 < (1 - 1e-9) * float(u @ u) * float(v @ v):
                return names
    return None


def plane(
    landscape: Landscape, names: tuple[str, str, str], size: int = 7, margin: float = 0.3
) -> pd.DataFrame:
    """The score on a grid in the plane through three points (Izmailov et al. 2018, appendix A.1).

    Returns:
        A row per grid point: x and y, distances in the space of weights from the first point along the
        plane's two orthonormal directions, and the score of each part. ``attrs``: x and y of the three
        "points", and of every snapshot, projected onto the plane, the "trajectory".
    """
    u, v = _edges(landscape, names)
    width = float(u.norm())
    along = float(v @ u / (u @ u))
    height = float((v - along * u).norm())
    corners = {names[0]: (0.0, 0.0), names[1]: (width, 0.0), names[2]: (along * width, height)}
    low, high = np.min(list(corners.values()), axis=0), np.max(list(corners.values()), axis=0)
    middle, half = (low + high) / 2, (0.5 + margin) * (high - low).max()  # a square
    xs, ys = np.linspace(middle - half, middle + half, size).T
    rows = []
    for y in ys:
        for x in xs:
            b = y / height
            a = x / width - b * along  # less what the second edge contributes along the first
            weights = landscape.mixture({names[0]: 1 - a - b, names[1]: a, names[2]: b})
            rows.append({"x": x, "y": y, **landscape.scores(weights)})
    grid = pd.DataFrame(rows)
    grid.attrs["points"] = corners
    across = (v - along * u) / height
    moves = {
        name: _flat(landscape.points[name]) - _flat(landscape.points[names[0]])
        for name in landscape.snapshots
    }
    grid.attrs["trajectory"] = {
        name: (float(move @ u) / width, float(move @ across)) for name, move in moves.items()
    }
    return grid


def perturbed(
    landscape: Landscape, point: str, sizes: list[float], draws: int = 3, seed: int = 0
) -> pd.DataFrame:
    """The score after random steps away from ``point``: the flatter the optimum, the less it changes.

    Each tensor moves by ``size`` times its own norm in a random direction, so that layers of different scale
    are perturbed alike (after Li et al. 2018, arXiv:1712.09913, who scale filter by filter). The same
    directions are drawn for every point and size.
    """
    rows, start = [], landscape.points[point]
    for draw in range(draws):
        directions = _random_directions(landscape, start, seed + draw)
        for size in sizes:
            steps = {name: size * start[name].norm() * direction for name, direction in directions.items()}
            weights = start | {name: start[name] + step for name, step in steps.items()}
            rows.append({"point": point, "size": size, "draw": draw, **landscape.scores(weights)})
    return pd.DataFrame(rows)


def _random_directions(landscape: Landscape, start: Weights, seed: int) -> Weights:
    """A random direction of length 1 for every parameter, but not for buffers such as the targets' scale."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(landscape.model.named_parameters())
    noise = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in start.items()
        if name in parameters
    }
    return {name: value / value.norm() if value.numel() else value for name, value in noise.items()}


def growing_average(landscape: Landscape) -> pd.DataFrame:
    """The score of the mean of the first 1, 2, ... snapshots."""
    rows, names = [], landscape.snapshots
    for number in range(1, len(names) + 1):
        weights = landscape.mixture(dict.fromkeys(names[:number], 1 / number))
        rows.append({"averaged": number, **landscape.scores(weights)})
    return pd.DataFrame(rows)


def _edges(landscape: Landscape, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors from the first of three points to the other two."""
    origin, first, second = (_flat(landscape.points[name]) for name in names)
    return first - origin, second - origin


def _flat(weights: Weights) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in weights.values() if value.is_floating_point()])
