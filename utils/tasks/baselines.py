"""What can be predicted without a transformer: the mark that a model has to beat."""

import re

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline, make_union


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
    return fit_tfidf(train, targets, model).predict(held_out)


def fit_tfidf(train: list[str], targets: np.ndarray, model) -> Pipeline:
    """A linear ``model`` on TF-IDF of words and of characters, fitted. Raises ValueError as above."""
    features = make_union(
        TfidfVectorizer(min_df=2, sublinear_tf=True),
        TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), min_df=5, sublinear_tf=True, max_features=60_000
        ),
    )
    return make_pipeline(features, model).fit(train, targets)


def predict_prior(codes: np.ndarray, n_classes: int, n_new: int) -> np.ndarray:
    """The training rows' share of each class, for every new text, (texts, classes)."""
    shares = np.bincount(codes, minlength=n_classes) / len(codes)
    return np.repeat(shares[None], n_new, axis=0)


def predict_probabilities(
    train: list[str], codes: np.ndarray, n_classes: int, held_out: list[str]
) -> np.ndarray:
    """What logistic regression on TF-IDF gives each class, (texts, classes); 0 to one that it has not seen.

    Raises ValueError where no word occurs twice.
    """
    model = fit_tfidf(train, codes, LogisticRegression(C=10.0, max_iter=1000))
    probabilities = np.zeros((len(held_out), n_classes))
    probabilities[:, model.classes_] = model.predict_proba(held_out)
    return probabilities


def predict_grades(train: list[str], codes: np.ndarray, n_classes: int, held_out: list[str]) -> np.ndarray:
    """What ridge on TF-IDF predicts, rounded to a class number, (texts,).

    Raises ValueError where no word occurs twice.
    """
    numbers = predict_from_tfidf(train, codes.astype(float), held_out, Ridge(alpha=1.0, solver="sparse_cg"))
    return np.clip(numbers.round(), 0, n_classes - 1).astype(int)
