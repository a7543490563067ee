"""What LIT shows of a task: one view per task, chosen by ``make_view``. Nothing else here knows the task.

A task without a view of its own gets ``View``. To give it a richer one, write a subclass and register it::

    @make_view.register
    def _(task: Labels, output: int, table: pd.DataFrame) -> LabelsView: ...
"""

import functools
from typing import ClassVar

import numpy as np
import pandas as pd
from lit_nlp.api import types

from utils.lit.explain import Reading
from utils.lit.pairs import Text
from utils.modeling.heads import HeadConfig
from utils.tasks import Task
from utils.tasks.regression import Regression

#: Names that LIT, its views and its models give to fields. A table's own columns may not have them.
RESERVED = ("tokens", "token_embeddings", "band", "_id", "_meta")
#: Two classes of a score, for LIT's TCAV, which asks for classes.
BANDS = ("lower", "higher")


class View:
    """Any task: a score for each of its outputs, without a truth to compare it with.

    Args:
        task: the run's.
        output: number of the output whose score is explained.
    """

    threshold = 0.0  # the score that generated texts are to cross, unless another is asked for
    layer_gradients: ClassVar[dict[str, str]] = {}  # options of LIT's fields for the gradients of layers

    def __init__(self, task: Task, output: int):
        self.task, self.output = task, output
        self.scores = [f"predicted {name}" for name in task.outputs]
        # LIT wants an input that says which class a gradient is of. It decides nothing here, so any will do.
        self.gradient_input = task.config.text_column

    @property
    def score(self) -> str:
        """The field of the explained score."""
        return self.scores[self.output]

    def dataset_fields(self) -> types.Spec:
        """Fields of a text besides the text, the id and the table's categories."""
        return {}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        """A column for each of ``dataset_fields``."""
        return table[[]]

    def inputs(self) -> types.Spec:
        """Optional inputs besides the text. The model ignores them, but LIT's components ask for them."""
        return {}

    def outputs(self) -> types.Spec:
        """Outputs of the model that depend on the task."""
        return {name: types.RegressionScore() for name in self.scores}

    def values(self, scores: np.ndarray, head: HeadConfig, example: types.JsonDict) -> types.JsonDict:
        """A value for each of ``outputs``.

        Args:
            scores: (outputs,).
            head: of the model that gave them.
            example: the text's fields.
        """
        return {name: float(score) for name, score in zip(self.scores, scores, strict=True)}

    def text_of(self, example: types.JsonDict) -> Text:
        """What the model reads of an example."""
        return example[self.task.config.text_column]

    def of_reading(self, reading: Reading, example: types.JsonDict) -> types.JsonDict:
        """A value for each of ``outputs`` that ``values`` does not give, from all that was read."""
        return {}

    def sign(self, values: types.JsonDict) -> int:
        """1, or -1 where the gradients of the layers are to point the other way."""
        return 1


class RegressionView(View):
    """Targets beside the scores, and bands of the explained score for TCAV.

    Args:
        middle: the score that separates the two bands.
    """

    layer_gradients: ClassVar = {"align": "band_share", "grad_target_field_key": "band"}

    def __init__(self, task: Task, output: int, middle: float):
        super().__init__(task, output)
        self.threshold = middle
        self.gradient_input = task.outputs[output]

    def dataset_fields(self) -> types.Spec:
        targets = {name: number_field() for name in self.task.outputs}
        return targets | {"band": types.CategoryLabel(vocab=BANDS)}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        targets = table[list(self.task.outputs)].astype(float)
        higher = targets[self.task.outputs[self.output]] > self.threshold
        known = targets.astype(object).where(targets.notna(), None)  # JSON has no NaN
        return known.assign(band=np.where(higher, *reversed(BANDS)))

    def inputs(self) -> types.Spec:
        band = types.CategoryLabel(vocab=BANDS, required=False)
        return {self.gradient_input: number_field(), "band": band}

    def outputs(self) -> types.Spec:
        scores = zip(self.scores, self.task.outputs, strict=True)
        return {name: types.RegressionScore(parent=target) for name, target in scores} | {
            "band_share": types.MulticlassPreds(vocab=BANDS, parent="band"),
            "band": types.CategoryLabel(vocab=BANDS, required=False),
        }

    def values(self, scores: np.ndarray, head: HeadConfig, example: types.JsonDict) -> types.JsonDict:
        """The share of a band is no probability: it is the score on another scale."""
        scale = head.scale[self.output] if head.scale else 1.0
        distance = (scores[self.output] - self.threshold) / scale
        higher = 1 / (1 + np.exp(-distance))
        band = example.get("band") or BANDS[int(higher > 0.5)]
        bands = {"band_share": np.array([1 - higher, higher]), "band": band}
        return super().values(scores, head, example) | bands

    def sign(self, values: types.JsonDict) -> int:
        """Gradients are of the score, towards the higher band; TCAV asks for those of the input's band."""
        return 1 if values["band"] == BANDS[1] else -1


def number_field() -> types.Scalar:
    """A number in a table. LIT's page accepts an edited text only if its numbers lie in the range."""
    return types.Scalar(required=False, min_val=-1e6, max_val=1e6, step=0.01)


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
