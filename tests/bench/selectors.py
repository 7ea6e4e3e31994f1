"""Selectors, neighbours and k-means beside apricot-select, scikit-learn and plain loops, on the same rows. apricot lives in an environment of its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core import builtins
from core.data.clusters import spherical_kmeans, unit
from core.embed.tfidf import tfidf
from core.select.facility_location import facility_location
from core.select.k_center import k_center
from kernels.nearest import nearest_rows
from tests.bench import Figure
from tests.bench.peers_env import environment

ROWS, FEATURES, SHARE, NEIGHBOURS, CLUSTERS, REPEATS = 20_000, 384, 0.05, 100, 100, 3
PEER = "apricot-select==0.6.1"
ABOUT = (
    f"{ROWS:,} paragraphs of WikiText-2 train as {FEATURES} features (TF-IDF + SVD, seed 0, length 1; where there are fewer, the rest lie halfway "
    f"between two of them), {100 * SHARE:g} % kept. Medians of {REPEATS} repeats of ours and of scikit-learn's and numpy's; {PEER} once, with its default "
    "optimiser (lazy) on squared Euclidean distance, which on vectors of length 1 has the greedy order of 1 + cos over all pairs; ours looks at each row's "
    "nearest rows (its card says how many). apricot has no k-center: ours stands beside its facility location, its selector for covering a data set, and "
    "beside the plain loop that compares all rows with each new one. Value: mean over all rows of the largest cosine to a kept row."
)
_PEER = Path(__file__).with_name("peer_selection.py")


def paragraphs(count: int) -> np.ndarray:
    """Rows of real text as vectors, float32 (count, FEATURES), the first ones of more than 80 characters."""
    texts = [text for text in builtins.read_text("wikitext2/train") if len(text) > 80][:count]
    vectors = tfidf(texts, 0, dimensions=FEATURES)
    if len(vectors) < count:
        pairs = np.random.default_rng(0).integers(len(vectors), size=(2, count - len(vectors)))
        vectors = np.concatenate([vectors, vectors[pairs[0]] + vectors[pairs[1]]])
    return unit(vectors)


def theirs(points: np.ndarray, count: int) -> tuple[float, np.ndarray]:
    """apricot's seconds, and the rows that it keeps."""
    with tempfile.TemporaryDirectory() as path:
        vectors, out = Path(path) / "vectors.npy", Path(path) / "out.json"
        np.save(vectors, points)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(
            [environment(PEER, "scikit-learn"), "-P", _PEER, vectors, str(count), out], check=True, stdout=sys.stderr, env=clean
        )
        found = json.loads(out.read_text())
    return found["seconds"], np.array(found["ranking"])


def seconds(work: Callable[[], object]) -> float:
    work()  # compiled, warmed
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def plain_k_center(points: np.ndarray, start: int, count: int) -> np.ndarray:
    near, kept = 1 - points @ points[start], np.zeros(len(points), bool)
    kept[start] = True
    for _ in range(count - 1):
        near[kept] = -1
        row = int(near.argmax())
        kept[row] = True
        np.minimum(near, 1 - points @ points[row], out=near)
    return kept


def value(points: np.ndarray, rows: np.ndarray) -> float:
    parts = [float((points[start : start + 2048] @ points[rows].T).max(axis=1).sum()) for start in range(0, len(points), 2048)]
    return sum(parts) / len(points)


def beside(what: str, slow: float, fast: float, goal: float | None) -> Figure:
    said = f"{slow / fast:.1f} x ({slow:.2f} s, {fast:.2f} s ours)"
    return Figure(what, said, f">= {goal:g} x" if goal else "", slow / fast >= goal if goal else None)


def measure(rows: int = ROWS) -> list[Figure]:
    points, count = paragraphs(rows), round(rows * SHARE)
    apricot, ranking = theirs(points, count)
    chosen, centres = facility_location(points, count), k_center(points, count)
    chance = value(points, np.random.default_rng(0).permutation(rows)[:count])
    covered, full = value(points, np.flatnonzero(chosen)), value(points, ranking)
    medoid = int((points @ points.mean(axis=0)).argmax())
    same = int((centres & plain_k_center(points, medoid, count)).sum())
    k_center_s = seconds(lambda: k_center(points, count))
    figures = [
        beside("facility location, beside apricot's", apricot, seconds(lambda: facility_location(points, count)), 5),
        Figure(
            "facility location, value", f"{covered:.4f} ours, {full:.4f} apricot, {chance:.4f} by chance", "within 1 % of apricot's gain over chance",
            covered - chance >= 0.99 * (full - chance),
        ),
        beside("k-center, beside apricot's facility location", apricot, k_center_s, 5),
        beside("k-center, beside the plain loop", seconds(lambda: plain_k_center(points, medoid, count)), k_center_s, None),
        Figure("k-center, rows that the plain loop keeps too", f"{same} of {count}", f"{count}", same == count),
    ]  # fmt: skip
    return figures + _scikit_learn(points)


def _scikit_learn(points: np.ndarray) -> list[Figure]:
    """k-means and exact neighbours beside scikit-learn's."""
    from sklearn.cluster import KMeans
    from sklearn.neighbors import NearestNeighbors

    def plain_neighbours() -> np.ndarray:
        return NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine", algorithm="brute").fit(points).kneighbors(points)[1]

    plain, ours = KMeans(CLUSTERS, n_init=1, max_iter=100, random_state=0), spherical_kmeans(points, CLUSTERS, 0)
    labels = plain.fit(points).labels_
    found = [
        float(np.einsum("rf,rf->", points, _directions(points, which)[which])) / len(points)
        for which in (labels, ours.assignment)
    ]
    return [
        beside(f"k-means, {CLUSTERS} clusters, until nothing moves or 100 passes, beside scikit-learn's", seconds(lambda: plain.fit(points)),
               seconds(lambda: spherical_kmeans(points, CLUSTERS, 0)), None),
        Figure("k-means, mean cosine to the own centroid", f"{found[1]:.4f} ours, {found[0]:.4f} scikit-learn"),
        beside(f"{NEIGHBOURS} exact neighbours of every row, beside scikit-learn's", seconds(plain_neighbours),
               seconds(lambda: nearest_rows(points, NEIGHBOURS)), None),
    ]  # fmt: skip


def _directions(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return unit(np.stack([points[labels == label].sum(axis=0) for label in range(labels.max() + 1)]))
