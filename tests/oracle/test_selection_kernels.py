"""The kernels of selection and clustering against plain references: ties, bounds, one row."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from core.data.clusters import unit
from kernels import nearest
from kernels.coverage import cover_greedily, readers, vote
from kernels.farthest import farthest_first
from kernels.grouping import nearest_centroid, sums_by_group
from kernels.merging import merge_tree
from kernels.nearest import nearest_rows
from kernels.quotas import nearest_quotas, whole

pytestmark = pytest.mark.quick


def rows(count, features, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, features)))


def plain_farthest(points, start, count):
    """Compare every row with every chosen one, again each time."""
    chosen = [start]
    while len(chosen) < count:
        far = {r: min(1 - float(points[r] @ points[c]) for c in chosen) for r in range(len(points)) if r not in chosen}
        chosen.append(max(far, key=lambda r: (far[r], -r)))
    return chosen


@pytest.mark.parametrize(("count", "features", "keep"), [(1, 3, 1), (2, 1, 2), (40, 3, 40), (90, 17, 25)])
def test_farthest_first_equals_a_plain_double_loop(count, features, keep):
    points = rows(count, features)
    if features > 1:
        assert farthest_first(points, count // 2, keep).tolist() == plain_farthest(points, count // 2, keep)
    assert sorted(farthest_first(points, 0, count)) == list(range(count))


def test_farthest_first_by_hand():
    # directions at 0, 10, 90 and 180 degrees, start at 0: 180 is farthest (1 - cos = 2), then 90 (1), then 10
    angle = np.radians([0, 10, 90, 180])
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    assert farthest_first(points, 0, 4).tolist() == [0, 3, 2, 1]
    same = np.tile(np.float32([1, 0]), (5, 1))
    assert farthest_first(same, 2, 4).tolist() == [2, 0, 1, 3]  # all as far: the earlier row


@pytest.mark.parametrize("tile", [2048, 7])
def test_nearest_rows_equal_a_sort_of_all_cosines(tile, monkeypatch):
    monkeypatch.setattr(nearest, "_TILE", tile)
    points = rows(60, 5)
    index, cosine = nearest_rows(points, 9)
    every = points @ points.T
    np.fill_diagonal(every, -2)
    assert np.array_equal(index, np.argsort(-every, axis=1, kind="stable")[:, :9])
    assert np.allclose(cosine, np.take_along_axis(every, index.astype(int), axis=1), atol=1e-6)


def test_equal_cosines_keep_the_earlier_neighbours():
    index, _ = nearest_rows(np.tile(np.float32([1, 0]), (6, 1)), 3)
    assert index.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match="3 rows have no 3 nearest"):
        nearest_rows(rows(3, 2), 3)


def plain_cover(index, near, count):
    best, chosen = near.min(axis=1).astype(float), []
    for _ in range(count):
        gain = {}
        for row in set(range(len(index))) - set(chosen):
            gain[row] = sum(
                max(float(v) - best[i], 0) for i in range(len(index)) for u, v in zip(index[i], near[i], strict=True) if u == row
            )
        chosen.append(max(gain, key=lambda row: (round(gain[row], 9), -row)))
        for i, j in itertools.product(range(len(index)), range(index.shape[1])):
            if index[i, j] == chosen[-1]:
                best[i] = max(best[i], float(near[i, j]))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_lazy_cover_equals_plain_greedy(seed):
    index, cosine = nearest_rows(rows(40, 4, seed), 8)
    index = np.concatenate([np.arange(40, dtype=np.int32)[:, None], index], axis=1)
    near = np.round(np.concatenate([np.ones((40, 1), np.float32), cosine], axis=1) * 64) / 64  # sums are exact, and ties common
    assert cover_greedily(index, near, 40).tolist() == plain_cover(index, near, 40)


def plain_vote(index, count):
    chosen = []
    for _ in range(count):
        score = {}
        for row in set(range(len(index))) - set(chosen):
            voters = [v for v in range(len(index)) if row in index[v] and v not in chosen]
            score[row] = sum(10.0 ** -len(set(index[v].tolist()) & set(chosen)) for v in voters)
        chosen.append(max(score, key=lambda row: (round(score[row], 9), -row)))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_votes_equal_a_count_from_scratch(seed):
    index, _ = nearest_rows(rows(30, 4, seed), 6)
    assert vote(index, 15).tolist() == plain_vote(index, 15)


def test_who_has_a_row_among_its_nearest():
    starts, places = readers(np.array([[1, 2], [0, 2], [0, 1]], np.int32))
    assert starts.tolist() == [0, 2, 4, 6] and (places // 2).tolist() == [1, 2, 0, 2, 0, 1]


def test_quotas_by_hand():
    # wanted 6, 3, 1 of at most 4, 10, 10 and 10 in all: the first is held at 4, and the 2 that it leaves go evenly to the others: 4, 4, 2
    assert nearest_quotas(np.array([6, 3, 1]), np.zeros(3), np.array([4, 10, 10]), 10).tolist() == [4, 4, 2]
    # a wish of 9.9 and three of 0.03 with at least 1 each: 7, 1, 1, 1
    assert nearest_quotas(np.array([9.9, 0.03, 0.03, 0.03]), np.ones(4), np.full(4, 20), 10).tolist() == [7, 1, 1, 1]
    assert whole(np.array([1.5, 1.5, 1.0]), np.full(3, 9), 4).tolist() == [2, 1, 1]  # equal remainders: the earlier
    with pytest.raises(ValueError, match="add up to 9"):
        nearest_quotas(np.ones(2), np.zeros(2), np.array([4, 4]), 9)


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 2), st.integers(2, 6)), min_size=1, max_size=4), st.data())
def test_no_whole_quotas_are_nearer_than_ours_by_more_than_rounding(groups, data):
    wanted, low, high = (np.array(column) for column in zip(*groups, strict=True))
    total = data.draw(st.integers(int(low.sum()), int(high.sum())))
    found = nearest_quotas(wanted, low, high, total)
    assert found.sum() == total and (found >= low).all() and (found <= high).all()
    every = itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))
    best = min(sum((x - w) ** 2 for x, w in zip(one, wanted, strict=True)) for one in every if sum(one) == total)
    assert ((found - wanted) ** 2).sum() <= best + len(groups)  # each whole number is within one of its share


def test_the_nearest_centroid_and_the_sums_of_groups_equal_plain_ones():
    points, centroids = rows(50, 4), np.concatenate([rows(6, 4, 1), rows(6, 4, 1)])  # each centroid twice: the earlier counts
    index, value = nearest_centroid(points, centroids)
    assert np.array_equal(index, (points @ centroids[:6].T).argmax(axis=1)) and np.allclose(
        value, (points @ centroids.T).max(axis=1)
    )
    sums = sums_by_group(points, index, 12)
    assert all(np.allclose(sums[g], points[index == g].sum(axis=0), atol=1e-5) for g in range(12))


@pytest.mark.parametrize("ward", [True, False])
def test_merges_equal_scipys(ward):
    points = rows(70, 4).astype(np.float64)
    ours = merge_tree(points, np.ones(70, int), ward)
    theirs = linkage(points, "ward") if ward else linkage(pdist(points, "cosine"), "average")
    assert np.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("ward", [True, False])
def test_a_point_that_stands_for_many_rows_merges_as_they_would(ward):
    copies = np.array([3, 1, 2, 5, 1, 4, 1])
    points = rows(7, 3).astype(np.float64)
    ours = merge_tree(points, copies, ward)
    every = merge_tree(np.repeat(points, copies, axis=0), np.ones(copies.sum(), int), ward)
    assert np.allclose(ours[:, 2:], every[-6:, 2:], atol=1e-6)  # the copies merge first, at height 0
    if ward:
        plain = fcluster(linkage(np.repeat(points, copies, axis=0), "ward"), 3, "maxclust")
        assert len(set(plain)) == 3 and len(merge_tree(points[:1], copies[:1], ward)) == 0
