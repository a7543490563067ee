"""Scores of classes against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from utils.tasks.class_scores import area_under_roc, average_precision

ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=2)


@given(ROWS.filter(lambda rows: len({positive for positive, _ in rows}) == 2))
def test_areas_are_scikit_learns_with_ties_too(rows):
    positive, shares = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    assert area_under_roc(positive, shares) == pytest.approx(roc_auc_score(positive, shares))
    assert average_precision(positive, shares) == pytest.approx(average_precision_score(positive, shares))
