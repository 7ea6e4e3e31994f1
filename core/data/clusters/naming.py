"""What a cluster is about: words that set its texts apart, or the row in its middle."""

from __future__ import annotations

import numpy as np

from core.data.clusters.groups import Clusters, unit

UNCLUSTERED = "unclustered"


def distinctive_words(texts: list[str], clusters: Clusters, count: int = 3) -> tuple[tuple[str, ...], ...]:
    """The `count` words that set each cluster apart (class-based TF-IDF, Grootendorst 2022, 2203.05794), best first; fewer where it has fewer.

    A word's weight in a cluster: its share of the cluster's words x log(1 + mean words of a cluster / its count in all). Words of two letters or
    more, lower case, English stop words left out, at most 50,000. Equal weights in alphabetical order. The unclustered rows are called that.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        reader = CountVectorizer(stop_words="english", max_features=50_000)
        words = reader.fit_transform(texts)
    except ValueError:  # no words at all
        return tuple((UNCLUSTERED,) if number == clusters.unclustered else () for number in range(len(clusters)))
    rows = np.arange(len(texts))
    member = csr_matrix((np.ones(len(texts)), (clusters.assignment, rows)), shape=(len(clusters), len(texts)))
    counts = (member @ words).tocsr().astype(np.float64)
    total, each = np.asarray(counts.sum(axis=0))[0], np.asarray(counts.sum(axis=1))[:, 0]
    rarity, names = np.log1p(each.mean() / np.maximum(total, 1)), reader.get_feature_names_out()
    found = []
    for number in range(len(clusters)):
        line = counts[number]
        weight = line.data / max(each[number], 1) * rarity[line.indices]
        best = np.lexsort((line.indices, -weight))[:count]
        found.append((UNCLUSTERED,) if number == clusters.unclustered else tuple(str(names[line.indices[at]]) for at in best))
    return tuple(found)


def medoids(vectors: np.ndarray, clusters: Clusters) -> np.ndarray:
    """The row nearest to each cluster's centroid by cosine, int64 (clusters,); of equal ones the earlier."""
    cosine = np.einsum("rf,rf->r", unit(vectors), clusters.centroids[clusters.assignment])
    order = np.lexsort((np.arange(len(cosine)), -cosine, clusters.assignment))
    return order[np.cumsum(clusters.sizes) - clusters.sizes]
