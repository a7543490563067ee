"""What can be predicted without a transformer: the mark that a model has to beat."""

import contextlib
import re

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union


def two_counts(texts: list[str]) -> np.ndarray:
    """(texts, 2): the log of the words per sentence, and the characters per word."""
    counts = np.empty((len(texts), 2))
    for i, text in enumerate(texts):
        words = re.findall(r"\w+(?:['’]\w+)*", text) or [text]
        sentences = len(re.findall(r"[.!?]+(?=\W|$)", text)) or 1
        counts[i] = np.log(len(words) / sentences), np.mean([len(word) for word in words])
    return counts


def predict_from_counts(train: list[str], targets: np.ndarray, held_out: list[str]) -> np.ndarray:
    """What least squares on ``two_counts`` predicts for the held-out texts, (rows, targets)."""
    return LinearRegression().fit(two_counts(train), targets).predict(two_counts(held_out))


def predict_from_tfidf(train: list[str], targets: np.ndarray, held_out: list[str], model) -> np.ndarray:
    """What a linear ``model`` on TF-IDF of words and of characters predicts for the held-out texts.

    Raises ValueError where no word occurs twice.
    """
    features = make_union(
        TfidfVectorizer(min_df=2, sublinear_tf=True),
        TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), min_df=5, sublinear_tf=True, max_features=60_000
        ),
    )
    return make_pipeline(features, model).fit(train, targets).predict(held_out)


def number_baselines(texts: list[str], targets: np.ndarray, new: list[str]) -> dict[str, np.ndarray]:
    """The mean, least squares on two counts, and ridge on TF-IDF: predictions of numbers, (rows, targets)."""
    predictions = {
        "mean": np.repeat(targets.mean(axis=0, keepdims=True), len(new), axis=0),
        "two counts": predict_from_counts(texts, targets, new),
    }
    ridge = Ridge(alpha=1.0, solver="sparse_cg")
    with contextlib.suppress(ValueError):  # no word occurs twice
        predictions["TF-IDF, ridge"] = predict_from_tfidf(texts, targets, new, ridge).reshape(len(new), -1)
    return predictions


def predict_prior(codes, n_classes, n_new):
    shares = np.bincount(codes, minlength=n_classes) / len(codes)
    return np.repeat(shares[None], n_new, axis=0)


def predict_probabilities(texts, codes, n_classes, new):
    raise ValueError


def predict_grades(texts, codes, n_classes, new):
    raise ValueError
