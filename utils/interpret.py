"""Trained folds in the Language Interpretability Tool (LIT, lit-nlp 1.3.1): its dataset and its model."""

import functools
from collections.abc import Iterable

import numpy as np
import pandas as pd
from lit_nlp.api import dataset, dtypes, model, types

from utils.config import Config
from utils.explain import Explainer, Reading

#: Two classes of the score, around the middle target: TCAV asks for a class.
BANDS = ("lower", "higher")
#: A column with so many different values or fewer, and more than one, is a category in LIT.
MOST_CATEGORIES = 60
#: Names that LIT or the model below give to fields of a text; a table's own columns may not have them.
RESERVED = ("tokens", "token_embeddings", "band", "_id", "_meta")


def score_field(config: Config, target: int) -> str:
    """The name of a target's score among the model's outputs."""
    return f"predicted {config.target_columns[target]}"


class Excerpts(dataset.Dataset):
    """Rows of a table for LIT: id, text, targets, standard error, fold, and categories such as topic or licence.

    Args:
        middle: what parts the bands of the target with the number ``target``.
    """

    def __init__(self, table: pd.DataFrame, config: Config, middle: float, target: int = 0, description: str = ""):
        table = table.loc[:, ~table.columns.duplicated()]
        texts = {config.text_column: types.TextSegment(), config.id_column: types.StringLitType()}
        targets = {name: _number() for name in config.target_columns}
        error = pd.to_numeric(table.get("standard_error", pd.Series(dtype=float)), errors="coerce")
        numbers = {"standard_error": _number()} if len(error) and error.notna().all() else {}
        used = {*texts, *targets, *numbers, "standard_error", *RESERVED}
        categories = {
            name: types.CategoryLabel()
            for name in table.columns
            if name == "fold" or (name not in used and 1 < table[name].nunique(dropna=False) <= MOST_CATEGORIES)
        }
        self._spec = texts | targets | numbers | categories | {"band": types.CategoryLabel(vocab=BANDS)}
        self._description = description
        band = np.where(table[config.target_columns[target]] > middle, *reversed(BANDS))
        shown = table[[*texts, *targets, *numbers, *categories]].fillna("").assign(band=band)
        as_text = dict.fromkeys((*texts, *categories), str)
        as_number = dict.fromkeys((*targets, *numbers), float)
        self._examples = shown.astype(as_text | as_number).to_dict("records")

    def spec(self) -> types.Spec:
        return self._spec


def _number() -> types.Scalar:
    """A number's field; the page takes no edited text whose numbers lie outside its range, else 0 to 1."""
    return types.Scalar(required=False, min_val=-1e6, max_val=1e6, step=0.01)


class Regressor(model.BatchedModel):
    """A trained fold as LIT sees it: text in; score, tokens, embeddings, gradients and attention out."""

    def __init__(self, explainer: Explainer, middle: float, description: str = ""):
        self.explainer, self.config, self.middle = explainer, explainer.config, middle
        self._description = description

    def description(self) -> str:
        return self._description

    def max_minibatch_size(self) -> int:
        """What a gradient and attention need grows with the tokens: nearly 1 GB for 512 tokens of deberta-v3-base."""
        return max(1, (4096 if self.explainer.model.device.type == "cuda" else 2048) // self.config.max_length)

    def input_spec(self) -> types.Spec:
        """The text is all that the model reads. The rest is optional, and here because LIT's components ask for it."""
        text = self.config.text_column
        return {
            text: types.TextSegment(),
            self.config.target_columns[self.explainer.target]: _number(),
            "tokens": types.Tokens(parent=text, required=False),
            "token_embeddings": types.TokenEmbeddings(align="tokens", required=False),
            "band": types.CategoryLabel(vocab=BANDS, required=False),
        }

    def output_spec(self) -> types.Spec:
        text, targets = self.config.text_column, self.config.target_columns
        scores = {score_field(self.config, i): types.RegressionScore(parent=name) for i, name in enumerate(targets)}
        in_band = {"align": "band_share", "grad_target_field_key": "band"}
        spec = scores | {
            "tokens": types.Tokens(parent=text),
            "token_embeddings": types.TokenEmbeddings(align="tokens"),
            "token_gradients": types.TokenGradients(
                align="tokens", grad_for="token_embeddings", grad_target_field_key=targets[self.explainer.target]
            ),
            "attention": types.TokenSalience(autorun=True, signed=False),
            "pooled": types.Embeddings(),
            "first token": types.Embeddings(),
        }
        for layer in self.explainer.layers:
            spec |= {f"layer {layer}": types.Embeddings(),
                     f"layer {layer} gradient": types.Gradients(grad_for=f"layer {layer}", **in_band)}  # fmt: skip
        return spec | {
            "pooled gradient": types.Gradients(grad_for="pooled", **in_band),
            "band_share": types.MulticlassPreds(vocab=BANDS, parent="band"),
            "band": types.CategoryLabel(vocab=BANDS, required=False),
        }

    def predict_minibatch(self, inputs: list[types.JsonDict]) -> list[types.JsonDict]:
        given = [example.get("token_embeddings") for example in inputs]
        readings = self.explainer.read([example[self.config.text_column] for example in inputs], given)
        return [self._output(reading, example) for reading, example in zip(readings, inputs, strict=True)]

    def _output(self, reading: Reading, example: types.JsonDict) -> types.JsonDict:
        told = self._scores(reading.scores)
        # Gradients are of the score: towards the higher band. TCAV asks for those of the class in the input.
        band = example.get("band") or BANDS[int(told["band_share"].argmax())]
        sign = 1 if band == BANDS[1] else -1
        output = told | {
            "tokens": reading.tokens, "token_embeddings": reading.embeddings, "token_gradients": reading.gradients,
            "pooled": reading.pooled, "pooled gradient": sign * reading.pooled_gradient, "first token": reading.first,
            "band": band,
        }  # fmt: skip
        for layer in self.explainer.layers:
            output |= {f"layer {layer}": reading.layers[layer],
                       f"layer {layer} gradient": sign * reading.layer_gradients[layer]}  # fmt: skip
        if reading.attention is not None:
            least = reading.attention.min(initial=1.0)  # with mean pooling every token gets some
            output["attention"] = to_largest(dtypes.TokenSalience(reading.tokens, reading.attention - least))
        return output

    @functools.cached_property
    def _embedding_table(self) -> tuple[list[str], np.ndarray]:
        weights = self.explainer.model.encoder.get_input_embeddings().weight[: len(self.explainer.vocabulary)]
        return self.explainer.vocabulary, weights.detach().float().cpu().numpy()

    def get_embedding_table(self) -> tuple[list[str], np.ndarray]:
        return self._embedding_table

    def scores(self, inputs: Iterable[types.JsonDict]) -> list[types.JsonDict]:
        """Of some inputs the scores and the band's shares alone: fast."""
        found = self.explainer.scores([example[self.config.text_column] for example in inputs])
        return [self._scores(row) for row in found]

    def _scores(self, scores: np.ndarray) -> types.JsonDict:
        spread = float(self.explainer.model.target_std[self.explainer.target])
        higher = 1 / (1 + np.exp((self.middle - scores[self.explainer.target]) / spread))
        named = {score_field(self.config, i): float(value) for i, value in enumerate(scores)}
        return named | {"band_share": np.array([1 - higher, higher])}


def regressor_of(wrapped: model.Model) -> Regressor:
    """The Regressor inside LIT's wrappers."""
    while isinstance(wrapped, model.ModelWrapper):
        wrapped = wrapped.wrapped
    return wrapped


def to_largest(found: dtypes.TokenSalience) -> dtypes.TokenSalience:
    return dtypes.TokenSalience(found.tokens, found.salience / max(np.abs(found.salience).max(initial=0.0), 1e-12))
