"""The folds of a run as one model, which has seen none of the texts that it scores."""

from collections.abc import Callable, Iterable
from typing import Any

from lit_nlp.api import types

from utils.lit.spec import Quantity
from utils.lit.wrappers import FoldModel

#: The data set with the texts of all folds, and what the names of the models that are to read it begin with.
OUT_OF_FOLD = "out of fold"


class OutOfFold(FoldModel):
    """Each text is read by the fold that held it out, and so is what is made of it by edits.

    It has no embeddings, since those of one fold cannot be compared with another's.

    Args:
        folds: the model of each fold, by the fold's number as text; a text of no fold is read by the first.
    """

    def __init__(self, folds: dict[str, FoldModel], description: str = ""):
        first = next(iter(folds.values()))
        super().__init__(first.explainer, first.view, description)
        self.folds = folds

    def output_spec(self) -> types.Spec:
        of_a_fold = (types.Embeddings, types.Gradients)
        return {
            name: field
            for name, field in super().output_spec().items()
            if not isinstance(field, of_a_fold) or isinstance(field, types.TokenGradients)
        }

    def of(self, example: types.JsonDict) -> FoldModel:
        return self.folds.get(example.get("fold", ""), next(iter(self.folds.values())))

    def seen(self, inputs: list[types.JsonDict]) -> float:
        return 0.0

    def predict_minibatch(self, inputs: list[types.JsonDict]) -> list[types.JsonDict]:
        kept = self.output_spec()
        outputs = self._ask(inputs, lambda model, rows: model.predict_minibatch(rows))
        return [{name: output[name] for name in kept if name in output} for output in outputs]

    def scores(self, inputs: Iterable[types.JsonDict]) -> list[types.JsonDict]:
        return self._ask(list(inputs), lambda model, rows: model.scores(rows))

    def explained(self, inputs: Iterable[types.JsonDict], quantity: Quantity) -> list[types.JsonDict]:
        return self._ask(list(inputs), lambda model, rows: model.explained(rows, quantity))

    def _ask(self, inputs: list[types.JsonDict], question: Callable[[FoldModel, list], list]) -> list[Any]:
        """Each fold's answers for its texts, in the order of the inputs."""
        answers: list[Any] = [None] * len(inputs)
        models = list(map(self.of, inputs))
        for model in self.folds.values():
            numbers = [number for number, other in enumerate(models) if other is model]
            asked = [inputs[number] for number in numbers]
            for number, answer in zip(numbers, question(model, asked) if asked else [], strict=True):
                answers[number] = answer
        return answers
