"""Agglomerative clusters: the nearest two merge until one is left, and the tree of merges is cut where a person wants."""

from __future__ import annotations

import numpy as np

from core.data.clusters.density import main_directions
from core.data.clusters.groups import STAGE, Clusters, Tree, by_size, checked_count, directions, unit
from core.data.clusters.kmeans import spherical_kmeans
from core.errors import DataError
from core.events import Progress, Watcher
from kernels.grouping import nearest_centroid, sums_by_group
from kernels.merging import merge_many, merge_tree

MOST_LEAVES = 4096  # 128 MiB of distances, however many rows
MOST_ROWS = 20_000  # by Ward's linkage row by row: seconds, and no distances held
_MICRO, _MICRO_PASSES = 1024, 20


def agglomerative(vectors: np.ndarray, count: int | None, linkage: str, seed: int, watcher: Watcher) -> Clusters:
    """Clusters of rows by merging: Ward's linkage on unit vectors (least spread gained), or average linkage on 1 - cos.

    Up to 4,096 rows (Ward: 20,000, more than 4,096 of them in their 50 main directions) each row is a leaf of the tree. Above, the leaves are 1,024
    micro-clusters (spherical k-means, 20 passes), each with its mean and its number of rows, so that both linkages are those of the rows in them;
    distances inside a micro-cluster are not looked at. Raises DataError where there are fewer rows than clusters.
    """
    count = checked_count(len(vectors), count)
    points = unit(vectors)
    leaf, leaves = np.arange(len(points), dtype=np.int32), len(points)
    direct = linkage == "ward" and leaves <= MOST_ROWS
    if leaves > MOST_LEAVES and not direct:
        leaves = max(_MICRO, count)
        leaf = spherical_kmeans(points, leaves, seed, watcher, passes=_MICRO_PASSES).assignment
    watcher.check()
    watcher.say(Progress(STAGE, 0, 1, text="merging"))
    sizes = np.bincount(leaf, minlength=leaves)
    if direct and leaves > MOST_LEAVES:
        tree = Tree(leaf, merge_many(main_directions(points), ward=True))
    else:
        tree = Tree(leaf, merge_tree(sums_by_group(points, leaf, leaves) / sizes[:, None], sizes, linkage == "ward"))
    assignment, _ = visible(tree, count)
    watcher.say(Progress(STAGE, 1, 1))
    return Clusters(assignment, directions(points, assignment, count), np.bincount(assignment, minlength=count), tree=tree)


def whole_tree(vectors: np.ndarray, seed: int, watcher: Watcher) -> Tree:
    """Ward's tree of rows, for looking at: of up to 20,000 rows that of `agglomerative`. Of more, its leaves are 1,024 groups of rows, found by spherical
    k-means on 20,000 rows drawn by chance; the others join the nearest centre. Raises DataError where there is one row."""
    if len(vectors) < 2:
        raise DataError("One row has no clusters.", "Open data with more rows.")
    if len(vectors) <= MOST_ROWS:
        tree = agglomerative(vectors, 2, "ward", seed, watcher).tree
        assert tree is not None
        return tree
    points = unit(vectors)
    some = np.sort(np.random.default_rng([seed, 0x7EE]).permutation(len(points))[:MOST_ROWS])
    centres = spherical_kmeans(points[some], _MICRO, seed, watcher, passes=_MICRO_PASSES).centroids
    leaf = nearest_centroid(points, centres)[0]
    _, leaf = np.unique(leaf, return_inverse=True)  # a centre may get none
    leaf = leaf.astype(np.int32)
    sizes = np.bincount(leaf)
    return Tree(leaf, merge_tree(sums_by_group(points, leaf, len(sizes)) / sizes[:, None], sizes, True))


def visible(tree: Tree, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The tree cut into `count` clusters: (cluster of each row, int32 (rows,), numbered by size; the node of the tree that each cluster is).

    With more clusters some split and all others stay: a node keeps its rows at any count.
    """
    leaves = len(tree.merges) + 1
    count = min(max(count, 1), leaves)
    shown = 2 * leaves - count  # nodes below this number are merged by then
    root = np.arange(2 * leaves - 1)
    for node in range(2 * leaves - 2, leaves - 1, -1):  # from the top: children of a node that is shown belong to it
        for child in tree.merges[node - leaves, :2].astype(np.int64):
            root[child] = root[node] if node < shown else child
    nodes, group = np.unique(root[:leaves], return_inverse=True)
    assignment, order, _ = by_size(group.astype(np.int32)[tree.leaf], count)
    return assignment, nodes[order]
