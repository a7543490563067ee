"""What LIT shows of labels and grades: probabilities of classes beside the true label."""

import functools
from typing import ClassVar

import numpy as np
import pandas as pd
from lit_nlp.api import types

from utils.explain.explainer import Explained
from utils.lit.spec import Quantity, View, first_output, known_numbers, label_field, make_view, number_field
from utils.modeling.heads import HeadConfig
from utils.tasks.classification import Classification
from utils.tasks.labels import Multilabel
from utils.tasks.numbers import NUMBER
from utils.tasks.ordinal import Ordinal, expected_grades


class LabelsView(View):
    """Each target's probabilities and label. What is explained is a class's log-odds, log p / (1 - p)."""

    task: Classification
    flipped: ClassVar[tuple[str, ...]] = ("MulticlassPreds",)

    def __init__(self, task: Classification, output: int):
        super().__init__(task, output)
        self.targets = task.config.target_columns
        self.fields = [f"predicted {target}" for target in self.targets]
        self.target, self.index = (output, None) if self.ordered else task.place(output)
        self.gradient_input = self.targets[self.target]
        self.class_field = self.fields[self.target]
        self.layer_gradients = {"align": self.class_field, "grad_target_field_key": "predicted class"}
        name = f"“{task.outputs[output]}”"
        self.explains = f"log-odds of {name}"
        self.colours = (f"{name} (1) or not (0)", f"probability of {name} minus truth")
        self.metric = ("classification", "accuracy")

    @functools.cached_property
    def quantities(self) -> dict[Quantity, Explained]:
        return {
            (name, label): functools.partial(self._log_odds, target=target, label=label)
            for target, name in enumerate(self.fields)
            for label in range(self.task.sizes[target])
        }

    def _log_odds(self, logits, target: int, label: int):
        """As ``Classification.explained``, of any class of any target."""
        return self.task.probabilities_of(logits)[target][:, label].clamp(1e-7, 1 - 1e-7).logit()

    def dataset_fields(self) -> types.Spec:
        labels = zip(self.targets, self.task.labels, strict=True)
        return {target: label_field(own) for target, own in labels}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[list(self.targets)].fillna("")

    def inputs(self) -> types.Spec:
        return {self.gradient_input: self.dataset_fields()[self.gradient_input]}

    def outputs(self) -> types.Spec:
        """With two classes, the first is what LIT's thresholds and F1 take for the negative one."""
        numbers = sorted(range(len(self.targets)), key=lambda number: number != self.target)
        fields: types.Spec = {}
        for number in numbers:
            labels, null = self.task.labels[number], 0 if self.task.sizes[number] == 2 else None
            parent = self.targets[number]
            fields[self.fields[number]] = types.MulticlassPreds(vocab=labels, parent=parent, null_idx=null)
        labels = self.task.labels[self.target]
        return fields | {"predicted class": types.CategoryLabel(vocab=labels, required=False)}

    def values(self, logits: np.ndarray, head: HeadConfig) -> types.JsonDict:
        parts = self.task.by_target(self.task.decode([logits], None))
        values = {name: part[0].clip(1e-12, 1) for name, part in zip(self.fields, parts, strict=True)}
        predicted = self.task.labels[self.target][values[self.class_field].argmax()]
        return values | {"predicted class": predicted}

    def recorded(self, predictions: np.ndarray) -> np.ndarray:
        return self.task.by_target(predictions)[self.target][:, self.index]

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """1 where a text has the explained label, else 0; NaN where its label is not known."""
        codes = targets[:, self.target]
        return np.where(np.isnan(codes), np.nan, codes == self.index)


class OrdinalView(LabelsView):
    """Grades: their probabilities; and the expected one, which is explained, beside the true one as a number.

    Equally spaced numbers count as they are, other grades as 1, 2 and so on.
    """

    task: Ordinal
    flipped = ("RegressionScore", "MulticlassPreds")
    ordered = True

    def __init__(self, task: Ordinal, output: int, table: pd.DataFrame):
        super().__init__(task, output)
        self.expected = [f"expected {target}" for target in self.targets]
        self.numbers = [f"{target} as a number" for target in self.targets]
        self.units = [_unit(labels) for labels in task.labels]
        self.explains, self.colours = self.expected[output], (self.targets[output], View.colours[1])
        self.metric = ("regression", "rmse")
        self.threshold = float(np.nanmedian(self.truth(task.targets(table))))

    @property
    def score(self) -> str:
        return self.expected[self.target]

    def number(self, target: int, codes):
        """A target's grades as numbers, from their numbers counted from 0."""
        start, step = self.units[target]
        return start + step * codes

    @functools.cached_property
    def quantities(self) -> dict[Quantity, Explained]:
        def expected(logits, target):
            return self.number(target, self.task.explained(logits, target))

        numbers = enumerate(self.expected)
        grades = {(name, None): functools.partial(expected, target=target) for target, name in numbers}
        return grades | super().quantities

    def dataset_fields(self) -> types.Spec:
        return super().dataset_fields() | {name: number_field() for name in self.numbers}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        codes = enumerate(self.task.targets(table).T)
        numbers = dict(zip(self.numbers, (self.number(*pair) for pair in codes), strict=True))
        return super().dataset_values(table).join(known_numbers(pd.DataFrame(numbers, index=table.index)))

    def outputs(self) -> types.Spec:
        parents = dict(zip(self.expected, self.numbers, strict=True))
        first = self.explained_first(self.expected)
        return {name: types.RegressionScore(parent=parents[name]) for name in first} | super().outputs()

    def values(self, logits: np.ndarray, head: HeadConfig) -> types.JsonDict:
        return View.values(self, logits, head) | super().values(logits, head)

    def decided(self, values: types.JsonDict) -> types.JsonDict:
        """The predicted grade is the expected one, rounded."""
        chosen = {name: int(self.task.choose(values[name][None])[0]) for name in self.fields}
        return values | {name: np.eye(len(values[name]))[code].clip(1e-12) for name, code in chosen.items()}

    def recorded(self, predictions: np.ndarray) -> np.ndarray:
        return self.number(self.target, expected_grades(self.task.by_target(predictions)[self.target]))

    def truth(self, targets: np.ndarray) -> np.ndarray:
        return self.number(self.target, targets[:, self.target])


def _unit(labels: tuple[str, ...]) -> tuple[float, float]:
    """The lowest grade's number, and the step to the next."""
    if all(NUMBER.fullmatch(label) for label in labels):
        numbers = np.array(labels, dtype=float)
        steps = np.diff(numbers)
        if np.allclose(steps, steps[0]):
            return float(numbers[0]), float(steps[0])
    return 1.0, 1.0


@make_view.register
def _(task: Classification, output: int, table: pd.DataFrame) -> LabelsView:
    return LabelsView(task, output)


@make_view.register
def _(task: Ordinal, output: int, table: pd.DataFrame) -> OrdinalView:
    return OrdinalView(task, output, table)


@first_output.register
def _(task: Classification, target: int) -> int:
    """The first class, of two the second, which is the positive one."""
    return sum(task.sizes[:target]) + (task.sizes[target] == 2)


@first_output.register(Multilabel)
@first_output.register(Ordinal)
def _(task: Classification, target: int) -> int:
    return target
