"""What LIT shows of answers: the question beside its text, and the best span in it."""

import numpy as np
import pandas as pd
from lit_nlp.api import dtypes, types

from utils.data.table import clean_text
from utils.explain.explainer import Reading
from utils.lit.spec import View, make_view
from utils.tasks.span_search import best_span
from utils.tasks.spans import Spans


class SpansView(View):
    """The best span of a text, and the logits of its start and end, of which one is explained."""

    task: Spans

    def dataset_fields(self) -> types.Spec:
        return {self.task.answer: types.StringLitType()}

    def dataset_values(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[list(self.dataset_fields())].astype(str)

    def outputs(self) -> types.Spec:
        return super().outputs() | {
            "predicted span": types.SpanLabels(align="tokens"),
            "predicted text": types.GeneratedText(parent=self.task.answer),
        }

    def of_reading(self, reading: Reading, example: types.JsonDict) -> types.JsonDict:
        """The best span whether or not "no answer" is better: in tokens, and as the clean text has it."""
        if not reading.tokens:
            return {"predicted span": [], "predicted text": ""}
        everywhere = np.ones(len(reading.tokens), dtype=bool)
        _, first, last = best_span(reading.logits, everywhere, self.task.config.max_answer_tokens)
        start, stop = reading.spans[first][0], reading.spans[last][1]
        text = clean_text(example[self.task.config.text_column])[start:stop]
        span = dtypes.SpanLabel(start=first, end=last + 1, label="answer")
        return {"predicted span": [span], "predicted text": text}

    def recorded(self, predictions: np.ndarray) -> np.ndarray:
        """No score of a start or an end alone is recorded."""
        return np.full(len(predictions), np.nan)

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """1 where a text has an answer, else 0."""
        return (targets[:, 1] >= 0).astype(float)

    def caption(self, truth: float, prediction: float) -> str:
        return f"{'Answered' if truth else 'Not answered'} by the text, {self.score} {prediction:.2f}"


@make_view.register
def _(task: Spans, output: int, table: pd.DataFrame) -> SpansView:
    return SpansView(task, output)
