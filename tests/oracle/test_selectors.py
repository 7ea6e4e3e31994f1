"""Each selector against a plain reference or values worked by hand, and all of them on data that is nearly nothing."""

import warnings

import numpy as np
import pytest

from core import catalogue
from core.data.clusters import spherical_kmeans, unit
from core.data.damaged import Damaged
from core.data.shares import read_shares
from core.errors import DataError, RecipeError
from core.method import METHODS, load_methods
from core.select.ccs import ccs
from core.select.cluster_quotas import cluster_quotas
from core.select.density_quotas import density_quotas
from core.select.facility_location import facility_location
from core.select.herding import herding
from core.select.k_center import k_center
from core.select.kmq import kmq
from core.select.several_scores import several_scores
from core.select.top import top
from core.select.typiclust import typiclust
from core.select.vote_k import vote_k

pytestmark = pytest.mark.quick
RNG = np.random.default_rng
SELECTORS = sorted(name for kind, name in load_methods() if kind == "selector")


def have(vectors, clusters, count, scores=None, seed=1):
    """What the engine hands a selector."""
    found = spherical_kmeans(vectors, clusters, 0)
    return {"rows": len(vectors), "count": count, "vectors": vectors, "clusters": found.assignment, "centroids": found.centroids,
            "labels": np.arange(len(vectors)) % 2, "scores": RNG(0).random(len(vectors)) if scores is None else scores,
            "generator": RNG(seed)}  # fmt: skip


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_repeats_itself_and_stays_exact_where_rows_are_equal_zero_or_constant(name):
    method = METHODS["selector", name]
    params = catalogue.fill(method.card, {})
    distinct = RNG(3).normal(size=(6, 4)).astype(np.float32)
    constant = np.concatenate([distinct, np.full((6, 3), 7.0, np.float32)], axis=1)
    for vectors in (np.ones((12, 3)), np.zeros((12, 3)), np.repeat(distinct, 2, axis=0), np.tile(constant, (2, 1)), distinct[:1]):
        for count in {1, len(vectors) // 2 or 1, len(vectors)}:
            scores = np.zeros(len(vectors))  # all equal
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                flat = np.zeros(len(vectors))
                damaged = {"damaged": Damaged(np.arange(len(vectors)), flat, flat, flat + 1)}  # nothing was, anywhere
                first, again = (
                    method(have(vectors.astype(np.float32), min(4, len(vectors)), count, scores) | damaged, params)
                    for _ in range(2)
                )
            assert first.dtype == bool and first.sum() == count and np.array_equal(first, again)


@pytest.mark.parametrize("name", ["k_center", "facility_location", "herding", "density_quotas", "typiclust", "vote_k"])
def test_rows_without_a_finite_vector_are_named(name):
    given = have(RNG(0).normal(size=(12, 3)).astype(np.float32), 4, 5)
    given["vectors"] = given["vectors"].copy()
    given["vectors"][[4, 9], 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 rows have no finite vector \(the first, counted from 0: 4, 9\)"):
        METHODS["selector", name](given)


def test_bands_by_hand():
    scores = np.array([5.0, 1, 3, 4, 2])
    assert np.flatnonzero(top(scores, 2, None, band="highest")).tolist() == [0, 3]
    assert np.flatnonzero(top(scores, 2, None, band="lowest")).tolist() == [1, 4]
    assert np.flatnonzero(top(scores, 3, None, band="middle")).tolist() == [2, 3, 4]  # 4, 3 and 2; 5 above and 1 below are left
    assert np.flatnonzero(top(scores, 1, None, band="middle")).tolist() == [2]
    # two classes of three: the middle of each is 2 and 20
    assert np.flatnonzero(
        top(np.array([1, 2, 3, 10, 20, 30.0]), 2, np.array([0, 0, 0, 1, 1, 1]), band="middle", class_balance=1.0)
    ).tolist() == [1, 4]


@pytest.mark.parametrize(("rows", "count"), [(10, 4), (11, 4), (10, 3), (11, 3), (7, 7)])
def test_the_middle_band_is_a_run_of_ranks_around_the_median(rows, count):
    ranks = np.flatnonzero(top(np.arange(rows, 0, -1.0), count, None, band="middle"))
    assert np.array_equal(ranks, np.arange(ranks[0], ranks[0] + count))
    assert 0 <= ranks[0] - (rows - 1 - ranks[-1]) <= 1  # as many above as below, or one more


def test_coverage_centric_budgets_by_hand():
    # 20 rows, keep 6, beta 0.1: the 2 hardest (50, 60) go. Left: 0 x 10, 1 x 5, 10 x 3 in 10 bins of width 1: bins of 10, 5 and 3 rows.
    # Smallest first: 6 // 3 = 2 of the 3, then 4 // 2 = 2 of the 5, then 2 of the 10.
    scores = np.array([0.0] * 10 + [1.0] * 5 + [10.0] * 3 + [50.0, 60.0])
    kept = ccs(scores, 6, RNG(0), beta=0.1, bins=10)
    assert [int(kept[a:b].sum()) for a, b in ((0, 10), (10, 15), (15, 18), (18, 20))] == [2, 2, 2, 0]
    # keep 14: 3 of 3 (14 // 3 = 4), 5 of 5 (11 // 2 = 5), 6 of 10
    kept = ccs(scores, 14, RNG(0), beta=0.1, bins=10)
    assert [int(kept[a:b].sum()) for a, b in ((0, 10), (10, 15), (15, 18), (18, 20))] == [6, 5, 3, 0]
    assert not np.array_equal(ccs(scores, 6, RNG(0)), ccs(scores, 6, RNG(5)))


@pytest.mark.parametrize(("count", "dropped"), [(10, 30), (20, 20), (40, 0), (90, 0), (5, 30)])
def test_the_hardest_share_dropped_follows_the_share_kept(count, dropped):
    scores = np.arange(100.0)
    kept = ccs(scores, count, RNG(0), bins=1)
    assert kept.sum() == count and not kept[100 - dropped :].any()
    many = np.any([ccs(scores, count, RNG(seed), bins=1) for seed in range(60)], axis=0)
    assert many[99 - dropped]  # and no more than that
    assert not ccs(scores, count, RNG(0), bins=1, hardest="lowest")[:dropped].any()


def test_selectors_by_score_need_one():
    nothing = np.full(5, np.nan)
    with pytest.raises(DataError, match="needs a score for every row"):
        top(nothing, 2, None)
    with pytest.raises(DataError, match="needs a score for every row"):
        ccs(nothing, 2, RNG(0))
    with pytest.raises(DataError, match="needs a score for every row"):
        kmq(nothing, np.zeros(5, int), 2, RNG(0))


def test_k_center_starts_at_the_medoid_and_takes_the_far_rows():
    # 20 rows about the first axis, and one on each of two others: the medoid, then the two far ones, in one order or the other
    vectors = np.concatenate([np.eye(3)[[0] * 20] + RNG(0).normal(scale=0.01, size=(20, 3)), np.eye(3)[1:]])
    kept = k_center(vectors.astype(np.float32), 3)
    assert kept[20] and kept[21] and kept[:20].sum() == 1


def test_facility_location_with_all_neighbours_covers_as_well_as_plain_greedy():
    points = unit(RNG(2).normal(size=(50, 4)))
    like = (1 + points @ points.T).astype(np.float64) / 2
    best, chosen = like.min(axis=1), []
    for _ in range(8):
        gain = np.maximum(like - best[:, None], 0).sum(axis=0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = np.maximum(best, like[:, chosen[-1]])
    assert sorted(chosen) == np.flatnonzero(facility_location(points, 8, neighbours=49)).tolist()


def test_facility_location_with_few_neighbours_keeps_one_row_of_each_tight_group():
    group = np.arange(60) % 6
    vectors = np.eye(6)[group] + RNG(0).normal(scale=0.01, size=(60, 6))
    kept = facility_location(vectors.astype(np.float32), 6, neighbours=9)
    assert sorted(group[kept]) == list(range(6))


def test_herding_takes_the_row_that_keeps_the_mean():
    points = unit(RNG(1).normal(size=(40, 3)))
    mean, kept = points.mean(axis=0), []
    for step in range(1, 11):
        off = {r: np.linalg.norm(mean - (points[kept].sum(axis=0) + points[r]) / step) for r in range(40) if r not in kept}
        kept.append(min(off, key=off.get))
    assert np.flatnonzero(herding(points, 10)).tolist() == sorted(kept)
    # by hand: rows east, north, west, west; the mean is (-1, 1) / 4, so the first is a west (row 2), then north, then ...
    compass = np.float32([[1, 0], [0, 1], [-1, 0], [-1, 0]])
    assert np.flatnonzero(herding(compass, 2)).tolist() in ([1, 2], [1, 3])


def test_wide_and_far_clusters_get_more_by_density_quotas():
    # cluster 0: 30 rows all alike (d_intra 0); cluster 1: 30 rows spread over half a plane; both centroids are each other's only neighbour
    angle = np.linspace(-1.2, 1.2, 30)
    wide = np.stack([np.zeros(30), np.sin(angle), np.cos(angle)], axis=1)
    vectors = np.concatenate([np.tile([1.0, 0, 0], (30, 1)), wide]).astype(np.float32)
    clusters, centroids = np.repeat([0, 1], 30), np.float32([[1, 0, 0], [0, 0, 1]])
    intra = float((1 - np.cos(angle)).mean())  # d_inter is 1 for both
    p = 1 / (1 + np.exp(-intra / 0.1))
    kept = density_quotas(vectors, clusters, centroids, 20)
    assert abs(kept[30:].sum() - 20 * p) <= 1 and kept.sum() == 20
    assert kept[30] and kept[59] and not kept[44]  # the farthest from the centroid first
    assert density_quotas(vectors, clusters, centroids, 20, inside="easy")[44]
    assert (
        density_quotas(vectors, clusters, centroids, 50).sum() == 50
        and density_quotas(vectors, clusters, centroids, 1).sum() == 1
    )


def test_typiclust_takes_one_row_of_each_group_and_copies_come_last():
    group = np.arange(60) % 3
    vectors = (np.eye(3)[group] + RNG(0).normal(scale=0.05, size=(60, 3))).astype(np.float32)
    assert sorted(group[typiclust(vectors, 3, RNG(0))]) == [0, 1, 2]
    # one cluster: 8 copies of an outlier at the side beside 10 distinct rows; without the rule the copies, at distance 0, would be first
    crowd = np.concatenate([np.tile([1.0, 0.9, 0], (8, 1)), RNG(1).normal([1, 0, 0], 0.02, size=(10, 3))]).astype(np.float32)
    kept = typiclust(crowd, 10, RNG(0), most_clusters=1)
    assert kept[8:].sum() == 10 - kept[:8].sum() and kept[:8].sum() <= 1


def test_vote_k_avoids_what_is_covered():
    # a group of 12 and a group of 6: the second choice is from the small group, though the large one has rows of more votes
    group = np.array([0] * 12 + [1] * 6)
    vectors = (np.eye(2)[group] + RNG(0).normal(scale=0.01, size=(18, 2))).astype(np.float32)
    assert sorted(group[vote_k(vectors, 2, neighbours=5)]) == [0, 1]


def test_kmq_draws_good_rows_and_gives_good_clusters_more():
    clusters = np.repeat([0, 1], 100)
    scores = np.concatenate([RNG(0).uniform(0, 1, 100), RNG(1).uniform(9, 10, 100)])
    once, often = (kmq(scores, clusters, 60, RNG(0), rounds=rounds) for rounds in (1, 6))
    assert once[:100].sum() == 30 and often[100:].sum() > 45  # one round: in proportion to the rows
    cold = kmq(scores, clusters, 60, RNG(0), rounds=1, temperature=0.01)
    assert scores[:100][cold[:100]].mean() > 0.7
    huge = kmq(scores * 1e6, clusters, 60, RNG(0), rounds=1)
    assert np.array_equal(huge, once)  # the unit of the quality does not matter, and nothing overflows


def test_cluster_quotas_by_hand():
    clusters = np.array([0] * 10 + [1] * 10 + [2] * 20)
    scores = np.arange(40.0)
    # cluster 1 keeps 3 of 10, and 12 - 3 = 9 go to clusters 0 and 2 at one share, 0.3: 3 and 6; of each the highest scores
    kept = cluster_quotas(clusters, scores, 12, RNG(0), quotas="1: 0.3")
    assert np.flatnonzero(kept).tolist() == [7, 8, 9, 17, 18, 19, 34, 35, 36, 37, 38, 39]
    chance = cluster_quotas(clusters, np.full(40, np.nan), 12, RNG(0), quotas="0: 1, 1:0")
    assert chance[:10].all() and not chance[10:20].any() and chance.sum() == 12
    for quotas, count, said in (
        ("0: 1", 9, "10 rows and the other clusters can add 30"),
        ("0:0, 1:0", 21, "21 rows cannot be kept"),
    ):
        with pytest.raises(DataError, match=said):
            cluster_quotas(clusters, scores, count, RNG(0), quotas=quotas)
    for quotas, said in (
        ("3: 0.5", "no cluster '3'"),
        ("0: 1.5", "cannot keep 1.5"),
        ("0: half", "not a name with a number"),
        ("0: 1, 0: 1", "twice"),
    ):
        with pytest.raises(RecipeError, match=said):
            cluster_quotas(clusters, scores, 5, RNG(0), quotas=quotas)


def test_several_scores_take_turns_by_their_shares():
    vectors = RNG(4).normal(size=(40, 3)).astype(np.float32)
    given = have(vectors, 4, 10)
    method = METHODS["selector", "several_scores"]
    kept = method(given, {"quotas": "prototypes: 3, random: 1"})
    hard = METHODS["data_score", "prototypes"](given)
    assert kept.sum() == 10 and kept[np.argsort(-hard)[:8]].all()  # 10 x 3/4 = 7.5, and of equal remainders the earlier: 8 and 2
    assert np.array_equal(method(given, {"quotas": "prototypes: 1"}), top(hard, 10, None))
    for quotas, said in (
        ("prototype: 1", "no data score called 'prototype'"),
        ("random: 0", "gives no score a share"),
        ("", "no score a share"),
    ):
        with pytest.raises(RecipeError, match=said):
            several_scores(**{key: value for key, value in given.items() if key != "scores"}, quotas=quotas)


def test_a_line_of_shares_is_read_in_order():
    assert read_shares("b: 0.5, a:1\n c d : 2", "quotas", "x") == {"b": 0.5, "a": 1.0, "c d": 2.0}
    for text in ("a", "a: -1", "a: nan", ": 3", "a: inf"):
        with pytest.raises(RecipeError, match="not a name with a number"):
            read_shares(text, "quotas", "x")
