"""What can be predicted without a transformer: the mark that a model has to beat."""

import contextlib
import re

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
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


def predict_prior(codes: np.ndarray, n_classes: int, n_new: int) -> np.ndarray:
    """Each class's share of the training rows' ``codes``, (rows,), for every new row, (n_new, n_classes)."""
    return np.tile(np.bincount(codes, minlength=n_classes) / len(codes), (n_new, 1))


def predict_probabilities(train: list[str], codes: np.ndarray, n_classes: int, new: list[str]) -> np.ndarray:
    """What logistic regression on TF-IDF gives each class, (rows, n_classes); 0 to one that is in no row.

    Args:
        codes: (rows,), from 0 to n_classes - 1.

    Raises ValueError where no word occurs twice.
    """
    return probabilities(codes, n_classes, *_ngrams(train, new))


def predict_label_probabilities(train: list[str], labels: np.ndarray, new: list[str]) -> np.ndarray:
    """``predict_probabilities`` of each of several labels, (rows, labels), from labels of 0 and 1."""
    features = _ngrams(train, new)
    return np.column_stack([probabilities(column, 2, *features)[:, 1] for column in labels.T])


def predict_grades(train: list[str], grades: np.ndarray, new: list[str]) -> np.ndarray:
    """The known grade, (rows,), that is nearest to what ridge on TF-IDF predicts."""
    features, new_features = _ngrams(train, new)
    predicted = Ridge(alpha=1.0, solver="sparse_cg").fit(features, grades).predict(new_features)
    known = np.unique(grades)
    return known[np.abs(predicted[:, np.newaxis] - known).argmin(axis=1)]


def _ngrams(train: list[str], new: list[str]):
    """TF-IDF of one or two words, and of 2 to 5 characters, of the training texts and of the new ones."""
    options = {"sublinear_tf": True, "max_features": 100_000}
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=5, **options),
    )
    return union.fit_transform(train), union.transform(new)


def probabilities(codes: np.ndarray, n_classes: int, features, new_features, model=None) -> np.ndarray:
    """What a model, by default logistic regression, gives each class, (rows, n_classes); 0 to absent ones."""
    present = np.unique(codes)
    if len(present) == 1:
        return predict_prior(codes, n_classes, new_features.shape[0])
    shares = np.zeros((new_features.shape[0], n_classes))
    fitted = (model or LogisticRegression(max_iter=200)).fit(features, codes)
    shares[:, present] = fitted.predict_proba(new_features)
    return shares
