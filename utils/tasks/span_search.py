"""The best span of a context, from the logits of its windows."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from utils.data.tokens import Examples
from utils.data.windows import START, STOP

#: By how much "no answer" wins where a context has no token that could be one.
CERTAIN = 1e4


def best_spans(outputs: list[np.ndarray], examples: Examples, longest: int) -> np.ndarray:
    """The best span of each row over its windows, and how much better "no answer" is, (rows, 4).

    Columns: where it starts and stops, in characters of the context as it was given; its score, the sum of
    its logits of start and end; and the score of no answer minus that. No answer is the first token of a
    window, and of several windows the one that is least sure of it counts.

    Args:
        outputs: of each window, (tokens, 2).
        longest: span, in tokens.
    """
    best = np.tile([0.0, 0.0, -np.inf], (len(examples.ids), 1))
    no_answer = np.full(len(examples.ids), np.inf)
    for window, (row, logits) in enumerate(zip(examples.row, outputs, strict=True)):
        part = examples.slice(window)
        starts, stops = (examples.extras[name][part] for name in (START, STOP))
        score, first, last = best_span(logits, stops > starts, longest)
        no_answer[row] = min(no_answer[row], logits[0].sum())
        if score > best[row, 2]:
            best[row] = starts[first], stops[last], score
    scores = np.maximum(best[:, 2], no_answer - CERTAIN)
    return np.column_stack([best[:, :2], scores, no_answer - scores])


def best_span(logits: np.ndarray, allowed: np.ndarray, longest: int) -> tuple[float, int, int]:
    """The highest sum of a start's and an end's logit, and the tokens that have it.

    All spans of at most ``longest`` tokens that begin and end at ``allowed`` ones are compared. The usual
    search, of the 20 best starts with the 20 best ends, misses the best span where those do not fit together.

    Args:
        logits: (tokens, 2); allowed: (tokens,).
    """
    starts, ends = np.where(allowed[:, np.newaxis], logits, -np.inf).T
    ahead = np.pad(ends, (0, longest - 1), constant_values=-np.inf)
    scores = starts[:, np.newaxis] + sliding_window_view(ahead, longest)  # (tokens, longest)
    first, length = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, length]), int(first), int(first + length)


def combine_spans(predictions: np.ndarray) -> np.ndarray:
    """One prediction per row, (rows, 4), from those of several models, (models, rows, 4).

    The span that most models choose, and among equals the one with the highest mean score; that score; and
    the mean over all models of what "no answer" is better by.
    """
    combined = np.empty(predictions.shape[1:])
    for row, answers in enumerate(predictions.swapaxes(0, 1)):
        spans, number, votes = np.unique(answers[:, :2], axis=0, return_inverse=True, return_counts=True)
        scores = np.bincount(number.ravel(), answers[:, 2]) / votes
        chosen = np.lexsort([scores, votes])[-1]
        combined[row] = *spans[chosen], scores[chosen], answers[:, 3].mean()
    return combined
