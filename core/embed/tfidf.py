"""Texts by the words they share."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.errors import DataError
from core.method import Paper, Param, embedding

_MOST_WORDS = 50_000


@embedding(
    "tfidf",
    label="TF-IDF + SVD",
    of=("text",),
    paper=Paper("Deerwester, Dumais, Furnas, Landauer, Harshman", 1990, "Indexing by latent semantic analysis"),
    place="counts",
    fits=True,
)
def tfidf(texts: list[str], seed: int, *, dimensions: Annotated[int, Param("Dimensions", 2, 1024)] = 128) -> np.ndarray:
    """Describe each text by its words, rare ones weighing more, squeezed to the main directions: fast, needs no model.

    texts (rows). Words of two letters or more, lower case; weight (1 + log count) x inverse document frequency, at most 50,000 words; then
    truncated SVD, and length 1. Returns float32 (rows, dimensions), fewer where there are fewer rows or words.

    When it lies: "car" and "automobile" have nothing in common. Short texts are often near only because of one shared rare word. A text
    without a known word becomes zeros.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        weights = TfidfVectorizer(sublinear_tf=True, max_features=_MOST_WORDS, dtype=np.float32).fit_transform(texts)
    except ValueError:  # an empty vocabulary
        raise DataError(
            "No text has a word of two letters or more.", "Choose the column that holds the text with `text:`."
        ) from None
    most = min(weights.shape) - 1
    if most < 2:
        vectors = weights.toarray()
    else:
        vectors = TruncatedSVD(min(dimensions, most), random_state=seed % 2**32).fit_transform(weights)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-9).astype(np.float32)
