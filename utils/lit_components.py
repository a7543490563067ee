"""LIT's components (lit-nlp 1.3.1), mended where they fail on the score of a text of 200 words: each says why."""

from collections.abc import Iterable

import numpy as np
from lit_nlp.api import components, layout, model, types
from lit_nlp.components import ablation_flip, core, gradient_maps, hotflip, lime_explainer, salience_clustering, tcav
from lit_nlp.lib import utils as lit_utils

from utils.data import clean_text
from utils.interpret import Regressor, regressor_of, score_field, to_largest


class ScoresOfEdits(model.ModelWrapper):
    """A Regressor that tells of edited texts, which have no id yet, the scores alone.

    LIME and the generators ask for hundreds of them and read nothing else.
    """

    def predict(self, inputs: Iterable[types.JsonDict], **options) -> list[types.JsonDict]:
        inputs = list(inputs)
        if all(example.get("_id") for example in inputs):
            return self.wrapped.predict(inputs, **options)
        return regressor_of(self).scores(inputs)


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

    def estimate_integral(self, path_gradients: np.ndarray) -> np.ndarray:
        """By trapezoids, of a text without tokens too."""
        return ((path_gradients[:-1] + path_gradients[1:]) / 2).mean(axis=0)

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        steps = {gradient_maps.INTERPOLATION_KEY: max(2, int((config or {}).get(gradient_maps.INTERPOLATION_KEY, 30)))}
        return super().run(inputs, lit_model, lit_dataset, model_outputs, (config or {}) | steps)


class LIME(ToLargest, lime_explainer.LIME):
    """LIT's masks with BERT's mask and explains the first score; this one with the tokenizer's, and the one asked."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        regressor, config = regressor_of(lit_model), dict(config or {})
        if config.get(lime_explainer.MASK_KEY, "[MASK]") == "[MASK]":
            config[lime_explainer.MASK_KEY] = regressor.explainer.mask
        explained = {"field": score_field(regressor.config, regressor.explainer.target)}
        config[lime_explainer.TARGET_INFO_KEY] = config.get(lime_explainer.TARGET_INFO_KEY) or explained
        return super().run(inputs, ScoresOfEdits(lit_model), lit_dataset, None, config)


class _AroundTheMiddle:
    """A score is flipped, over the middle target unless another threshold is given."""

    def __init__(self, middle: float):
        super().__init__()
        self.middle = middle

    def config_spec(self) -> types.Spec:
        threshold = types.TextSegment(default=f"{self.middle:.3g}")
        score = types.SingleFieldMatcher(spec="output", types=["RegressionScore"])
        own = {ablation_flip.REGRESSION_THRESH_KEY: threshold, ablation_flip.PREDICTION_KEY: score}
        return super().config_spec() | own


class AblationFlip(_AroundTheMiddle, ablation_flip.AblationFlip):
    """LIT's gives what it makes the id of the text it came from, and takes a threshold of 0 for none."""

    def generate(self, example, lit_model, lit_dataset, config=None):
        key, config = ablation_flip.REGRESSION_THRESH_KEY, dict(config or {})
        config[key] = float(config.get(key, self.middle)) or 1e-9
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
