"""Trained folds in the Language Interpretability Tool (LIT, lit-nlp 1.3.1): the dataset, the model, its components.

What LIT's own components need to work for the score of a text of 200 words is mended here, each where it says why.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from lit_nlp.api import components, dataset, dtypes, layout, model, types
from lit_nlp.components import ablation_flip, core, gradient_maps, hotflip, lime_explainer, salience_clustering, tcav
from lit_nlp.lib import utils as lit_utils

from utils.config import Config
from utils.data import clean_text
from utils.explain import Explainer, Reading

#: Two classes of the score, around the middle target: TCAV asks for a class.
BANDS = ("lower", "higher")
#: A column with so many different values or fewer, and more than one, is a category in LIT.
MOST_CATEGORIES = 60


def score_field(config: Config, target: int) -> str:
    """The name of a target's score among the model's outputs."""
    return "score" if len(config.target_columns) == 1 else f"{config.target_columns[target]} score"


class Excerpts(dataset.Dataset):
    """Rows of a table for LIT: id, text, targets, standard error, fold, and categories such as topic or licence."""

    def __init__(self, table: pd.DataFrame, config: Config, middle: float, description: str = ""):
        texts = {config.text_column: types.TextSegment(), config.id_column: types.StringLitType()}
        targets = {name: types.Scalar() for name in config.target_columns}
        error = pd.to_numeric(table.get("standard_error", pd.Series(dtype=float)), errors="coerce")
        numbers = {"standard_error": types.Scalar()} if len(error) and error.notna().all() else {}
        used = {*texts, *targets, *numbers, "standard_error", "band"}
        categories = {
            name: types.CategoryLabel()
            for name in table.columns
            if name == "fold" or (name not in used and 1 < table[name].nunique(dropna=False) <= MOST_CATEGORIES)
        }
        self._spec = texts | targets | numbers | categories | {"band": types.CategoryLabel(vocab=BANDS)}
        self._description = description
        band = np.where(table[config.target_columns[0]] > middle, *reversed(BANDS))
        shown = table[[*texts, *targets, *numbers, *categories]].fillna("").assign(band=band)
        as_text = dict.fromkeys((*texts, *categories), str)
        as_number = dict.fromkeys((*targets, *numbers), float)
        self._examples = shown.astype(as_text | as_number).to_dict("records")

    def spec(self) -> types.Spec:
        return self._spec


class Regressor(model.BatchedModel):
    """A trained fold as LIT sees it: text in; score, tokens, embeddings, gradients and attention out."""

    def __init__(self, explainer: Explainer, middle: float, description: str = ""):
        self.explainer, self.config, self.middle = explainer, explainer.config, middle
        self._description = description

    def description(self) -> str:
        return self._description

    def max_minibatch_size(self) -> int:
        return 32 if self.explainer.model.device.type == "cuda" else 8

    def input_spec(self) -> types.Spec:
        """The text is all that the model reads. The rest is optional, and here because LIT's components ask for it."""
        text = self.config.text_column
        return {
            text: types.TextSegment(),
            self.config.target_columns[self.explainer.target]: types.Scalar(required=False),
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
            above_the_least = reading.attention - reading.attention.min()  # with mean pooling every token gets some
            output["attention"] = to_largest(dtypes.TokenSalience(reading.tokens, above_the_least))
        return output

    def get_embedding_table(self) -> tuple[list[str], np.ndarray]:
        weights = self.explainer.model.encoder.get_input_embeddings().weight[: len(self.explainer.vocabulary)]
        return self.explainer.vocabulary, weights.detach().float().cpu().numpy()

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


# --- LIT's components, mended ------------------------------------------------------------------------------------


class ScoresOfEdits(model.ModelWrapper):
    """A Regressor that tells of edited texts, which have no id yet, the scores alone.

    LIME and the generators ask for hundreds of them and read nothing else.
    """

    def predict(self, inputs: Iterable[types.JsonDict], **options) -> list[types.JsonDict]:
        inputs = list(inputs)
        if all(example.get("_id") for example in inputs):
            return self.wrapped.predict(inputs, **options)
        return regressor_of(self).scores(inputs)


def to_largest(found: dtypes.TokenSalience) -> dtypes.TokenSalience:
    return dtypes.TokenSalience(found.tokens, found.salience / max(np.abs(found.salience).max(initial=0.0), 1e-12))


class ToLargest:
    """Salience with its largest absolute value as 1: LIT makes its sum 1, which is blank over 200 tokens."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        results = super().run(inputs, lit_model, lit_dataset, model_outputs, config)
        if not (config or {}).get(gradient_maps.NORMALIZATION_KEY, True):
            return results  # attributions in the score's own unit were asked for
        return results and [{name: to_largest(found) for name, found in result.items()} for result in results]


class GradientNorm(ToLargest, gradient_maps.GradientNorm):
    pass


class GradientDotInput(ToLargest, gradient_maps.GradientDotInput):
    pass


class IntegratedGradients(ToLargest, gradient_maps.IntegratedGradients):
    """LIT's stops one step before the text itself, so that its attributions miss part of the score."""

    def get_interpolated_inputs(self, baseline: np.ndarray, target: np.ndarray, num_steps: int) -> np.ndarray:
        return super().get_interpolated_inputs(baseline, target, num_steps - 1)


class LIME(ToLargest, lime_explainer.LIME):
    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        return super().run(inputs, ScoresOfEdits(lit_model), lit_dataset, None, config)


class _AroundTheMiddle:
    """The threshold that a flip must cross is the middle target unless another is given."""

    def __init__(self, middle: float):
        super().__init__()
        self.middle = middle

    def config_spec(self) -> types.Spec:
        threshold = types.TextSegment(default=f"{self.middle:.3g}")
        return super().config_spec() | {ablation_flip.REGRESSION_THRESH_KEY: threshold}


class AblationFlip(_AroundTheMiddle, ablation_flip.AblationFlip):
    """LIT's gives what it makes the id of the text it came from."""

    def generate(self, example, lit_model, lit_dataset, config=None):
        return super().generate(example, ScoresOfEdits(lit_model), lit_dataset, config)

    def _create_cf(self, example, input_spec, ablation_idxs):
        made = super()._create_cf(example, input_spec, ablation_idxs)
        changed = {field: made[field] for field, _ in ablation_idxs}
        return lit_utils.make_modified_input(example, changed, "Ablation Flip")


class HotFlip(_AroundTheMiddle, hotflip.HotFlip):
    """LIT's joins word pieces with spaces and flips to any piece; this one flips whole words, in the text itself."""

    def generate(self, example, lit_model, lit_dataset, config=None):
        regressor = regressor_of(lit_model)
        text = regressor.config.text_column
        cleaned = clean_text(example[text])
        places = {"_spans": regressor.explainer.inputs([cleaned])[2][0]}
        return super().generate(example | {text: cleaned} | places, ScoresOfEdits(lit_model), lit_dataset, config)

    def _gen_token_idxs_to_flip(self, tokens, token_grads, max_flips, tokens_to_ignore):
        pairs = zip(tokens, [*tokens[1:], ""], strict=True)
        words = [token if token.isalpha() and not after.startswith("##") else None for token, after in pairs]
        return super()._gen_token_idxs_to_flip(words, token_grads, max_flips, [*tokens_to_ignore, None])

    def _get_replacement_tokens(self, embedding_matrix, inv_vocab, token_grads, direction=-1):
        words = np.flatnonzero([word.isalpha() and len(word) > 1 for word in inv_vocab])
        best = np.argmax(embedding_matrix[words] @ (direction * token_grads).T, axis=0)
        return [inv_vocab[words[i]] for i in best]

    def _create_cf(self, example, token_field, text_field, tokens, token_idxs, replacement_tokens):
        text = example[text_field]
        for i in sorted(token_idxs, reverse=True):
            start, stop = example["_spans"][i]
            text = f"{text[:start]}{replacement_tokens[i]}{text[stop:]}"
        made = lit_utils.make_modified_input(example, {text_field: text}, "HotFlip")
        return {name: value for name, value in made.items() if name not in (token_field, "_spans")}


class TCAV(tcav.TCAV):
    """LIT's divides by zero where no text is predicted to be of the class."""

    def get_dir_derivs(self, cav, dataset_outputs, grad_layer, grad_class_key, class_to_explain):
        found = super().get_dir_derivs(cav, dataset_outputs, grad_layer, grad_class_key, class_to_explain)
        if not len(found):
            raise ValueError(f"the model scores none of these texts as {class_to_explain}; explain the other band")
        return found


def interpreters(models: dict[str, Regressor], fewest: int) -> dict[str, components.Interpreter]:
    """LIT's interpreters that have something to say about the score of a text, mended.

    Args:
        fewest: texts in the smallest data set. UMAP compares each with 15 others, so it is left out with fewer.
    """
    salience = {"Grad L2 Norm": GradientNorm(), "Grad ⋅ Input": GradientDotInput(),
                "Integrated Gradients": IntegratedGradients(), "LIME": LIME(seed=0)}  # fmt: skip
    usual = core.default_interpreters(models)
    others = ["regression", "classification", "nearest neighbors", "pca", "Model-provided salience"]
    others += ["umap"] if fewest > 15 else []
    clustering = {"Salience Clustering": salience_clustering.SalienceClustering(dict(salience))}
    return {name: usual[name] for name in others if name in usual} | salience | clustering | {"tcav": TCAV()}


def generators(middle: float) -> dict[str, components.Generator]:
    """What makes new texts out of old: words left out, flipped, replaced, or all of them shuffled."""
    usual = core.default_generators()
    return {"Ablation Flip": AblationFlip(middle), "HotFlip": HotFlip(middle),
            "Word Replacer": usual["Word Replacer"], "Scrambler": usual["Scrambler"]}  # fmt: skip


_m = layout.LitModuleName
#: The page: the table and the map of embeddings above, one tab for each question below.
LAYOUT = layout.LitCanonicalLayout(
    upper={"Main": [_m.EmbeddingsModule, _m.DataTableModule, _m.DatapointEditorModule]},
    lower={
        "Predictions": [_m.RegressionModule, _m.ClassificationModule, _m.ScalarModule],
        "Explanations": [_m.RegressionModule, _m.SalienceMapModule],
        "Salience Clustering": [_m.SalienceClusteringModule],
        "Metrics": [_m.MetricsModule],
        "Counterfactuals": [_m.GeneratorModule],
        "TCAV": [_m.TCAVModule],
    },
    description="Fold models and the texts that they did not see.",
)
