"""Answer spans: where in a text the answer to a question stands, or that it does not."""

import numpy as np
import pandas as pd
import torch

from utils.data.windows import START, STOP, cut, encode_windows, tokens_of
from utils.modeling.pooling import first_token, one_hot
from utils.modeling.span_loss import SpanLoss
from utils.tasks.metrics import Metric, bootstrap_interval
from utils.tasks.questions import END, GIVEN, Questions
from utils.tasks.span_scores import fit_cut, judge, most_similar_sentence
from utils.tasks.span_search import best_span, best_spans, combine_spans


class Spans(Questions):
    """A span of a text as the answer to a question, judged by SQuAD's F1.

    Predictions are what ``best_spans`` gives, (rows, 4): a span in any case, its score, and by how much "no
    answer" is better. Above a cut on that, 0 unless another is fitted, there is no answer.
    """

    name = "spans"
    metric = Metric("f1", "F1", higher_is_better=True)
    metrics = (Metric("exact_match", "exact match", higher_is_better=True),)
    loss_family = (SpanLoss,)
    default_loss = "span"
    repeats_texts = True
    per_token = True
    text_place = 1  # the question comes first, and is not cut where the text is

    def __init__(self, config):
        super().__init__(config)
        self.outputs = ("start", "end")
        self.judged: dict[tuple[int, int, int], tuple[float, float]] = {}  # by row and span

    def see(self, table: pd.DataFrame) -> None:
        super().see(table)
        self.judged = {}

    def fit(self, train: pd.DataFrame) -> None:
        self.loss = self.make_loss()

    # --- examples and the model -----------------------------------------------------------------------------

    def encode(self, table, tokenizer, max_length=None):
        """Windows. Their targets are the answer's first and last token, or twice the window's first."""
        self.remember(table)
        config, length = self.config, max_length or tokenizer.model_max_length
        questions, contexts = table[config.pair_column].tolist(), table[GIVEN].tolist()
        examples = encode_windows(questions, contexts, tokenizer, length, config.stride)
        examples.ids = table[config.id_column].tolist()
        places = table[[self.start, END]].to_numpy() if END in table else np.full((len(table), 2), -1)
        examples.targets = tokens_of(places, examples)
        return examples

    def encode_texts(self, texts, pairs, tokenizer, **options):
        """As much of each text as one window holds."""
        length = self.config.max_length
        asked = cut(pairs, tokenizer, length // 4)
        return tokenizer(asked, texts, truncation="only_second", max_length=length, **options)

    def statistics(self, outputs, batch):
        """Start and end lie in the context, or both on the first token: this window has no answer."""
        mask = batch.inputs["attention_mask"]
        first = first_token(mask)
        allowed = (batch.extras[STOP] > batch.extras[START]) | (one_hot(first, mask) > 0)
        logits = outputs["logits"].masked_fill(~allowed.unsqueeze(-1), -np.inf)
        return self.loss.statistics(logits, batch.targets + first.unsqueeze(1))

    def settings(self) -> dict:
        names = ("stride", "max_answer_tokens", "pooling")
        no_answer = "possible" if self.has_cuts else "never"
        return {**super().settings(), **{n: getattr(self.config, n) for n in names}, "no_answer": no_answer}

    def explained(self, logits, output):
        """The logit of the best span's start, or end, of logits that are of a context's tokens alone."""
        everywhere = np.ones(logits.shape[1], dtype=bool)
        if not len(everywhere):
            return logits.sum(dim=(1, 2))
        numbers, longest = logits.detach().numpy(), self.config.max_answer_tokens
        spans = [best_span(one, everywhere, longest)[1:] for one in numbers]
        return torch.stack([one[span[output], output] for one, span in zip(logits, spans, strict=True)])

    # --- predictions ----------------------------------------------------------------------------------------

    def decode(self, outputs, examples) -> np.ndarray:
        return best_spans(outputs, examples, self.config.max_answer_tokens)

    def comparable(self, predictions: np.ndarray) -> np.ndarray:
        """The scores: of two spans that are as good, rounding may choose either."""
        return predictions[:, 2:]

    def spread(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        return max(float(self.comparable(predictions).std()), 1.0)

    def guess(self, targets: np.ndarray) -> np.ndarray:
        return np.tile([0.0, 1.0, 0.0, -1.0], (len(targets), 1))

    def predicted(self, predictions, cuts=None) -> np.ndarray:
        cut = 0.0 if cuts is None else cuts[0]
        return np.where(self.has_cuts & (predictions[:, 3:] > cut), -1, predictions[:, :2].astype(int))

    def judge(self, targets: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """F1 and exact match of each answer, (rows, 2)."""
        names, scores = list(self.rows), np.empty((len(spans), 2))
        for i, key in enumerate(zip(*targets.T[:1].astype(int), *spans.T, strict=True)):
            if key not in self.judged:
                row = key[0]
                (text,) = self.texts([names[row]], spans[i : i + 1])
                self.judged[key] = judge(text, self.truths[row])
            scores[i] = self.judged[key]
        return scores

    def metric_of(self, targets: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """The metric of each answer, (rows,)."""
        return self.judge(targets, spans)[:, ["f1", "exact_match"].index(self.metric.name)]

    def scores(self, targets, predictions) -> dict[str, float]:
        """F1 and exact match of all rows.

        Where there may be no answer, also those of the rows that have one, and "no_answer_found": the share
        of the others that are left without.
        """
        judged, known = self.judge(targets, self.predicted(predictions)), targets[:, 1] >= 0
        parts = {"f1": judged[:, 0], "exact_match": judged[:, 1]}
        if self.has_cuts:
            parts |= {"f1_answered": judged[known, 0], "exact_match_answered": judged[known, 1]}
            parts["no_answer_found"] = judged[~known, 0]
        return {name: float(values.mean()) if len(values) else np.nan for name, values in parts.items()}

    def score(self, targets, predictions) -> float:
        return float(self.metric_of(targets, self.predicted(predictions)).mean())

    def errors(self, targets, predictions) -> np.ndarray:
        """1 - F1, (rows, 1)."""
        return 1 - self.judge(targets, self.predicted(predictions))[:, :1]

    def interval(self, targets, predictions, groups) -> tuple[float, float]:
        values = self.metric_of(targets, self.predicted(predictions))
        return bootstrap_interval(lambda rows: values[rows].mean(), groups)

    def combine(self, predictions) -> np.ndarray:
        """``combine_spans``: the span that most models choose."""
        return combine_spans(np.stack(predictions))

    def stack(self, predictions, targets):
        """The combination, shifted so that the cut for "no answer" that suits these rows best is 0."""
        if not self.has_cuts:
            return None
        (cut,) = self.fit_cuts(targets, self.combine(list(predictions)))
        return lambda new: self.combine(list(new)) - [0, 0, 0, cut]

    def baselines(self, train, held_out) -> dict[str, np.ndarray]:
        """The sentence that shares most words with the question; and, where it is possible, no answer."""
        pairs = zip(held_out[self.config.pair_column], held_out[GIVEN], strict=True)
        spans = np.array([most_similar_sentence(question, context) for question, context in pairs])
        answered = np.column_stack([spans, np.tile([0.0, -1.0], (len(spans), 1))])
        baselines = {"sentence with most words in common": answered}
        return baselines | ({"no answer": answered * [1, 1, 1, -1]} if self.has_cuts else {})

    # --- cuts, as ``utils.runs.thresholds`` fits and judges them --------------------------------------------

    @property
    def label_metric(self) -> Metric:
        return self.metric

    def fit_cuts(self, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The cut on how much better "no answer" is that scores best on these rows, (1,)."""
        spans = predictions[:, :2].astype(int)
        answered, unanswered = (self.metric_of(targets, one) for one in (spans, np.full_like(spans, -1)))
        return np.array([fit_cut(answered, unanswered, predictions[:, 3])])

    def label_score(self, targets: np.ndarray, labels: np.ndarray) -> float:
        """The metric of answers as ``predicted`` gives them, (rows, 2)."""
        return float(self.metric_of(targets, labels).mean())
