"""Clusterings by method: what the recipe may say, HDBSCAN's noise, trees cut anywhere, and names of clusters."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from core import recipe
from core.data.clusters import cluster, distinctive_words, medoids, merging, spherical_kmeans, unit, visible
from core.data.clusters import density as density_module
from core.data.clusters.groups import Clusters
from core.errors import DataError, RecipeError, Stopped
from core.events import Silent

pytestmark = pytest.mark.quick
RNG = np.random.default_rng


def asked(**says):
    return recipe.Clusters.model_validate(says)


def blobs(rows=90, groups=3, features=6, noise=0.05, seed=0):
    group = np.arange(rows) % groups
    return (np.eye(features)[group] + RNG(seed).normal(scale=noise, size=(rows, features))).astype(np.float32), group


def same_groups(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize(
    "says",
    [{}, {"count": 3}, {"method": "agglomerative", "count": 3}, {"method": "agglomerative", "linkage": "average", "count": 3}],
)
def test_every_method_repeats_itself_and_numbers_clusters_by_size(says):
    vectors, group = blobs()
    first, again = (cluster(vectors, asked(**says), 0) for _ in range(2))
    assert np.array_equal(first.assignment, again.assignment) and np.array_equal(first.centroids, again.centroids)
    assert (
        np.array_equal(np.bincount(first.assignment), first.sizes)
        and (np.diff(first.sizes) <= 0).all()
        and first.unclustered is None
    )
    assert np.allclose(np.linalg.norm(first.centroids, axis=1), 1, atol=1e-6)
    if "count" in says:
        assert same_groups(first.assignment, group)


def test_hdbscan_finds_the_groups_and_calls_the_rest_unclustered():
    vectors, group = blobs(noise=0.02)
    vectors = np.concatenate([vectors, -np.eye(6)])  # six rows at right angles to all others, too few for a cluster
    found = cluster(vectors, asked(method="hdbscan", min_size=10), 0)
    assert len(found) == 4 and found.unclustered == 3 and found.sizes[:3].sum() >= 86 and found.sizes.sum() == 96
    inside = found.assignment[:90] < 3
    assert inside.mean() > 0.95 and same_groups(found.assignment[:90][inside], group[inside])
    assert (found.assignment[90:] == 3).all()
    assert cluster(blobs(noise=0.02)[0], asked(method="hdbscan", min_size=10), 0).sizes.sum() == 90


def test_hdbscan_of_many_rows_clusters_a_sample_and_places_the_others(monkeypatch):
    monkeypatch.setattr(density_module, "_MOST_ROWS", 60)
    vectors, group = blobs(rows=300, features=70, noise=0.005)  # more than 50 features: their main directions
    found = cluster(vectors, asked(method="hdbscan", min_size=30), 0)
    held = found.assignment != found.unclustered
    assert len(found.assignment) == 300 and held.mean() > 0.8 and same_groups(found.assignment[held], group[held])


def test_a_tree_cut_anywhere_equals_scipys_and_only_splits():
    points = unit(RNG(1).normal(size=(80, 4)))
    found = cluster(points, asked(method="agglomerative", count=5), 0)
    tree = linkage(points.astype(np.float64), "ward")
    before = None
    for count in (1, 2, 5, 17, 80):
        assignment, nodes = visible(found.tree, count)
        assert len(nodes) == count == len(set(nodes.tolist())) and same_groups(assignment, fcluster(tree, count, "maxclust"))
        sizes = np.bincount(assignment)
        assert (np.diff(sizes) <= 0).all()
        leaves = len(found.tree.merges) + 1
        assert all(sizes[at] == (1 if node < leaves else found.tree.merges[node - leaves, 3]) for at, node in enumerate(nodes))
        if before is not None:  # every cluster lies inside one of the coarser cut
            assert len(set(zip(assignment.tolist(), before.tolist(), strict=True))) == count
        before = assignment
    assert np.array_equal(visible(found.tree, 5)[0], found.assignment)


def test_many_rows_merge_by_micro_clusters_that_keep_their_weight(monkeypatch):
    monkeypatch.setattr(merging, "MOST_LEAVES", 100)
    monkeypatch.setattr(merging, "MOST_ROWS", 100)
    monkeypatch.setattr(merging, "_MICRO", 20)
    vectors, group = blobs(rows=300)
    found = cluster(vectors, asked(method="agglomerative", count=3), 0)
    assert same_groups(found.assignment, group) and len(found.tree.merges) == 19 and found.tree.merges[-1, 3] == 300
    assert len(visible(found.tree, 999)[1]) == 20  # no more than there are leaves


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_more_clusters_than_rows_is_refused_by_every_method_that_counts(method):
    with pytest.raises(DataError, match="4 clusters were asked of 3 rows"):
        cluster(np.eye(3), asked(method=method, count=4), 0)


def test_a_cluster_larger_than_the_data_is_refused():
    with pytest.raises(DataError, match="3 rows cannot hold a cluster of 5"):
        cluster(np.eye(3), asked(method="hdbscan"), 0)


@pytest.mark.parametrize("method", ["kmeans", "agglomerative", "hdbscan"])
def test_vectors_that_are_not_finite_are_refused_by_every_method(method):
    vectors = np.ones((9, 3))
    vectors[[2, 7]] = np.nan
    with pytest.raises(DataError, match=r"2 rows have no finite vector \(the first, counted from 0: 2, 7\)"):
        cluster(vectors, asked(method=method), 0)


@pytest.mark.parametrize("method", ["kmeans", "agglomerative", "hdbscan"])
def test_equal_zero_and_doubled_rows_and_constant_columns_still_make_clusters(method):
    distinct = RNG(0).normal(size=(6, 3))
    constant = np.concatenate([distinct, np.ones((6, 2))], axis=1)
    for vectors in (np.ones((12, 3)), np.zeros((12, 3)), np.repeat(distinct, 2, axis=0), np.tile(constant, (2, 1))):
        found = cluster(vectors.astype(np.float32), asked(method=method), 0)
        assert found.sizes.sum() == 12 == len(found.assignment) and (found.sizes > 0).all() and np.isfinite(found.centroids).all()
        assert np.array_equal(np.bincount(found.assignment), found.sizes)


def test_the_recipe_refuses_what_a_method_does_not_take():
    base = {"recipe": 1, "name": "c", "data": {"source": "builtin:digits"}, "projection": {}}
    for says, said in (
        ({"method": "hdbscan", "count": 4}, "takes no count"),
        ({"min_size": 4}, "min_size is for hdbscan"),
        ({"linkage": "average"}, "linkage is for agglomerative"),
        ({"method": "dbscan"}, "method"),
        ({"size": 4}, "size"),
        ({"method": "hdbscan", "min_size": 1}, "min_size"),
    ):
        with pytest.raises(RecipeError, match=said):
            recipe.parse({**base, "clusters": says})
    kept = recipe.parse({**base, "clusters": {"method": "hdbscan", "min_size": 9}})
    assert recipe.from_yaml(recipe.to_yaml(kept)) == kept


def test_distinctive_words_by_hand():
    # cluster 0: cat x 3, red x 1; cluster 1: dog x 2, red x 2. Mean words a cluster: 4. Weights: cat 3/4 log(1 + 4/3) = 0.64,
    # red in 0 1/4 log(1 + 4/3) = 0.21, dog 2/4 log(1 + 4/2) = 0.55, red in 1 2/4 log(1 + 4/3) = 0.42
    texts = ["cat cat", "red cat", "dog red", "the dog red"]
    clusters = Clusters(np.int32([0, 0, 1, 1]), np.eye(2, dtype=np.float32), np.array([2, 2]))
    assert distinctive_words(texts, clusters) == (("cat", "red"), ("dog", "red"))
    assert distinctive_words(texts, clusters, 1) == (("cat",), ("dog",))
    noisy = Clusters(clusters.assignment, clusters.centroids, clusters.sizes, unclustered=1)
    assert distinctive_words(texts, noisy)[1] == ("unclustered",)
    assert distinctive_words(["", "", "", ""], noisy) == ((), ("unclustered",))


def test_the_medoid_is_the_row_nearest_to_the_centroid():
    vectors, _ = blobs()
    found = spherical_kmeans(vectors, 3, 0)
    cosine = unit(vectors) @ found.centroids.T
    for number, row in enumerate(medoids(vectors, found)):
        assert found.assignment[row] == number and cosine[row, number] == cosine[found.assignment == number, number].max()


def test_a_stop_is_obeyed_between_two_passes():
    for method in ("kmeans", "agglomerative", "hdbscan"):
        with pytest.raises(Stopped):
            cluster(blobs()[0], asked(method=method), 0, Silent(stop=True))


def test_more_rows_than_a_matrix_takes_merge_one_by_one_by_wards_linkage(monkeypatch):
    monkeypatch.setattr(merging, "MOST_LEAVES", 100)
    vectors, group = blobs(rows=300)
    found = cluster(vectors, asked(method="agglomerative", count=3), 0)
    assert same_groups(found.assignment, group) and len(found.tree.merges) == 299
    assert same_groups(visible(found.tree, 40)[0], fcluster(linkage(unit(vectors).astype(np.float64), "ward"), 40, "maxclust"))
