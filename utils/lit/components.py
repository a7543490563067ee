"""LIT's components (lit-nlp 1.3.1), corrected where they fail on a score for a text of 200 words."""

from collections.abc import Iterable

import numpy as np
from lit_nlp.api import components, layout, model, types
from lit_nlp.components import (
    ablation_flip,
    core,
    gradient_maps,
    hotflip,
    lime_explainer,
    metrics,
    salience_clustering,
    tcav,
)
from lit_nlp.lib import utils as lit_utils

from utils.data.table import clean_text
from utils.lit.wrappers import FoldModel, scale_to_largest, unwrap


class ScoresOfEdits(model.ModelWrapper):
    """A FoldModel that returns only the scores of edited texts, which have no id yet.

    LIME and the generators ask for hundreds of them and read nothing else.
    """

    def predict(self, inputs: Iterable[types.JsonDict], **options) -> list[types.JsonDict]:
        inputs = list(inputs)
        if all(example.get("_id") for example in inputs):
            return self.wrapped.predict(inputs, **options)
        return unwrap(self).scores(inputs)


class KnownTargets(metrics.RegressionMetrics):
    """LIT's metrics of the rows whose target is known."""

    def compute(self, labels, preds, **options):
        known = [pair for pair in zip(labels, preds, strict=True) if pair[0] is not None]
        return super().compute(*map(list, zip(*known, strict=True)), **options) if known else {}


class ToLargest(components.Interpreter):
    """Salience with 1 as its largest absolute value. LIT makes its sum 1: pale colours over 200 tokens."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        results = super().run(inputs, lit_model, lit_dataset, model_outputs, config)
        if not (config or {}).get(gradient_maps.NORMALIZATION_KEY, True):
            return results  # attributions in the score's own unit were asked for
        return results and [
            {name: scale_to_largest(salience) for name, salience in result.items()} for result in results
        ]


class GradientNorm(ToLargest, gradient_maps.GradientNorm):
    pass


class GradientDotInput(ToLargest, gradient_maps.GradientDotInput):
    pass


class IntegratedGradients(ToLargest, gradient_maps.IntegratedGradients):
    """LIT's stops one step before the text itself, so that its attributions miss part of the score."""

    def get_interpolated_inputs(self, baseline: np.ndarray, target: np.ndarray, num_steps: int) -> np.ndarray:
        return super().get_interpolated_inputs(baseline, target, num_steps - 1)

    def estimate_integral(self, path_gradients: np.ndarray) -> np.ndarray:
        """By trapezoids; it works for a text without tokens too."""
        return ((path_gradients[:-1] + path_gradients[1:]) / 2).mean(axis=0)

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        config = dict(config or {})
        config[gradient_maps.INTERPOLATION_KEY] = max(2, int(config.get(gradient_maps.INTERPOLATION_KEY, 30)))
        return super().run(inputs, lit_model, lit_dataset, model_outputs, config)


class LIME(ToLargest, lime_explainer.LIME):
    """LIT's masks with "[MASK]" and explains the first score; this one takes the model's mask and score."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        fold_model, config = unwrap(lit_model), dict(config or {})
        if config.get(lime_explainer.MASK_KEY, "[MASK]") == "[MASK]":
            config[lime_explainer.MASK_KEY] = fold_model.explainer.mask_token
        explained = {"field": fold_model.view.score}
        config[lime_explainer.TARGET_INFO_KEY] = config.get(lime_explainer.TARGET_INFO_KEY) or explained
        return super().run(inputs, ScoresOfEdits(lit_model), lit_dataset, None, config)


class _OverThreshold(components.Generator):
    """A generator that flips a score over a threshold: by default, the view's."""

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold = threshold

    def config_spec(self) -> types.Spec:
        threshold = types.TextSegment(default=f"{self.threshold:.3g}")
        score = types.SingleFieldMatcher(spec="output", types=["RegressionScore"])
        fields = {ablation_flip.REGRESSION_THRESH_KEY: threshold, ablation_flip.PREDICTION_KEY: score}
        return super().config_spec() | fields


class AblationFlip(_OverThreshold, ablation_flip.AblationFlip):
    """LIT's gives the new texts the id of the text they came from, and takes a threshold of 0 for none."""

    def generate(self, example, lit_model, lit_dataset, config=None):
        key, config = ablation_flip.REGRESSION_THRESH_KEY, dict(config or {})
        config[key] = float(config.get(key, self.threshold)) or 1e-9
        return super().generate(example, ScoresOfEdits(lit_model), lit_dataset, config)

    def _create_cf(self, example, input_spec, ablation_idxs):
        edited = super()._create_cf(example, input_spec, ablation_idxs)
        changed = {field: edited[field] for field, _ in ablation_idxs}
        return lit_utils.make_modified_input(example, changed, "Ablation Flip")


class HotFlip(_OverThreshold, hotflip.HotFlip):
    """LIT's joins word pieces with spaces and flips to any piece; this one flips whole words in the text."""

    def generate(self, example, lit_model, lit_dataset, config=None):
        fold_model = unwrap(lit_model)
        field = fold_model.view.task.config.text_column
        text = clean_text(example[field])
        example = example | {field: text, "_spans": fold_model.explainer.encode([text]).spans[0]}
        return super().generate(example, ScoresOfEdits(lit_model), lit_dataset, config)

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
        edited = lit_utils.make_modified_input(example, {text_field: text}, "HotFlip")
        return {name: value for name, value in edited.items() if name not in (token_field, "_spans")}


class TCAV(tcav.TCAV):
    """LIT's divides by zero where the model puts no text into the class."""

    def get_dir_derivs(self, cav, dataset_outputs, grad_layer, grad_class_key, class_to_explain):
        derivatives = super().get_dir_derivs(
            cav, dataset_outputs, grad_layer, grad_class_key, class_to_explain
        )
        if not len(derivatives):
            raise ValueError(
                f"the model scores none of these texts as {class_to_explain}; explain the other band"
            )
        return derivatives


def interpreters(models: dict[str, FoldModel], fewest: int) -> dict[str, components.Interpreter]:
    """LIT's interpreters that have something to say about the score of a text.

    Args:
        fewest: texts in the smallest dataset. UMAP compares each with 15 others, and is left out below that.
    """
    salience = {
        "Grad L2 Norm": GradientNorm(),
        "Grad ⋅ Input": GradientDotInput(),
        "Integrated Gradients": IntegratedGradients(),
        "LIME": LIME(seed=0),
    }
    defaults = core.default_interpreters(models)
    names = ["regression", "classification", "nearest neighbors", "pca", "Model-provided salience"]
    names += ["umap"] if fewest > 15 else []
    clustering = {"Salience Clustering": salience_clustering.SalienceClustering(dict(salience))}
    return (
        {name: defaults[name] for name in names if name in defaults}
        | salience
        | clustering
        | {"tcav": TCAV()}
    )


def generators(threshold: float) -> dict[str, components.Generator]:
    """What makes new texts out of old ones: words left out, flipped, replaced, or all of them shuffled."""
    defaults = core.default_generators()
    flips = {"Ablation Flip": AblationFlip(threshold), "HotFlip": HotFlip(threshold)}
    return flips | {name: defaults[name] for name in ("Word Replacer", "Scrambler")}


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
    description="Fold models, and the texts that each held out.",
)
