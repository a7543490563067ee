"""LIT's generators of new texts (lit-nlp 1.3.1), corrected where they fail on texts of 200 words."""

import re
from collections.abc import Iterable, Set

import numpy as np
from lit_nlp.api import components, types
from lit_nlp.components import ablation_flip, cf_utils, core, hotflip
from lit_nlp.lib import utils as lit_utils

from utils.data.table import clean_text
from utils.explain.encoding import read_by
from utils.lit.components import ScoresOfEdits
from utils.lit.spec import View
from utils.lit.wrappers import unwrap


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
        edits = ScoresOfEdits(lit_model, self.view.most_likely(field, values), settings=config)
        truth = {name: example.get(name) for name in self.view.dataset_fields()}
        edited = super().generate(example, edits, lit_dataset, config | {ablation_flip.PREDICTION_KEY: field})
        return [{name: value for name, value in (new | truth).items() if name != field} for new in edited]


class AblationFlip(_Flip, ablation_flip.AblationFlip):
    """LIT's gives the new texts the id of the text they came from."""

    def _create_cf(self, example, input_spec, ablation_idxs):
        edited = super()._create_cf(example, input_spec, ablation_idxs)
        changed = {field: edited[field] for field, _ in ablation_idxs}
        return lit_utils.make_modified_input(example, changed, "Ablation Flip")

    def _generate_leave_one_out_ablation_score(
        self, example, model, input_spec, output_spec, orig_output, pred_key, *fields_and_ignored
    ):
        """The effect of each word; none where leaving out those with the largest effect changes nothing.

        LIT would try 600 combinations of these, for half a minute.
        """
        effects = super()._generate_leave_one_out_ablation_score(
            example, model, input_spec, output_spec, orig_output, pred_key, *fields_and_ignored
        )
        threshold = model.settings[ablation_flip.REGRESSION_THRESH_KEY]
        most = int(model.settings.get(ablation_flip.MAX_ABLATIONS_KEY, ablation_flip.MAX_ABLATIONS_DEFAULT))
        is_below = np.ndim(orig_output[pred_key]) == 0 and orig_output[pred_key] <= threshold
        strongest = sorted(effects, key=lambda effect: effect[2], reverse=is_below)[:most]
        words = [(field, index) for field, index, _ in strongest]
        edited = [self._create_cf(example, input_spec, words[: n + 1]) for n in range(len(words))]
        flipped = (
            cf_utils.is_prediction_flip(output, orig_output, output_spec, pred_key, threshold)
            for output in model.predict(edited)
        )
        return effects if any(flipped) else []


class HotFlip(_Flip, hotflip.HotFlip):
    """LIT's joins word pieces with spaces and flips to any piece; this one flips whole words in the text.

    Args:
        words: in lower case, that it may put into a text.
    """

    def __init__(self, view: View, words: Set[str]):
        super().__init__(view)
        self.words = words

    def generate(self, example, lit_model, lit_dataset, config=None):
        fold_model = unwrap(lit_model).of(example)
        field = fold_model.view.task.config.text_column
        example = example | {field: clean_text(example[field])}
        read = read_by(fold_model.view.task.config, example)
        example["_spans"] = fold_model.explainer.encode([read]).spans[0]
        return super().generate(example, fold_model, lit_dataset, config)

    def _gen_token_idxs_to_flip(self, tokens, token_grads, max_flips, tokens_to_ignore):
        pairs = zip(tokens, [*tokens[1:], ""], strict=True)
        words = [token if token.isalpha() and not after.startswith("##") else None for token, after in pairs]
        return super()._gen_token_idxs_to_flip(words, token_grads, max_flips, [*tokens_to_ignore, None])

    def _get_replacement_tokens(self, embedding_matrix, inv_vocab, token_grads, direction=-1):
        whole = [word.isalpha() and len(word) > 1 for word in inv_vocab]
        known = [
            is_whole and word.lower() in self.words for is_whole, word in zip(whole, inv_vocab, strict=True)
        ]
        words = np.flatnonzero(known if any(known) else whole)
        best = np.argmax(embedding_matrix[words] @ (direction * token_grads).T, axis=0)
        return [inv_vocab[words[i]] for i in best]

    def _create_cf(self, example, token_field, text_field, tokens, token_idxs, replacement_tokens):
        text = example[text_field]
        for i in sorted(token_idxs, reverse=True):
            start, stop = example["_spans"][i]
            text = f"{text[:start]}{replacement_tokens[i]}{text[stop:]}"
        edited = lit_utils.make_modified_input(example, {text_field: text}, "HotFlip")
        return {name: value for name, value in edited.items() if name not in (token_field, "_spans")}


def generators(view: View, texts: Iterable[str]) -> dict[str, components.Generator]:
    """What makes new texts out of old ones: words left out, flipped, replaced, or all of them shuffled.

    Args:
        texts: whose words may be put into others. A vocabulary has words that nobody would publish.
    """
    words = {word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text)}
    defaults = core.default_generators()
    flips = {"Ablation Flip": AblationFlip(view), "HotFlip": HotFlip(view, words)}
    return flips | {name: defaults[name] for name in ("Word Replacer", "Scrambler")}
