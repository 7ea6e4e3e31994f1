"""Duplicates against plain loops, planted ones found; and what may be left out where a score decides by itself."""

import zlib

import numpy as np
import pytest

from core import catalogue, recipe
from core.data.clusters import spherical_kmeans, unit
from core.data.draws import generator
from core.data.selection import decide
from core.errors import RecipeError
from core.events import Silent
from core.recipe import Select
from core.select import min_hash as hashing
from core.select.min_hash import min_hash
from core.select.near_duplicates import near_duplicates
from tests.oracle.data_rows import RNG, rows_of

ALL_BUT_KEEP = {"recipe": 1, "name": "d", "data": {"source": "builtin:digits"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


# duplicates ---------------------------------------------------------------------------------------------------------------------------


def one_cluster(rows):
    return np.zeros(rows, np.int32)


def chain(links=18, step_degrees=15):
    """Unit vectors each alike only to the next: cos 15 degrees is 0.966, cos 30 is 0.866."""
    angle = np.deg2rad(step_degrees * np.arange(links))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_of_a_chain_of_eighteen_the_leader_rule_keeps_nine_and_the_published_rule_one_for_each_farthest():
    rows = chain()
    leader = near_duplicates(rows, one_cluster(18), rows[:1], Silent())
    assert np.flatnonzero(leader >= 0).tolist() == list(range(0, 18, 2))
    assert np.allclose(leader[1], 0.95 - np.cos(np.deg2rad(15)), atol=1e-6)
    angle = np.deg2rad(15 * np.arange(6))
    few = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    published = near_duplicates(few, one_cluster(6), few[:1], Silent(), rule="published")
    assert np.flatnonzero(published >= 0).tolist() == [
        5
    ]  # the farthest from the centroid stays, and each other resembles the one before it


@pytest.mark.parametrize("rule", ["leader", "published"])
def test_duplicates_equal_a_plain_double_loop(rule, monkeypatch):
    from core.select import near_duplicates as module

    monkeypatch.setattr(module, "_BLOCK", 7)
    monkeypatch.setattr(module, "_AT_ONCE", 5)
    base = RNG(4).normal(size=(30, 6))
    vectors = (base[RNG(5).integers(0, 30, 80)] + RNG(6).normal(scale=0.15, size=(80, 6))).astype(np.float32)
    clusters = spherical_kmeans(vectors, 4, 0)
    points, staying = unit(vectors), []
    order = range(80)
    if rule == "published":
        to_centre = (points * clusters.centroids[clusters.assignment]).sum(1)
        order = sorted(range(80), key=lambda i: (to_centre[i], i))
    expected = np.zeros(80)
    for place, i in enumerate(order):
        before = (
            [j for j in list(order)[:place] if clusters.assignment[j] == clusters.assignment[i]]
            if rule == "published"
            else staying
        )
        expected[i] = 0.9 - max((float(points[i] @ points[j]) for j in before), default=-1.0)
        if expected[i] >= 0:
            staying.append(i)
    found = near_duplicates(vectors, clusters.assignment, clusters.centroids, Silent(), rule=rule, threshold=0.9)
    assert np.allclose(found, expected, atol=1e-5) and 0 < (found < 0).sum() < 80


def test_planted_duplicates_are_found_with_precision_and_recall_of_99_percent():
    base = RNG(7).normal(size=(1000, 48)).astype(np.float32)
    which = RNG(8).permutation(1000)[:300]
    planted = base[which] * RNG(9).uniform(0.5, 2, (300, 1)) + RNG(10).normal(scale=0.05, size=(300, 48))
    vectors = np.concatenate([base, planted]).astype(np.float32)
    dataset = rows_of(labels=np.arange(1300) % 2)
    clusters = spherical_kmeans(vectors, 8, 0)
    kept = decide(dataset, vectors, clusters, Select(score="near_duplicates"), 0)
    gone = ~kept.kept
    assert gone[1000:].mean() >= 0.99 and gone[1000:].sum() / gone.sum() >= 0.99 and kept.share == pytest.approx(kept.kept.mean())


def texts_of(count, seed, words=30):
    random = RNG(seed)
    return [" ".join(f"w{word}" for word in random.integers(0, 5000, words)) for _ in range(count)]


def test_planted_copies_of_texts_are_found_with_precision_and_recall_of_99_percent():
    base = texts_of(400, 0)
    copies = [text.upper() + " and more" for text in base[:150]]
    found = min_hash([*base, *copies], RNG(0), Silent())
    gone = found < 0
    assert gone[400:].mean() >= 0.99 and gone[400:].sum() / gone.sum() >= 0.99


def test_min_hash_scores_are_the_threshold_minus_the_exact_jaccard():
    # words in a row: 2. "a b c d" -> ab bc cd; "a b c e" -> ab bc ce: 2 in both of 4. an equal text: 1. a short text is one sequence of its own
    found = min_hash(["a b c d", "a b c d", "A, b? c d!", "x y z", "q"], RNG(0), Silent(), words=2)
    assert (
        np.allclose(found[1:3], 0.72 - 1.0, atol=1e-6) and (found[[0, 3, 4]] >= 0.72).all() and (found[[0, 3, 4]] < 0.7211).all()
    )
    sequences = hashing._sequences(["a b c d", "a b c e"], 2)
    assert hashing._jaccard(*map(np.unique, sequences)) == 0.5


def test_texts_meet_as_often_as_the_bands_say():
    # J of one half: meet with 1 - (1 - 0.5^8)^14 = 0.053; J of 0.9: 0.9997
    random = RNG(3)
    for shared, low, high in ((133, 0.01, 0.11), (190, 0.99, 1.0)):
        met = 0
        for _ in range(200):
            both, a, b = np.split(random.integers(0, 2**63, 200 * 2 - shared, dtype=np.uint64), [shared, 200])
            signature = hashing._minima([np.concatenate([both, a]), np.concatenate([both, b])], random)
            met += bool((signature[0] == signature[1]).all(axis=1).any())
        assert low <= met / 200 <= high


# what may be left out of a recipe -----------------------------------------------------------------------------------------------------


def test_keep_may_be_left_out_where_the_score_decides_and_only_there():
    free = catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "near_duplicates"}}))
    assert (
        free.select.keep is None and free.select.selector is None and free.select.params == {"rule": "leader", "threshold": 0.95}
    )
    assert catalogue.resolve(free) == free and recipe.from_yaml(recipe.to_yaml(free)) == free
    shared = catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "near_duplicates", "keep": 0.5}}))
    assert shared.select.selector == "top"
    for select in ({"method": "el2n"}, {"score": "near_duplicates", "selector": "top"}):
        with pytest.raises(RecipeError, match="does not say what share to keep"):
            catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": select}))
    with pytest.raises(RecipeError, match="dsir aims at a second data set, and target does not say which"):
        catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "dsir", "keep": 0.5}}))


def test_equal_rows_are_one_row_when_duplicates_go():
    dataset, vectors = rows_of(labels=[0, 1] * 50), np.ones((100, 3), np.float32)
    kept = decide(dataset, vectors, spherical_kmeans(vectors, 2, 0), Select(score="near_duplicates"), 0)
    assert np.flatnonzero(kept.kept).tolist() == [0] and kept.share == 0.01


def test_random_numbers_of_one_purpose_never_change_with_another():
    assert generator(3, "a").random() == np.random.default_rng([3, zlib.crc32(b"a")]).random() != generator(3, "b").random()
