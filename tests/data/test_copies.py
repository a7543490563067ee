import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from utils.data import copies

WORDS = [
    f"{a}{b}{c}"
    for a in ("mar", "té", "sol", "br", "wh")
    for b in "aeiou"
    for c in ("n", "ster", "ck", "", "lt")
]


def edited_texts(seed, n=60, most=0.3):
    """Texts of random words, half of them edited copies of others; some short, some repeated exactly."""
    random = np.random.default_rng(seed)
    texts = []
    for i in range(n):
        words = random.choice(WORDS, random.integers(20, 120)).tolist()
        if i % 2:
            words = texts[random.integers(len(texts))].split()
            for position in np.flatnonzero(random.random(len(words)) < random.uniform(0, most)):
                words[position] = random.choice(WORDS)
        texts.append(" ".join(words))
    return texts


def brute_force(texts):
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(5, 5), sublinear_tf=True)
    vectors = vectorizer.fit_transform(texts)
    return (vectors @ vectors.T).toarray()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_near_copies_are_those_that_brute_force_finds(seed):
    texts = pd.Series(edited_texts(seed))
    distinct = texts[(texts.str.len() >= 200) & ~texts.duplicated()]
    cosines = np.triu(brute_force(distinct.tolist()), k=1)
    first, second = np.nonzero(cosines > 0.9)
    expected = set(zip(distinct.index[first], distinct.index[second], strict=True))
    edge = np.argwhere(np.abs(cosines - 0.9) < 1e-3)
    at_the_edge = {(distinct.index[i], distinct.index[j]) for i, j in edge}
    found = set(map(tuple, copies.near_copies(texts).tolist()))
    assert found ^ expected <= at_the_edge


def test_the_test_above_has_near_copies_and_others():
    cosines = np.concatenate([np.triu(brute_force(edited_texts(seed)), k=1).ravel() for seed in range(5)])
    assert min((cosines > 0.9).sum(), ((cosines > 0.5) & (cosines < 0.9)).sum()) > 20


def test_tf_idf_is_scikit_learns():
    texts = [*edited_texts(0), "a b cd é \U0001f600 I\u0307", "ONE Two  three\n"]
    vectors = copies.tfidf(texts)
    np.testing.assert_allclose((vectors @ vectors.T).toarray(), brute_force(texts), atol=1e-5)


@pytest.mark.parametrize("most", [0, 50])
def test_very_many_near_copies_are_joined_all_the_same(most, monkeypatch):
    """In a table of templates every text is near to many others."""
    random, texts = np.random.default_rng(0), []
    for _ in range(3):
        template = random.choice(WORDS, 120).tolist()
        texts += [" ".join([*template, f"number{i}"]) for i in range(150)]
    order = random.permutation(len(texts))
    monkeypatch.setattr(copies, "_MOST_EXACT", most)
    pairs = copies.near_copies(pd.Series(texts)[order].reset_index(drop=True))
    clusters = copies.join(len(texts), pairs)
    assert len(set(clusters)) == 3
    assert len(set(zip(clusters, order // 150, strict=True))) == 3
    assert len(pairs) < 10 * len(texts)


@pytest.mark.parametrize(
    "texts", [[], ["short"] * 3, ["a" * 250], ["a" * 199, "a" * 198 + "b"], ["." * 300, "!" * 300]]
)
def test_few_short_or_strange_texts_have_no_near_copies(texts):
    assert copies.near_copies(pd.Series(texts, dtype=str)).shape == (0, 2)


@pytest.mark.parametrize("other", ["A text.", " a\n text. ", "a\u00a0text.", "a te xt."])
def test_exact_copies_differ_in_space_and_case_alone(other):
    assert copies.exact_copies(pd.Series(["a text.", other, "a text!"])).tolist() == [0, 0, 1]
