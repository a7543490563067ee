"""A table of texts and a trained model, as LIT (lit-nlp 1.3.1) takes them: its Dataset and its Model."""

import functools
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from lit_nlp.api import dataset, dtypes, model, types

from utils.explain.encoding import Read, read_by
from utils.explain.explainer import Explainer, Reading
from utils.lit.spec import RESERVED, Quantity, View, number_field

#: A column with more than one and at most so many different values is a category in LIT.
MOST_CATEGORIES = 60
#: The field with a text's length, for plots of scores and errors by it, unless the table has such a column.
LENGTH = "number of words"


class TextDataset(dataset.Dataset):
    """Rows of a table: text, id, the fields of the task's view, and categories such as topic or licence."""

    def __init__(self, table: pd.DataFrame, view: View, description: str = ""):
        config = view.task.config
        table = table.loc[:, ~table.columns.duplicated()]
        fields = {column: types.TextSegment() for column in config.text_columns}
        fields |= {config.id_column: types.StringLitType()}
        columns = [table[list(fields)].astype(str), view.dataset_values(table)]
        fields |= view.dataset_fields()
        errors = pd.to_numeric(table.get("standard_error", pd.Series(dtype=float)), errors="coerce")
        if len(errors) and errors.notna().all() and "standard_error" not in fields:
            fields["standard_error"] = number_field()
            columns.append(errors.astype(float))
        if LENGTH not in table:
            fields[LENGTH] = number_field()
            columns.append(table[config.text_column].astype(str).map(count_words).rename(LENGTH))
        categories = [name for name in table.columns if _is_category(table[name], used={*fields, *RESERVED})]
        self._spec = fields | dict.fromkeys(categories, types.CategoryLabel())
        self._description = description
        columns.append(table[categories].fillna("").astype(str))
        self._examples = pd.concat(columns, axis=1).to_dict("records")

    def spec(self) -> types.Spec:
        return self._spec


def count_words(text: str) -> int:
    return len(text.split())


def _is_category(column: pd.Series, used: set[str]) -> bool:
    if column.name in used or column.name.startswith("_"):  # the latter are the task's own
        return False
    if column.name == "standard_error":  # of a target, in CommonLit's data
        return False
    return column.name == "fold" or 1 < column.nunique(dropna=False) <= MOST_CATEGORIES


class FoldModel(model.BatchedModel):
    """A trained fold: text in; scores, tokens, embeddings, gradients and attention out.

    Args:
        fold: its number, as the column "fold" of the texts has it.
    """

    def __init__(self, explainer: Explainer, view: View, description: str = "", fold: str = ""):
        self.explainer, self.view, self.fold = explainer, view, fold
        self._text = view.task.config.text_column
        self._head = explainer.model.head.config
        text: Read = ("a text", "text") if view.task.config.pair_column else "a text"
        self._has_attention = explainer.attentions(text)[1] is not None
        self._description = description

    def description(self) -> str:
        return self._description

    def of(self, example: types.JsonDict) -> "FoldModel":
        """The fold that reads an example."""
        return self

    def seen(self, inputs: list[types.JsonDict]) -> float:
        """The share of some texts that the fold was trained on: all but those that it held out."""
        folds = [example.get("fold") or self.fold for example in inputs]
        return float(np.mean([fold != self.fold for fold in folds]))

    def max_minibatch_size(self) -> int:
        """Gradients and attention take memory per token: nearly 1 GB for 512 tokens of deberta-v3-base."""
        tokens = 4096 if self.explainer.model.device.type == "cuda" else 2048
        return max(1, tokens // self.explainer.config.max_length)

    def input_spec(self) -> types.Spec:
        """The model reads the texts alone. The rest is optional: LIT's components ask for it."""
        return {
            **{column: types.TextSegment() for column in self.view.task.config.text_columns},
            "tokens": types.Tokens(parent=self._text, required=False),
            "token_embeddings": types.TokenEmbeddings(align="tokens", required=False),
        } | self.view.inputs()

    def output_spec(self) -> types.Spec:
        layers = {}
        for name in ("pooled", *map(layer_field, self.explainer.layers)):
            gradient = types.Gradients(grad_for=name, **self.view.layer_gradients)
            layers |= {name: types.Embeddings(), f"{name} gradient": gradient}
        tokens = {
            "tokens": types.Tokens(parent=self._text),
            "token_embeddings": types.TokenEmbeddings(align="tokens"),
            "token_gradients": types.TokenGradients(
                align="tokens", grad_for="token_embeddings", grad_target_field_key=self.view.gradient_input
            ),
        }
        if self._has_attention:
            tokens["attention"] = types.TokenSalience(autorun=True, signed=False)
        return self.view.outputs() | tokens | layers | {"first token": types.Embeddings()}

    def predict_minibatch(self, inputs: list[types.JsonDict]) -> list[types.JsonDict]:
        """Gradients are of the quantity in an input's "explained", or of the view's."""
        embeddings = [example.get("token_embeddings") for example in inputs]
        quantities = [example.get("explained", self.view.chosen(None)) for example in inputs]
        explained = [self.view.quantities[quantity] for quantity in quantities]
        readings = self.explainer.read(self._reads(inputs), embeddings, explained)
        return list(map(self._output, readings, inputs))

    def _output(self, reading: Reading, example: types.JsonDict) -> types.JsonDict:
        values = self.view.values(reading.logits, self._head)
        output = (
            values
            | self.view.of_reading(reading, example)
            | {
                "tokens": reading.tokens,
                "token_embeddings": reading.embeddings,
                "token_gradients": reading.gradients,
                "pooled": reading.pooled,
                "pooled gradient": reading.pooled_gradient,
                "first token": reading.first,
            }
        )
        for layer in self.explainer.layers:
            output[layer_field(layer)] = reading.layers[layer]
            output[f"{layer_field(layer)} gradient"] = reading.layer_gradients[layer]
        if reading.attention is not None:
            least = reading.attention.min(initial=1.0)  # with mean pooling every token gets some
            output["attention"] = scale_to_largest(
                dtypes.TokenSalience(reading.tokens, reading.attention - least)
            )
        return output

    @functools.cached_property
    def _embedding_table(self) -> tuple[list[str], np.ndarray]:
        vocabulary = self.explainer.vocabulary
        vectors = self.explainer.model.encoder.get_input_embeddings().weight[: len(vocabulary)]
        return vocabulary, vectors.detach().float().cpu().numpy()

    def get_embedding_table(self) -> tuple[list[str], np.ndarray]:
        return self._embedding_table

    def scores(self, inputs: Iterable[types.JsonDict]) -> list[types.JsonDict]:
        """The outputs that follow from the scores, without gradients and attention: fast."""
        return [self.view.values(row, self._head) for row in self._logits(inputs)]

    def explained(self, inputs: Iterable[types.JsonDict], quantity: Quantity) -> list[types.JsonDict]:
        """A quantity alone, in its field."""
        score = self.view.quantities[quantity]
        return [{quantity[0]: score(torch.from_numpy(row)[None]).item()} for row in self._logits(inputs)]

    def _logits(self, inputs: Iterable[types.JsonDict]) -> list[np.ndarray]:
        return self.explainer.logits(self._reads(inputs))

    def _reads(self, inputs: Iterable[types.JsonDict]) -> list[Read]:
        return [read_by(self.view.task.config, example) for example in inputs]


def layer_field(number: int) -> str:
    """The field of a hidden state's mean: of the embeddings (0), or of a layer, counted from 0."""
    return f"layer {number - 1}" if number else "embeddings"


def unwrap(wrapped: model.Model) -> FoldModel:
    """The FoldModel inside LIT's wrappers."""
    while isinstance(wrapped, model.ModelWrapper):
        wrapped = wrapped.wrapped
    return wrapped


def scale_to_largest(salience: dtypes.TokenSalience) -> dtypes.TokenSalience:
    """The salience with 1 as its largest absolute value."""
    largest = max(np.abs(salience.salience).max(initial=0.0), 1e-12)
    return dtypes.TokenSalience(salience.tokens, salience.salience / largest)
