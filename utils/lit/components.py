"""LIT's salience methods and generators (lit-nlp 1.3.1), corrected where they fail on texts of 200 words."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from lit_nlp.api import components, model, types
from lit_nlp.components import (
    ablation_flip,
    core,
    gradient_maps,
    hotflip,
    lime_explainer,
    salience_clustering,
    tcav,
)
from lit_nlp.lib import utils as lit_utils

from utils.data.table import clean_text
from utils.lit.encoding import read_by
from utils.lit.results import Curves, LabelResults, RegressionResults, Thresholder
from utils.lit.spec import Quantity, View
from utils.lit.wrappers import FoldModel, scale_to_largest, unwrap

_TARGET = lime_explainer.TARGET_INFO_KEY


class ScoresOfEdits(model.ModelWrapper):
    """A FoldModel that returns only the scores of edited texts, which have no id yet.

    LIME and the generators ask for hundreds of them and read nothing else. A text with an id has gradients,
    too: of ``explained``.

    Args:
        alone: return ``explained`` and nothing else.
    """

    def __init__(self, wrapped: model.Model, explained: Quantity, alone: bool = False):
        super().__init__(wrapped)
        self.explained, self.alone = explained, alone

    def predict(self, inputs: Iterable[types.JsonDict], **options) -> list[types.JsonDict]:
        inputs = list(inputs)
        if self.alone:
            return unwrap(self).explained(inputs, self.explained)
        if not all(example.get("_id") for example in inputs):
            return unwrap(self).scores(inputs)
        if self.explained != unwrap(self).view.chosen(None):
            inputs = [about(example, self.explained) for example in inputs]
        return self.wrapped.predict(inputs, **options)


def about(example: types.JsonDict, quantity: Quantity) -> types.JsonDict:
    """An input whose gradients are to be of a quantity. Without an id, no cache answers for it."""
    return example | {"explained": quantity, "_id": ""}


class Salience(components.Interpreter):
    """Salience for what the page's "Target field" and "Class to explain" name, 1 its largest absolute value.

    LIT's gradients stay those of one target, and its sum is 1: pale colours over 200 tokens.
    """

    def config_spec(self) -> types.Spec:
        return super().config_spec() | {_TARGET: types.SalienceTargetInfo(required=False)}

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        view = unwrap(lit_model).view
        chosen = view.chosen((config or {}).get(_TARGET))
        if chosen != view.chosen(None):
            inputs, model_outputs = [about(example, chosen) for example in inputs], None
        results = self.explain(inputs, lit_model, lit_dataset, model_outputs, config, chosen)
        if not (config or {}).get(gradient_maps.NORMALIZATION_KEY, True):
            return results  # attributions in the score's own unit were asked for
        return results and [
            {name: scale_to_largest(salience) for name, salience in result.items()} for result in results
        ]

    def explain(self, inputs, lit_model, lit_dataset, model_outputs, config, chosen: Quantity):
        """LIT's own result."""
        return super().run(inputs, lit_model, lit_dataset, model_outputs, config)


class GradientNorm(Salience, gradient_maps.GradientNorm):
    pass


class GradientDotInput(Salience, gradient_maps.GradientDotInput):
    pass


class IntegratedGradients(Salience, gradient_maps.IntegratedGradients):
    """LIT's stops one step before the text itself, so that its attributions miss part of the score."""

    def get_interpolated_inputs(self, baseline: np.ndarray, target: np.ndarray, num_steps: int) -> np.ndarray:
        return super().get_interpolated_inputs(baseline, target, num_steps - 1)

    def estimate_integral(self, path_gradients: np.ndarray) -> np.ndarray:
        """By trapezoids; it works for a text without tokens too."""
        return ((path_gradients[:-1] + path_gradients[1:]) / 2).mean(axis=0)

    def config_spec(self) -> types.Spec:
        """Without LIT's own way to name a class."""
        spec = super().config_spec()
        return {name: field for name, field in spec.items() if name != gradient_maps.CLASS_KEY}

    def explain(self, inputs, lit_model, lit_dataset, model_outputs, config, chosen):
        config, key = dict(config or {}), unwrap(lit_model).view.gradient_input
        config[gradient_maps.INTERPOLATION_KEY] = max(2, int(config.get(gradient_maps.INTERPOLATION_KEY, 30)))
        inputs = [{key: None} | example for example in inputs]  # LIT reads it, for nothing
        return super().explain(inputs, lit_model, lit_dataset, model_outputs, config, chosen)


class LIME(Salience, lime_explainer.LIME):
    """LIT's masks with "[MASK]" and explains probabilities; this one explains what the gradients are of."""

    _NOT_ASKED: ClassVar = {lime_explainer.TARGET_HEAD_KEY: "", lime_explainer.CLASS_KEY: "-1"}

    def config_spec(self) -> types.Spec:
        """Without LIT's former way to name a class."""
        return {name: field for name, field in super().config_spec().items() if name not in self._NOT_ASKED}

    def explain(self, inputs, lit_model, lit_dataset, model_outputs, config, chosen):
        config = {**(config or {}), **self._NOT_ASKED, _TARGET: {"field": chosen[0], "index": 0}}
        if config.get(lime_explainer.MASK_KEY, "[MASK]") == "[MASK]":
            config[lime_explainer.MASK_KEY] = unwrap(lit_model).explainer.mask_token
        alone = ScoresOfEdits(lit_model, chosen, alone=True)
        return super().explain(inputs, alone, lit_dataset, None, config, chosen)


class _Flip(components.Generator):
    """A generator that carries a score over a threshold, by default the view's, or changes a class."""

    def __init__(self, view: View):
        super().__init__()
        self.view = view

    def config_spec(self) -> types.Spec:
        threshold = types.TextSegment(default=f"{self.view.threshold:.3g}")
        field = types.SingleFieldMatcher(spec="output", types=list(self.view.flipped))
        spec = super().config_spec() | {ablation_flip.PREDICTION_KEY: field}
        del spec[ablation_flip.REGRESSION_THRESH_KEY]
        has_scores = "RegressionScore" in self.view.flipped
        return spec | ({ablation_flip.REGRESSION_THRESH_KEY: threshold} if has_scores else {})

    def generate(self, example, lit_model, lit_dataset, config=None):
        """New texts, without what LIT takes for their truth; LIT takes a threshold of 0 for none."""
        key, config = ablation_flip.REGRESSION_THRESH_KEY, dict(config or {})
        config[key] = float(config.get(key, self.view.threshold)) or 1e-9
        field = config.get(ablation_flip.PREDICTION_KEY) or self.view.score
        (values,) = unwrap(lit_model).scores([example])
        edits = ScoresOfEdits(lit_model, self.view.most_likely(field, values))
        truth = {name: example.get(name) for name in self.view.dataset_fields()}
        edited = super().generate(example, edits, lit_dataset, config | {ablation_flip.PREDICTION_KEY: field})
        return [{name: value for name, value in (new | truth).items() if name != field} for new in edited]


class AblationFlip(_Flip, ablation_flip.AblationFlip):
    """LIT's gives the new texts the id of the text they came from."""

    def _create_cf(self, example, input_spec, ablation_idxs):
        edited = super()._create_cf(example, input_spec, ablation_idxs)
        changed = {field: edited[field] for field, _ in ablation_idxs}
        return lit_utils.make_modified_input(example, changed, "Ablation Flip")


class HotFlip(_Flip, hotflip.HotFlip):
    """LIT's joins word pieces with spaces and flips to any piece; this one flips whole words in the text."""

    def generate(self, example, lit_model, lit_dataset, config=None):
        fold_model = unwrap(lit_model)
        field = fold_model.view.task.config.text_column
        example = example | {field: clean_text(example[field])}
        read = read_by(fold_model.view.task.config, example)
        example["_spans"] = fold_model.explainer.encode([read]).spans[0]
        return super().generate(example, lit_model, lit_dataset, config)

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

    def get_predictions(self, lit_model, inputs, precomputed_outputs=None):
        """With gradients of each text's predicted class."""
        view, outputs = unwrap(lit_model).view, precomputed_outputs or lit_model.predict(inputs)
        classes = [view.most_likely(view.class_field, values) for values in outputs]
        return lit_model.predict([about(*pair) for pair in zip(inputs, classes, strict=True)])

    def get_dir_derivs(self, cav, dataset_outputs, grad_layer, grad_class_key, class_to_explain):
        derivatives = super().get_dir_derivs(
            cav, dataset_outputs, grad_layer, grad_class_key, class_to_explain
        )
        if not len(derivatives):
            raise ValueError(
                f"the model scores none of these texts as {class_to_explain}; explain another class"
            )
        return derivatives


def interpreters(models: dict[str, FoldModel], fewest: int) -> dict[str, components.Interpreter]:
    """LIT's interpreters that have something to say about the score or the class of a text.

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
    names = ["nearest neighbors", "pca", *(["umap"] if fewest > 15 else [])]
    return {
        "regression": RegressionResults(),
        "classification": LabelResults(),
        "curves": Curves(),
        "thresholder": Thresholder(),
        "Attention": defaults["Model-provided salience"],
        **{name: defaults[name] for name in names if name in defaults},
        **salience,
        "Salience Clustering": salience_clustering.SalienceClustering(dict(salience)),
        "tcav": TCAV(),
    }


def generators(view: View) -> dict[str, components.Generator]:
    """What makes new texts out of old ones: words left out, flipped, replaced, or all of them shuffled."""
    defaults = core.default_generators()
    flips = {"Ablation Flip": AblationFlip(view), "HotFlip": HotFlip(view)}
    return flips | {name: defaults[name] for name in ("Word Replacer", "Scrambler")}
