"""Each kernel against a plain reference: odd shapes, ties, extremes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.masks import keep_highest, keep_highest_per_row, keep_n_of_m, keep_n_of_m_in_torch, keep_tiles
from kernels.threshold import drops_per_array

pytestmark = pytest.mark.quick
# few distinct values, so that ties are common; -0.0 and 0.0 are one value, infinities are legal scores
VALUES = st.sampled_from([-np.inf, -2.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 0.5, 3.0, np.inf])
MATRICES = st.tuples(st.integers(1, 6), st.integers(1, 13)).flatmap(lambda shape: arrays(np.float32, shape, elements=VALUES))


def plain_row_mask(scores: np.ndarray, drop: int) -> np.ndarray:
    """Sort each row by (score, column), drop the first ones."""
    keep = np.ones(scores.shape, bool)
    for row, line in zip(keep, scores, strict=True):
        row[sorted(range(len(line)), key=lambda j: (line[j], j))[:drop]] = False
    return keep


@given(MATRICES, st.integers(0, 14))
def test_row_masks_equal_a_plain_sort_with_ties_to_the_lower_column(scores, drop):
    drop = min(drop, scores.shape[1])
    assert np.array_equal(keep_highest_per_row(torch.from_numpy(scores), drop).numpy(), plain_row_mask(scores, drop))


@given(MATRICES, st.integers(0, 80))
def test_layer_masks_drop_exactly_as_many_as_asked(scores, drop):
    drop = min(drop, scores.size)
    keep = keep_highest(torch.from_numpy(scores), drop).numpy()
    assert np.array_equal(keep, plain_row_mask(scores.reshape(1, -1), drop).reshape(scores.shape))


@given(st.sampled_from([(1, 2), (2, 4), (1, 4), (4, 8), (2, 3)]), st.data())
def test_n_of_m_keeps_the_n_highest_of_each_group(pattern, data):
    n, m = pattern
    shape = (data.draw(st.integers(1, 5)), m * data.draw(st.integers(1, 4)))
    scores = data.draw(arrays(np.float32, shape, elements=VALUES))
    plain = plain_row_mask(scores.reshape(-1, m), m - n).reshape(shape)
    assert np.array_equal(keep_n_of_m(torch.from_numpy(scores), n, m).numpy(), plain)
    assert np.array_equal(keep_n_of_m_in_torch(torch.from_numpy(scores), n, m).numpy(), plain)


def test_equal_scores_drop_the_lower_column_first():
    # 2:4 of four equal scores keeps columns 2 and 3
    assert keep_n_of_m(torch.ones(1, 4), 2, 4).tolist() == [[False, False, True, True]]


@given(st.lists(arrays(np.float32, st.integers(1, 20), elements=VALUES), min_size=1, max_size=5), st.floats(0, 1))
def test_a_global_cut_equals_sorting_everything_together(parts, share):
    drop = round(share * sum(map(len, parts)))
    order = sorted((float(value), number, place) for number, part in enumerate(parts) for place, value in enumerate(part))[:drop]
    plain = [sum(number == which for _, number, _ in order) for which in range(len(parts))]
    assert drops_per_array(lambda i: parts[i], [len(part) for part in parts], drop) == plain


def test_a_global_cut_cannot_drop_more_than_there_is():
    with pytest.raises(ValueError, match="cannot drop"):
        drops_per_array(lambda i: np.zeros(3, np.float32), [3], 4)


def plain_tiles(scores: np.ndarray, size: int, drop: int) -> np.ndarray:
    """Tile by tile with loops: (mean, place) sorted; drop the number of tiles whose weights come nearest."""
    rows, columns = scores.shape
    tiles = []
    for top in range(0, rows, size):
        for left in range(0, columns, size):
            part = scores[top : top + size, left : left + size].astype(np.float64)
            tiles.append((part.sum() / part.size, len(tiles), top, left, part.size))
    tiles.sort(key=lambda tile: tile[:2])
    away = [abs(sum(tile[4] for tile in tiles[:count]) - drop) for count in range(len(tiles) + 1)]
    keep = np.ones(scores.shape, bool)
    for _, _, top, left, _ in tiles[: away.index(min(away))]:
        keep[top : top + size, left : left + size] = False
    return keep


FINITE = st.sampled_from([-2.0, 0.0, 0.25, 0.5, 0.5, 1.0, 3.0])  # sums of these are exact in any order


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 13)).flatmap(lambda s: arrays(np.float32, s, elements=FINITE)),
    st.integers(1, 6),
    st.data(),
)
def test_tiles_go_whole_by_their_mean_and_come_nearest_to_the_weights_asked(scores, size, data):
    drop = data.draw(st.integers(0, scores.size))
    assert np.array_equal(keep_tiles(torch.from_numpy(scores), size, drop).numpy(), plain_tiles(scores, size, drop))


def test_a_tile_at_the_edge_counts_by_its_own_weights():
    # 3 columns, tiles of 2: means 4 (of 4 weights) and 5 (of 2), though the sums are 16 and 10; 2 weights asked: 4 or 0 are as far, the fewer go
    scores = torch.tensor([[4.0, 4.0, 5.0], [4.0, 4.0, 5.0]])
    assert keep_tiles(scores, 2, 2).all()
    assert keep_tiles(scores, 2, 3).tolist() == [[False, False, True]] * 2
    assert not keep_tiles(scores, 2, 6).any()
