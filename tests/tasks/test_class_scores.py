"""Scores of classes: scikit-learn's where it has them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from utils.tasks.class_scores import SCORES, area_under_roc, average_precision, by_class, confusion


def make_rows(n_classes, n_rows=60, seed=0, absent=()):
    generator = np.random.default_rng(seed)
    codes = generator.choice([k for k in range(n_classes) if k not in absent], n_rows)
    shares = generator.dirichlet(np.ones(n_classes), n_rows)
    return codes, shares.argmax(axis=1), shares


def macro(function, codes, predicted, **options):
    return function(codes, predicted, labels=np.unique(codes), average="macro", zero_division=0, **options)


@pytest.mark.parametrize("n_classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_scikit_learns(n_classes, seed):
    codes, predicted, shares = make_rows(n_classes, seed=seed)
    truth = np.eye(n_classes)[codes]
    expected = {
        "accuracy": metrics.accuracy_score(codes, predicted),
        "macro_f1": macro(metrics.f1_score, codes, predicted),
        "weighted_f1": metrics.f1_score(codes, predicted, average="weighted"),
        "macro_precision": macro(metrics.precision_score, codes, predicted),
        "macro_recall": metrics.balanced_accuracy_score(codes, predicted),
        "log_loss": metrics.log_loss(codes, shares, labels=range(n_classes)),
        "mcc": metrics.matthews_corrcoef(codes, predicted),
        "qwk": metrics.cohen_kappa_score(codes, predicted, weights="quadratic"),
        "brier": ((shares - truth) ** 2).sum(axis=1).mean() / (2 if n_classes == 2 else 1),
    }
    if n_classes == 2:
        expected["auroc"] = metrics.roc_auc_score(codes, shares[:, 1])
        expected["average_precision"] = metrics.average_precision_score(codes, shares[:, 1])
    else:
        expected["auroc"] = metrics.roc_auc_score(codes, shares, multi_class="ovr")
        expected["average_precision"] = metrics.average_precision_score(truth, shares, average="macro")
    assert {name: score(codes, predicted, shares) for name, score in SCORES.items()} == pytest.approx(
        expected
    )


def test_macro_scores_are_means_over_the_classes_that_occur():
    codes, predicted, shares = np.array([0, 0, 1]), np.array([0, 2, 1]), np.eye(4)[[0, 2, 1]]
    assert SCORES["macro_recall"](codes, predicted, shares) == pytest.approx((0.5 + 1) / 2)
    assert np.isnan(by_class(codes, predicted, 4)["f1"]).tolist() == [False, False, True, True]
    assert SCORES["auroc"](codes, predicted, shares) == pytest.approx((0.75 + 1) / 2)


def test_what_one_class_alone_cannot_define_is_nan_and_never_a_half():
    codes, shares = np.ones(5, int), np.random.default_rng(0).dirichlet(np.ones(3), 5)
    undefined = {name for name, score in SCORES.items() if np.isnan(score(codes, shares.argmax(1), shares))}
    assert undefined == {"auroc", "average_precision", "mcc", "qwk"}


def test_no_rows_have_no_score():
    codes, shares = np.empty(0, int), np.empty((0, 3))
    assert all(np.isnan(score(codes, codes, shares)) for score in SCORES.values())


def test_a_certain_mistake_has_a_finite_loss():
    assert SCORES["log_loss"](np.array([0]), np.array([1]), np.array([[0.0, 1.0]])) == pytest.approx(
        16.1, abs=0.1
    )


def test_always_the_same_class_correlates_with_nothing():
    codes, predicted, shares = np.array([0, 1, 0]), np.zeros(3, int), np.eye(2)[[0, 0, 0]]
    assert SCORES["mcc"](codes, predicted, shares) == 0.0
    assert SCORES["qwk"](codes, predicted, shares) == 0.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_confusion_matrix_counts_every_row_once(pairs):
    codes, predicted = np.array(pairs).T
    table = confusion(codes, predicted, 5)
    np.testing.assert_array_equal(table, metrics.confusion_matrix(codes, predicted, labels=range(5)))


ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=2)


@given(ROWS.filter(lambda rows: len({positive for positive, _ in rows}) == 2))
def test_areas_are_scikit_learns_with_ties_too(rows):
    positive, shares = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    assert area_under_roc(positive, shares) == pytest.approx(metrics.roc_auc_score(positive, shares))
    assert average_precision(positive, shares) == pytest.approx(
        metrics.average_precision_score(positive, shares)
    )
