"""What LIT shows of a task: one view per task, chosen by ``make_view``. Nothing else here knows the task.

A task without a view of its own gets ``View``. To give it a richer one, write a subclass and register it, as
``label_views`` does::

    @make_view.register
    def _(task: Labels, output: int, table: pd.DataFrame) -> LabelsView: ...
"""

import functools
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from lit_nlp.api import types

from utils.explain.explainer import Explained, Reading
from utils.modeling.heads import HeadConfig
from utils.tasks import Task
from utils.tasks.regression import Regression

#: Names that LIT, its views and its models give to fields. A table's own columns may not have them.
RESERVED = ("tokens", "token_embeddings", "band", "explained", "_id", "_meta")
#: Two classes of a score, for LIT's TCAV, which asks for classes.
BANDS = ("lower", "higher")
#: What can be explained: a field of scores; and a class's number in it, where it holds probabilities.
Quantity = tuple[str, int | None]


class View:
    """Any task: a score for each of its outputs, without a truth to compare it with.

    Args:
        task: the run's.
        output: number of the output whose score is explained.
    """

    threshold = 0.0  # the score that generated texts are to cross, unless another is asked for
    flipped: ClassVar[tuple[str, ...]] = ("RegressionScore",)  # types of what generated texts may flip
    layer_gradients: dict[str, str]  # options of LIT's fields for the gradients of layers
    class_field = ""  # of the probabilities of classes that LIT's TCAV asks about
    index: int | None = None  # number of the explained class, where the explained field holds probabilities
    metric: tuple[str, str] = ("regression", "rmse")  # of LIT's metrics the group and name of the chief one
    ordered = False  # whether its classes are grades
    explains = "score"  # what is explained, in pictures; and what the maps' two colours stand for
    colours = ("target", "prediction minus target")

    def __init__(self, task: Task, output: int):
        self.task, self.target, self.layer_gradients = task, output, {}
        self.fields = [f"predicted {name}" for name in task.outputs]
        # LIT wants an input that says which class a gradient is of. It decides nothing here, so any will do.
        self.gradient_input = task.config.text_column

    @property
    def score(self) -> str:
        """The explained field."""
        return self.fields[self.target]

    @functools.cached_property
    def quantities(self) -> dict[Quantity, Explained]:
        """All that can be explained, in the unit in which it is shown."""
        explained = self.task.explained
        return {(n, None): functools.partial(explained, output=i) for i, n in enumerate(self.fields)}

    def chosen(self, target: dict | None) -> Quantity:
        """What is explained when LIT's page asks for ``target``, {"field", "index"}."""
        asked = target or {}
        of_field = [quantity for quantity in self.quantities if quantity[0] == asked.get("field")]
        candidates = [(asked.get("field"), asked.get("index")), (self.score, self.index)]
        known = [quantity for quantity in candidates if quantity in of_field]
        return next(iter([*known, *of_field, (self.score, self.index)]))

    def most_likely(self, field: str, values: types.JsonDict) -> Quantity:
        """The class of a field that is predicted, given the values of ``outputs``; or the score itself."""
        return field, None if np.ndim(values[field]) == 0 else int(np.argmax(values[field]))

    def dataset_fields(self) -> types.Spec:
        """Fields of a text besides the texts, the id and the table's categories: its truth."""
        return {}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        """A column for each of ``dataset_fields``."""
        return table[[]]

    def inputs(self) -> types.Spec:
        """Optional inputs besides the text. The model ignores them, but LIT asks for ``gradient_input``."""
        return {}

    def outputs(self) -> types.Spec:
        """Outputs of the model that depend on the task."""
        return {name: types.RegressionScore() for name in self.explained_first(self.fields)}

    def explained_first(self, names: list[str]) -> list[str]:
        """A name per target, the explained one's first: LIT's page takes the first unless told otherwise."""
        return sorted(names, key=lambda name: name != names[self.target])

    def values(self, logits: np.ndarray, head: HeadConfig) -> types.JsonDict:
        """A value for each of ``outputs``.

        Args:
            logits: what the head gives for a text, as in a Reading.
            head: of the model that gave them.
        """
        batch = torch.from_numpy(logits)[None]
        scores = {name: score for (name, index), score in self.quantities.items() if index is None}
        return {name: score(batch).item() for name, score in scores.items()}

    def of_reading(self, reading: Reading, example: types.JsonDict) -> types.JsonDict:
        """A value for each of ``outputs`` that ``values`` does not give, from all that was read."""
        return {}

    def decided(self, values: types.JsonDict) -> types.JsonDict:
        """``values`` with a probability of 1 for the predicted class, where it is not the most probable."""
        return values

    def prediction(self, values: types.JsonDict) -> float:
        """The explained score, or class's probability, given the values of ``outputs``."""
        return float(values[self.score] if self.index is None else values[self.score][self.index])

    def recorded(self, predictions: np.ndarray) -> np.ndarray:
        """The same, (rows,), from the task's predictions, (rows, columns)."""
        return predictions[:, self.target]

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """The truth of the explained output, (rows,), from the task's targets, (rows, columns)."""
        return targets[:, self.target]

    def caption(self, truth: float, prediction: float) -> str:
        """A text's truth and prediction, for the title of a picture."""
        if self.index is None:
            return f"Target {truth:.2f}, predicted {prediction:.2f}"
        name = self.explains.removeprefix("log-odds of ")
        return f"{name}: {'true' if truth else 'not true'}, predicted with {prediction:.2f}"


class RegressionView(View):
    """Targets beside the scores, and bands of the explained score for TCAV.

    Args:
        middle: the score that separates the two bands.
    """

    class_field = "band_share"

    def __init__(self, task: Task, output: int, middle: float):
        super().__init__(task, output)
        self.threshold = middle
        self.gradient_input = task.outputs[output]
        self.layer_gradients = {"align": "band_share", "grad_target_field_key": "band"}

    @functools.cached_property
    def quantities(self) -> dict[Quantity, Explained]:
        """The scores; and the bands, of which the lower is explained by the score's opposite."""
        scores = super().quantities
        higher = scores[self.score, None]
        return scores | {("band_share", 0): lambda logits: -higher(logits), ("band_share", 1): higher}

    def dataset_fields(self) -> types.Spec:
        targets = {name: number_field() for name in self.task.outputs}
        return targets | {"band": label_field(BANDS)}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        targets = table[list(self.task.outputs)].astype(float)
        explained = targets[self.task.outputs[self.target]]
        band = np.where(explained > self.threshold, *reversed(BANDS))
        return known_numbers(targets).assign(band=np.where(explained.isna(), "", band))

    def inputs(self) -> types.Spec:
        return {self.gradient_input: number_field()}

    def outputs(self) -> types.Spec:
        parents = dict(zip(self.fields, self.task.outputs, strict=True))
        scores = {n: types.RegressionScore(parent=parents[n]) for n in self.explained_first(self.fields)}
        return scores | {
            "band_share": types.MulticlassPreds(vocab=BANDS),
            "band": types.CategoryLabel(vocab=BANDS, required=False),
        }

    def values(self, logits: np.ndarray, head: HeadConfig) -> types.JsonDict:
        """The share of a band is no probability: it is the score on another scale."""
        scores = super().values(logits, head)
        scale = head.scale[self.target] if head.scale else 1.0
        higher = 1 / (1 + np.exp(-(scores[self.score] - self.threshold) / scale))
        return scores | {"band_share": np.array([1 - higher, higher]), "band": BANDS[int(higher > 0.5)]}


def number_field() -> types.Scalar:
    """A number in a table, or None. LIT's page takes an edited text only if its numbers are in the range."""
    return types.Scalar(required=False, min_val=-1e6, max_val=1e6, step=0.01, default=None)


def label_field(labels: tuple[str, ...]) -> types.CategoryLabel:
    """A label in a table, or ""."""
    return types.CategoryLabel(vocab=(*labels, ""), required=False)


def known_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """A table of numbers with None for NaN, which JSON does not have."""
    return table.astype(object).where(table.notna(), None)


@functools.singledispatch
def make_view(task: Task, output: int, table: pd.DataFrame) -> View:
    """The view of a task, by the task's class.

    Args:
        output: number of the output whose score is explained.
        table: all of the run's texts.
    """
    return View(task, output)


@make_view.register
def _(task: Regression, output: int, table: pd.DataFrame) -> RegressionView:
    return RegressionView(task, output, float(table[task.outputs[output]].median()))


@functools.singledispatch
def first_output(task: Task, target: int) -> int:
    """The number of the output that is explained, of the target with a number, if no other is asked for."""
    return target
