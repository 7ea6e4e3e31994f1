"""Each kernel against a plain reference: odd shapes, ties, extremes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.masks import keep_highest, keep_highest_per_row, keep_n_of_m, keep_n_of_m_in_torch
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
