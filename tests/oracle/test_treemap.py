"""The treemap's arithmetic: areas exact, no overlap, the cut of a branch, siblings; trees merged without a matrix."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from core.data.clusters import unit, visible
from core.data.clusters.groups import Tree
from core.data.treemap import below, cells, hierarchy, squarify
from kernels.merging import merge_many, merge_tree

pytestmark = pytest.mark.quick
RNG = np.random.default_rng


def grown(rows=60, features=5, seed=0):
    points = unit(RNG(seed).normal(size=(rows, features)))
    return hierarchy(Tree(np.arange(rows, dtype=np.int32), merge_tree(points, np.ones(rows, int), True)))


def test_squarify_is_the_papers_example():
    # Bruls et al., figure 4: areas 6 6 4 3 2 2 1 in 6 x 4. 6 and 6 stand in a column 3 wide, each 3 x 2; then 4 and 3 in a row 7/3 high over the
    # 3 that are left: 12/7 and 9/7 wide; below them 2 alone (6/5 x 5/3), then 2 and 1 side by side.
    found = squarify([6, 6, 4, 3, 2, 2, 1], (0, 0, 6, 4))
    assert found[:4] == [
        pytest.approx(box) for box in ((0, 0, 3, 2), (0, 2, 3, 2), (3, 0, 12 / 7, 7 / 3), (3 + 12 / 7, 0, 9 / 7, 7 / 3))
    ]
    assert found[4] == pytest.approx((3, 7 / 3, 6 / 5, 5 / 3))


@pytest.mark.parametrize("areas", [[1], [5, 1], [3] * 7, [1000, 3, 2, 1, 1, 1, 0.5], list(range(40, 0, -1))])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (2, 3, 1.7, 1), (0, 0, 0.4, 1)])
def test_areas_are_exact_and_fill_the_box_without_overlap(areas, box):
    found = np.array(squarify(areas, box))
    whole = box[2] * box[3]
    assert found[:, 2] * found[:, 3] == pytest.approx(np.array(areas) / sum(areas) * whole, rel=1e-9)
    assert found[:, :2].min(axis=0) == pytest.approx(box[:2]) and (found[:, 0] + found[:, 2]).max() == pytest.approx(
        box[0] + box[2]
    )
    for one in range(len(found)):
        for other in range(one):
            (x, y, w, h), (a, b, c, d) = found[one], found[other]
            shared = max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))
            assert shared < 1e-9 * whole


def test_the_cut_at_the_root_is_scipys_and_a_branch_is_cut_likewise():
    tree = grown()
    reference = tree.tree.merges.copy()
    for count in (1, 2, 5, 17, 60, 99):
        nodes = below(tree, tree.root, count)
        assert set(nodes) == set(visible(tree.tree, count)[1].tolist()) and len(nodes) == min(count, 60)
        group = np.empty(60, int)
        for number, node in enumerate(nodes):
            group[tree.rows(node)] = number
        same = fcluster(reference, min(count, 60), "maxclust")
        assert len(set(zip(group, same, strict=True))) == len(set(same))
    left, right = tree.children(tree.root)
    assert tree.sibling(left) == right and tree.sibling(right) == left and tree.sibling(tree.root) is None
    inside = below(tree, left, 3)
    assert sorted(np.concatenate([tree.rows(node) for node in inside])) == tree.rows(left).tolist()
    assert below(tree, 0, 4) == [0]  # a leaf does not split


@pytest.mark.parametrize("count", [1, 3, 6, 20])
def test_cells_are_as_large_as_their_rows_and_lie_in_their_group(count):
    tree = grown()
    laid = cells(tree, tree.root, count, 1.6)
    assert [one.box[2] * one.box[3] for one in laid] == pytest.approx([tree.size(one.node) / 60 for one in laid])
    assert len(laid) == count and len({one.group for one in laid}) == (1 if count < 6 else round(count**0.5))


def test_leaves_of_several_rows_weigh_what_they_hold():
    # leaves 0, 1, 2 of 3, 1 and 2 rows; 0 and 1 merge first
    tree = hierarchy(Tree(np.int32([0, 2, 0, 1, 2, 0]), np.array([[0, 1, 0.1, 4], [2, 3, 0.5, 6]])))
    assert [tree.size(node) for node in range(5)] == [3, 1, 2, 4, 6]
    assert tree.rows(3).tolist() == [0, 2, 3, 5] and tree.rows(2).tolist() == [1, 4] and below(tree, 4, 2) == [3, 2]


@pytest.mark.parametrize("ward", [True, False])
@pytest.mark.parametrize("features", [3, 12, 31])
def test_merging_without_a_matrix_is_merging(ward, features):
    points = unit(RNG(features).normal(size=(150, features)))
    found = merge_many(points, ward)
    if ward:
        reference = linkage(points.astype(np.float64), "ward")
    else:
        reference = merge_tree(points, np.ones(150, int), False)
    assert np.array_equal(found[:, [0, 1, 3]], reference[:, [0, 1, 3]]) and np.allclose(found[:, 2], reference[:, 2], atol=2e-6)
    assert np.array_equal(found, merge_many(points, ward))
    copies = merge_many(np.repeat(points[:20], 3, axis=0), ward)
    assert np.allclose(copies[:40, 2], 0, atol=4e-4) and copies[-1, 3] == 60
