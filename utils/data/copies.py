"""Copies of a text under several ids: rows that a fold must not hold out while it trains on their twins."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array, vstack
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from sklearn.feature_extraction.text import TfidfTransformer

NEAR = 0.9  # near-copies: texts whose TF-IDF of character 5-grams has a higher cosine
SHORTEST = 200  # characters; shorter texts are alike by chance
_N = 5
_WIDTH, _MARGIN = 256, 0.06  # of a sketch; by how much its cosines may err, some five standard deviations
_BLOCK = 128  # texts compared with all others at once
_MOST_EXACT = 20_000  # pairs that are compared exactly; in a table with more, sketches decide


def exact_copies(texts: pd.Series) -> np.ndarray:
    """A number per text, (texts,), equal where they differ in nothing but white space and case."""
    return pd.factorize(texts.map(lambda text: "".join(text.casefold().split())))[0]


def near_copies(texts: pd.Series) -> np.ndarray:
    """Positions of near-copies that are no exact copies, (pairs, 2).

    Where there are very many, not all pairs, but enough to join each cluster of them.
    """
    long = (texts.str.len() >= SHORTEST).to_numpy()
    positions = np.flatnonzero(long & ~pd.Series(exact_copies(texts)).duplicated().to_numpy())
    if len(positions) < 2:
        return np.empty((0, 2), dtype=int)
    return positions[_near_rows(tfidf(texts.iloc[positions].tolist()))]


def join(n: int, pairs: np.ndarray) -> np.ndarray:
    """A number per row, (n,), equal where a chain of ``pairs`` of rows, (pairs, 2), joins them."""
    return connected_components(_graph(n, pairs), directed=False)[1]


def _graph(n: int, pairs: np.ndarray) -> csr_array:
    return coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(n, n)).tocsr()


def _near_rows(vectors: csr_array) -> np.ndarray:
    """Pairs of rows with a cosine above ``NEAR``: candidates by their sketches, then by the rows themselves.

    A count sketch (Charikar, Chen and Farach-Colton 2002) adds each column to one of a few, or subtracts it.
    """
    n, random = vectors.shape[0], np.random.default_rng(0)
    column, sign = random.integers(_WIDTH, size=vectors.shape[1]), random.choice([-1, 1], vectors.shape[1])
    data = vectors.data * sign[vectors.indices].astype(np.float32)
    sketches = csr_array((data, column[vectors.indices], vectors.indptr), shape=(n, _WIDTH)).toarray()
    sketches /= np.linalg.norm(sketches, axis=1, keepdims=True).clip(1e-9)
    found, clusters, compared = np.empty((0, 2), dtype=int), np.arange(n), 0
    for start in range(0, n, _BLOCK):
        cosines = sketches[start : start + _BLOCK] @ sketches[start:].T
        close = np.argwhere(np.triu(cosines > NEAR - _MARGIN, k=1))
        first, second = close.T + start
        compared += len(close)
        if compared <= _MOST_EXACT:
            near = vectors[first].multiply(vectors[second]).sum(axis=1) > NEAR
            pairs = np.stack([first, second], axis=1)[near]
        else:
            near = (cosines[tuple(close.T)] > NEAR) & (clusters[first] != clusters[second])
            forest = minimum_spanning_tree(_graph(n, np.stack([first, second], axis=1)[near]))
            pairs = np.stack(forest.nonzero(), axis=1)
        if len(pairs):
            found = np.concatenate([found, pairs])
            clusters = join(n, found)
    return found


def tfidf(texts: list[str]) -> csr_array:
    """TfidfVectorizer(analyzer="char_wb", ngram_range=(5, 5), sublinear_tf=True), three times as fast.

    Its columns are in another order, and a thousandth of them are two n-grams with the same hash.
    """
    counts = vstack([_count(texts[start : start + 1000]) for start in range(0, len(texts), 1000)], "csr")
    ngrams, columns = np.unique(counts.indices, return_inverse=True)
    rows, shape = counts.indptr.astype(np.int32), (len(texts), len(ngrams))
    counts = csr_array((counts.data, columns.astype(np.int32), rows), shape=shape)
    return csr_array(TfidfTransformer(sublinear_tf=True).fit_transform(counts))


def _count(texts: list[str]) -> csr_array:
    """How often each n-gram of 5 characters, by its hash, occurs in each text's words and their edges."""
    words = [[f" {word} ".ljust(_N, "\0") for word in text.lower().split()] for text in texts]
    text = np.repeat(np.arange(len(texts)), [sum(map(len, row)) for row in words])
    lengths = [len(word) for row in words for word in row]
    word = np.repeat(np.arange(len(lengths)), lengths)
    joined = "".join(map("".join, words)).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(joined, dtype="<u4")
    hashes = np.zeros(len(characters) - _N + 1, dtype=np.uint64)
    for offset in range(_N):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + characters[offset : offset + len(hashes)]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)  # as splitmix64 ends
    inside = word[: len(hashes)] == word[_N - 1 :]  # and not across two words
    where = (text[: len(hashes)][inside], (hashes[inside] >> np.uint64(34)).astype(np.int32))
    return coo_array((np.ones(len(where[0]), np.float32), where), shape=(len(texts), 2**30)).tocsr()
