"""Texts by the words they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np

from core.errors import DataError
from core.events import Watcher
from core.method import Paper, Param, embedding

_MOST_WORDS = 50_000
_MOST_FITTED = 50_000
_CHUNK_ROWS = 8192


@embedding(
    "tfidf",
    label="TF-IDF + SVD",
    of=("text",),
    paper=Paper("Deerwester, Dumais, Furnas, Landauer, Harshman", 1990, "Indexing by latent semantic analysis"),
    place="counts",
    fits=True,
)
def tfidf(
    texts: Sequence[str], seed: int, watcher: Watcher, *, dimensions: Annotated[int, Param("Dimensions", 2, 1024)] = 128
) -> Iterator[np.ndarray]:
    """Describe each text by its words, rare ones weighing more, squeezed to the main directions: fast, needs no model.

    texts (rows). Words of two letters or more, lower case; weight (1 + log count) x inverse document frequency, at most 50,000 words; then
    truncated SVD, and length 1. Gives float32 (rows, dimensions), fewer where there are fewer rows or words.

    When it lies: "car" and "automobile" have nothing in common. Short texts are often near only because of one shared rare word. A text
    without a known word becomes zeros.

    Ours: of more than 50,000 texts the words are counted in all, but the directions are those of 50,000 drawn by chance; the others are laid
    along them. A stopped one begins again.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        counting = TfidfVectorizer(sublinear_tf=True, max_features=_MOST_WORDS, dtype=np.float32)
        weights = counting.fit_transform(_heard(texts, watcher))
    except ValueError:  # an empty vocabulary
        raise DataError(
            "No text has a word of two letters or more.", "Choose the column that holds the text with `text:`."
        ) from None
    most = min(weights.shape) - 1
    if most < 2:
        yield _unit(weights.toarray())
        return
    squeezed = TruncatedSVD(min(dimensions, most), random_state=seed % 2**32)
    if len(texts) <= _MOST_FITTED:
        yield _unit(squeezed.fit_transform(weights))
        return
    drawn = np.sort(np.random.default_rng(seed).permutation(len(texts))[:_MOST_FITTED])
    squeezed.fit(weights[drawn])
    for at in range(0, len(texts), _CHUNK_ROWS):
        yield _unit(squeezed.transform(weights[at : at + _CHUNK_ROWS]))


def _heard(texts: Sequence[str], watcher: Watcher) -> Iterator[str]:
    """The texts, with an ear for a stop between them."""
    for at, text in enumerate(texts):
        if at % 1000 == 0:
            watcher.check()
        yield text


def _unit(vectors: Any) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-9).astype(np.float32)
