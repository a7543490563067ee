"""LIT's salience methods (lit-nlp 1.3.1), corrected where they fail on texts of 200 words."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from lit_nlp.api import components, model, types
from lit_nlp.components import (
    core,
    gradient_maps,
    lime_explainer,
    projection,
    salience_clustering,
    tcav,
)

from utils.lit.results import Curves, LabelResults, RegressionResults, Thresholder
from utils.lit.spec import Quantity
from utils.lit.tsne import TSNEModel
from utils.lit.wrappers import FoldModel, scale_to_largest, unwrap

_TARGET = lime_explainer.TARGET_INFO_KEY


class ScoresOfEdits(model.ModelWrapper):
    """A FoldModel that returns only the scores of edited texts, which have no id yet.

    LIME and the generators ask for hundreds of them and read nothing else. A text with an id has gradients,
    too: of ``explained``.

    Args:
        alone: return ``explained`` and nothing else.
        settings: of the generator that asks.
    """

    def __init__(
        self,
        wrapped: model.Model,
        explained: Quantity,
        alone: bool = False,
        settings: types.JsonDict | None = None,
    ):
        super().__init__(wrapped)
        self.explained, self.alone, self.settings = explained, alone, settings or {}

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
        **({"tsne": projection.ProjectionManager(TSNEModel)} if "pca" in defaults else {}),
        **salience,
        "Salience Clustering": salience_clustering.SalienceClustering(dict(salience)),
        "tcav": TCAV(),
    }
