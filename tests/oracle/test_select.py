"""The data methods against plain references and values worked by hand."""

import numpy as np
import pytest

from core.data.clusters import Clusters, default_count, spherical_kmeans, unit
from core.data.images import stratified
from core.data.neighbours import exact_neighbours
from core.data.projection import pca, trust
from core.errors import DataError
from core.select.prototypes import prototypes
from core.select.random import random_rows
from core.select.top import top

pytestmark = pytest.mark.quick
RNG = np.random.default_rng


def blobs(rows=120, features=5, groups=4, seed=0):
    """Rows around `groups` well separated directions, and which group each is of."""
    random = RNG(seed)
    centres = np.linalg.qr(random.normal(size=(features, features)))[0][:groups]
    group = np.arange(rows) % groups
    return (centres[group] * random.uniform(1, 9, (rows, 1)) + random.normal(scale=0.02, size=(rows, features))).astype(
        np.float32
    ), group


def test_prototype_scores_are_one_minus_the_cosine_to_the_own_centroid():
    # rows (3, 4), (0, 2), (0, 0) and centroid (1, 0), (0, 1): cosines 3/5 to the first, 1 to the second, and none for the zero row
    vectors = np.array([[3, 4], [0, 2], [0, 0]], dtype=np.float32)
    clusters, centroids = np.array([0, 1, 0]), np.eye(2, dtype=np.float32)
    assert np.allclose(prototypes(vectors, clusters, centroids), [0.4, 0.0, 1.0], atol=1e-7)
    assert np.allclose(prototypes(vectors, clusters, centroids, prefer="easy"), [-0.4, 0.0, -1.0], atol=1e-7)


def test_equal_scores_keep_the_earlier_row():
    assert top(np.array([1.0, 2.0, 2.0, 2.0]), 2, None).tolist() == [False, True, True, False]


@pytest.mark.parametrize("count", [1, 7, 20])
def test_top_keeps_exactly_count_rows_and_no_dropped_row_scores_higher(count):
    scores = RNG(1).integers(0, 5, 20).astype(np.float32)
    kept = top(scores, count, None)
    assert kept.sum() == count and (count == 20 or scores[kept].min() >= scores[~kept].max())


def test_class_balance_gives_each_class_its_part_before_the_scores_decide():
    # 8 rows of class 0 score higher than 2 rows of class 1. Keep 5. Balance 1: class 1 gets int(5 * 2 / 10) = 1, class 0 gets 4.
    labels, scores = np.array([0] * 8 + [1] * 2), np.arange(10, 0, -1).astype(float)
    assert np.flatnonzero(top(scores, 5, labels)).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(top(scores, 5, labels, class_balance=1.0)).tolist() == [0, 1, 2, 3, 8]
    assert np.flatnonzero(top(scores, 5, labels, class_balance=0.5)).tolist() == [0, 1, 2, 3, 4]  # int(0.5) rows of class 1: none


def test_class_balance_without_labels_is_refused():
    with pytest.raises(DataError, match="class_balance needs labels"):
        top(np.ones(3), 1, None, class_balance=0.5)


def test_random_keeps_exactly_count_rows_and_the_seed_decides_which():
    first, again, other = (random_rows(50, 17, RNG(seed)) for seed in (3, 3, 4))
    assert first.sum() == 17 and np.array_equal(first, again) and not np.array_equal(first, other)


def test_spherical_kmeans_finds_separated_directions_whatever_the_lengths():
    vectors, group = blobs()
    found = spherical_kmeans(vectors, 4, seed=0)
    pairs = {(int(a), int(b)) for a, b in zip(found.assignment, group, strict=True)}
    assert len(pairs) == 4 and found.sizes.tolist() == [30, 30, 30, 30]
    assert np.allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)


def test_spherical_kmeans_ends_where_a_plain_loop_would_stay():
    vectors, _ = blobs(200, 6, 3, seed=5)
    vectors += RNG(6).normal(scale=0.4, size=vectors.shape).astype(np.float32)
    found = spherical_kmeans(vectors, 7, seed=1)
    for row, point in enumerate(unit(vectors)):
        assert found.assignment[row] == max(range(7), key=lambda k: float(point @ found.centroids[k]))
    for k in range(7):
        mean = unit(vectors)[found.assignment == k].mean(axis=0)
        assert np.allclose(found.centroids[k], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_seed_decides_the_clusters_and_nothing_else_does():
    vectors = RNG(0).normal(size=(300, 8)).astype(np.float32)
    first, again, other = (spherical_kmeans(vectors, 10, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.assignment, again.assignment) and np.array_equal(first.centroids, again.centroids)
    assert not np.array_equal(first.assignment, other.assignment)


def test_no_cluster_is_empty_even_where_rows_are_equal_or_zero():
    for vectors in (np.ones((9, 3)), np.zeros((9, 3)), np.repeat(np.eye(3), 3, axis=0)):
        found = spherical_kmeans(vectors.astype(np.float32), 5, seed=0)
        assert (found.sizes > 0).all() and found.sizes.sum() == 9
        assert np.array_equal(np.bincount(found.assignment, minlength=5), found.sizes)


def test_more_clusters_than_rows_is_refused_and_the_default_never_asks_for_it():
    with pytest.raises(DataError, match="4 clusters were asked of 3 rows"):
        spherical_kmeans(np.eye(3), 4, 0)
    assert [default_count(rows) for rows in (1, 2, 3, 200, 1797, 10**6)] == [1, 2, 2, 10, 30, 100]
    assert isinstance(spherical_kmeans(np.eye(3), None, 0), Clusters)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (30, 2), (5, 1), (1, 4)])
def test_pca_equals_the_singular_value_decomposition_with_signs_fixed(shape):
    vectors = RNG(2).normal(size=shape).astype(np.float32) * np.linspace(1, 3, shape[1], dtype=np.float32)
    places = pca(vectors)
    left, values, axes = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64), full_matrices=False)
    assert places.shape == (shape[0], 2) and places.dtype == np.float32
    for at in range(min(2, *shape)):
        sign = np.sign(axes[at][np.abs(axes[at]).argmax()])
        assert np.allclose(places[:, at], left[:, at] * values[at] * sign, atol=2e-3)


def test_exact_neighbours_equal_a_sort_of_all_cosines():
    vectors = RNG(3).normal(size=(60, 7)).astype(np.float32)
    index, distance = exact_neighbours(vectors, 5)
    cosine = unit(vectors) @ unit(vectors).T
    np.fill_diagonal(cosine, -2)
    assert np.array_equal(index, np.argsort(-cosine, axis=1)[:, :5])
    assert np.allclose(distance, 1 - np.take_along_axis(cosine, index.astype(int), axis=1), atol=1e-5)
    assert np.array_equal(exact_neighbours(vectors, 5, with_self=True)[0][:, 0], np.arange(60))


def test_a_map_that_keeps_neighbours_is_trusted_and_a_shuffled_one_is_not():
    angle = np.sort(RNG(4).uniform(0, 6.2, 400))
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    assert trust(circle, circle).min() > 0.9
    assert trust(circle, RNG(5).permutation(circle)).mean() < 0.2


def test_stratified_rows_are_exact_in_number_and_in_proportion():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    rows = stratified(labels, 10, seed=0)
    assert np.bincount(labels[rows]).tolist() == [6, 3, 1] and len(set(rows)) == 10
    assert len(stratified(labels, 7, seed=0)) == 7 and not np.array_equal(rows, stratified(labels, 10, seed=1))
