"""Exact match and F1 of answers, as SQuAD's own script counts them; and baselines."""

import re
import string
from collections import Counter
from collections.abc import Iterable

import numpy as np

_SENTENCE = r"\S.*?(?:[.!?]['\"”’)]*(?=\s)|\Z)"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """``answer`` in lower case, without punctuation (of ASCII), articles and superfluous white space."""
    text = re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def judge(answer: str, truths: Iterable[str]) -> tuple[float, float]:
    """F1 and exact match of an answer, each against the true answer that it agrees with best.

    "" is no answer. It is right where there are no ``truths``, and worth nothing elsewhere.
    """
    expected = [text for text in map(normalize, truths) if text] or [""]
    given = normalize(answer)
    return max(_f1(given, text) for text in expected), float(given in expected)


def _f1(given: str, expected: str) -> float:
    words, others = given.split(), expected.split()
    if not words or not others:
        return float(words == others)
    common = sum((Counter(words) & Counter(others)).values())
    return 2 * common / (len(words) + len(others))


def fit_cut(answered: np.ndarray, unanswered: np.ndarray, margins: np.ndarray) -> float:
    """The cut on ``margins``, above which rows are left without an answer, with the highest sum of scores.

    Of equally good ones it is the nearest to 0.

    Args:
        answered, unanswered: each row's score if it is answered, and if not, (rows,).
        margins: how much better "no answer" is than the answer, (rows,).
    """
    order = np.argsort(margins, kind="stable")
    values = margins[order]
    gains = np.cumsum((answered - unanswered)[order])  # of answering all rows up to each one
    between = np.flatnonzero(values[1:] > values[:-1])
    cuts = np.concatenate([[values[0] - 1, values[-1] + 1], (values[between] + values[between + 1]) / 2, [0]])
    reached = np.searchsorted(values, cuts, side="right")
    totals = np.concatenate([[0.0], gains])[reached]
    best = cuts[totals >= totals.max() - 1e-9]
    return float(best[np.abs(best).argmin()])


def most_similar_sentence(question: str, context: str) -> tuple[int, int]:
    """Where the sentence starts and stops that shares most words with the question; of equals the first."""
    asked = set(normalize(question).split())
    sentences = [match.span() for match in re.finditer(_SENTENCE, context, re.DOTALL)]
    shared = [len(asked & set(normalize(context[start:stop]).split())) for start, stop in sentences]
    return sentences[int(np.argmax(shared))] if sentences else (0, 0)
