"""Maps of many rows: sums in parts, draws by strata, and what is said of rows that were not laid out themselves."""

import numpy as np
import pytest

from core.data import projection
from core.data.projection import drawn, pca, project, trust, tsne
from core.events import Silent
from core.recipe import Projection


def groups(rows=300, features=12, count=3, seed=0):
    """Three clouds far apart; the class of each row."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % count
    return (rng.normal(size=(count, features)) * 6)[labels] + rng.normal(size=(rows, features)).astype(np.float32), labels


@pytest.mark.quick
def test_pca_in_parts_is_pca_and_finds_the_longest_axis_by_hand(monkeypatch):
    # (3,1) (-3,1) (0,0) (0,-2): variance 18 along x, 6 along y, no mixed term; so x is the first axis, y the second, about the mean (0, 0).
    points = np.array([[3, 1], [-3, 1], [0, 0], [0, -2]], np.float32)
    assert np.allclose(pca(points), points)
    vectors, _ = groups()
    whole = pca(vectors)
    monkeypatch.setattr(projection, "_SUM_ROWS", 64)
    assert np.allclose(pca(vectors), whole, atol=1e-4)
    centred = vectors - vectors.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(whole), np.abs(left[:, :2] * values[:2]), atol=1e-3)


def test_tsne_is_seeded_and_keeps_groups_together():
    vectors, labels = groups(150)
    places = tsne(vectors.astype(np.float32), 20.0, 3)
    assert np.array_equal(places, tsne(vectors.astype(np.float32), 20.0, 3)) and places.shape == (150, 2)
    far = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (labels[far.argmin(1)] == labels).all()
    assert tsne(vectors[:3].astype(np.float32), 20.0, 3).shape == (3, 2)


@pytest.mark.quick
def test_rows_are_drawn_in_proportion_to_their_strata_and_the_others_lie_with_their_nearest():
    vectors, labels = groups(300)
    vectors = vectors.astype(np.float32)
    vectors[7], labels[7] = vectors[6], labels[6]
    asked = Projection(method="tsne", most_rows=60, perplexity=10)
    some = drawn(300, asked, 5, labels)
    assert (
        len(some) == 60 and set(np.bincount(labels[some])) <= {19, 20, 21} and np.array_equal(some, drawn(300, asked, 5, labels))
    )
    assert drawn(60, asked, 5) is None and drawn(300, Projection(), 5) is None
    watcher = Silent()
    places, trusted = project(vectors, asked, 5, watcher, labels)
    assert places.shape == (300, 2) and trusted.shape == (300,) and np.isfinite(places).all()
    assert np.array_equal(places[some], tsne(vectors[some], 10, 5))
    centres = np.stack([places[some][labels[some] == label].mean(0) for label in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres[None], axis=2).argmin(1)
    assert (nearest == labels).mean() > 0.95
    assert any("60 of 300 rows, drawn by strata" in heard.text for heard in watcher.heard)


@pytest.mark.quick
def test_trust_of_many_rows_is_that_of_a_draw(monkeypatch):
    vectors, _ = groups(900)
    vectors = vectors.astype(np.float32)
    places = pca(vectors)
    whole = trust(vectors, places)
    monkeypatch.setattr(projection, "MOST_TRUSTED", 800)
    monkeypatch.setattr(projection, "_TRUST_DRAWN", 700)
    part = trust(vectors, places, seed=1)
    assert part.shape == (900,) and part.dtype == np.float32 and 0 <= part.min() <= part.max() <= 1
    assert abs(part.mean() - whole.mean()) < 0.1 and np.array_equal(part, trust(vectors, places, seed=1))
