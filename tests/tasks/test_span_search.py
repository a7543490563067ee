"""The best span: against all spans, one by one; over windows; of several models."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from utils.data.tokens import Examples
from utils.tasks.span_search import best_span, best_spans, combine_spans


@given(n=st.integers(1, 14), longest=st.integers(1, 6), seed=st.integers(0, 999))
def test_it_is_the_best_of_all_spans_that_are_permitted(n, longest, seed):
    generator = np.random.default_rng(seed)
    logits, allowed = generator.normal(size=(n, 2)), generator.random(n) < 0.6
    every = [
        (logits[i, 0] + logits[j, 1], i, j)
        for i in range(n)
        for j in range(i, min(i + longest, n))
        if allowed[i] and allowed[j]
    ]
    found = best_span(logits, allowed, longest)
    assert found == max(every) if every else found[0] == -np.inf


def windows(rows, spans):
    """Examples of windows with given rows, each token's span in characters; the first is no context's."""
    lengths = [len(one) for one in spans]
    starts, stops = np.concatenate(spans).T
    extras = {"start": starts, "stop": stops}
    ids = [str(row) for row in range(max(rows) + 1)]
    return Examples(ids, {}, np.cumsum(lengths), np.zeros((len(rows), 2)), np.array(rows), extras)


def test_the_best_of_all_windows_counts_and_the_least_certain_no_answer():
    spans = [[(0, 0), (0, 3), (4, 7)], [(0, 0), (4, 7), (8, 12)], [(0, 0), (0, 5)]]
    outputs = [[[1, 1], [2, 0], [0, 2]], [[5, 5], [3, 1], [0, 4]], [[9, 9], [0, 0]]]
    outputs = [np.array(one, dtype=float) for one in outputs]
    predictions = best_spans(outputs, windows([0, 0, 1], spans), 30)
    np.testing.assert_array_equal(predictions, [[4, 12, 7, 2 - 7], [0, 5, 0, 18]])
    # Windows may come in any order of rows: what counts is ``row``.
    backwards = best_spans(outputs[::-1], windows([1, 0, 0], spans[::-1]), 30)
    np.testing.assert_array_equal(backwards, predictions)


def test_a_context_without_a_token_has_no_answer():
    (prediction,) = best_spans([np.array([[1.0, 2.0]])], windows([0], [[(0, 0)]]), 30)
    assert prediction[:2].tolist() == [0, 0]
    assert prediction[3] > 1000
    assert np.isfinite(prediction).all()


def test_most_models_decide_and_among_equals_the_mean_score():
    models = np.array(
        [[[0, 5, 1, -1], [0, 5, 1, -1]], [[0, 5, 1, 1], [7, 9, 3, 1]], [[7, 9, 100, 3], [8, 9, 2, 0]]],
        dtype=float,
    )
    np.testing.assert_array_equal(combine_spans(models), [[0, 5, 1, 1], [7, 9, 3, 0]])
    np.testing.assert_array_equal(combine_spans(models[:1]), models[0])
