"""A treemap of a tree of merges (in the manner of DendroMap, Bertucci et al. 2022, 2205.06935): which clusters are visible below a node, and where they lie.

Pure arithmetic on a Tree; no vectors, no pictures.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.data.clusters.groups import Tree

Box = tuple[float, float, float, float]  # left, top, width, height
_GROUPED_FROM = 6  # visible clusters; below, they lie in one group


@dataclass(frozen=True)
class Hierarchy:
    """A tree with its rows in the order in which branches hang: the rows of `node` are order[first[node] : last[node]].

    Nodes are numbered as in Tree: leaves 0 .. leaves - 1, then merges, lowest first; the last is the root. `parent`: -1 for the root.
    """

    tree: Tree
    order: np.ndarray
    first: np.ndarray
    last: np.ndarray
    parent: np.ndarray

    @property
    def root(self) -> int:
        return len(self.first) - 1

    @property
    def leaves(self) -> int:
        return len(self.tree.merges) + 1

    def children(self, node: int) -> tuple[int, int] | None:
        """The two nodes that merged into this one; None for a leaf."""
        if node < self.leaves:
            return None
        one, other = self.tree.merges[node - self.leaves, :2]
        return int(one), int(other)

    def rows(self, node: int) -> np.ndarray:
        """Positions of the rows of a node, ascending."""
        return np.sort(self.order[self.first[node] : self.last[node]])

    def size(self, node: int) -> int:
        return int(self.last[node] - self.first[node])

    def sibling(self, node: int) -> int | None:
        """The node that this one merged with; None for the root."""
        pair = self.children(int(self.parent[node])) if self.parent[node] >= 0 else None
        return None if pair is None else pair[1] if pair[0] == node else pair[0]


def hierarchy(tree: Tree) -> Hierarchy:
    """Hang the branches: every node's rows become one stretch."""
    leaves = len(tree.merges) + 1
    pairs = tree.merges[:, :2].astype(np.int64)
    sizes = np.concatenate([np.bincount(tree.leaf, minlength=leaves), np.zeros(leaves - 1, np.int64)])
    for at, (one, other) in enumerate(pairs):
        sizes[leaves + at] = sizes[one] + sizes[other]
    first, parent = np.zeros(2 * leaves - 1, np.int64), np.full(2 * leaves - 1, -1, np.int64)
    for at in range(leaves - 2, -1, -1):
        one, other = pairs[at]
        first[one], first[other] = first[leaves + at], first[leaves + at] + sizes[one]
        parent[one] = parent[other] = leaves + at
    order = np.argsort(first[tree.leaf], kind="stable")
    return Hierarchy(tree, order, first, first + sizes, parent)


def below(tree: Hierarchy, node: int, count: int) -> list[int]:
    """The branch of `node` cut into `count` clusters (as many as it has leaves at the most): the highest merges are undone. Largest first.

    At the root these are the nodes of core.data.clusters.visible; with one more cluster, one splits and the others stay.
    """
    heap, whole = [-node], []
    while heap and len(heap) + len(whole) < count:
        pair = tree.children(-heapq.heappop(heap))  # a later merge is a higher one
        if pair is None:
            break  # the highest of those left is a leaf, so all are
        for one in pair:
            if one < tree.leaves:
                whole.append(one)
            else:
                heapq.heappush(heap, -one)
    found = [-one for one in heap] + whole
    return sorted(found or [node], key=lambda one: (-tree.size(one), one))


def squarify(areas: Sequence[float], box: Box) -> list[Box]:
    """Rectangles with areas in these proportions that fill the box, as near to squares as a row of them comes (Bruls, Huizing, van Wijk 2000).

    areas: above 0, best in descending order, which is the order of the rectangles. Rows of rectangles are laid along the shorter side of what is left; a
    row takes the next one as long as its worst ratio of sides does not rise.
    """
    left, top, width, height = box
    scale = width * height / sum(areas)
    rest, laid = [area * scale for area in areas], []
    while rest:
        side = min(width, height)
        taken = 1
        while taken < len(rest) and _worst(rest[: taken + 1], side) <= _worst(rest[:taken], side):
            taken += 1
        row, rest = rest[:taken], rest[taken:]
        thick = sum(row) / side if rest else max(width, height)
        at = 0.0
        for area in row:
            long = area / sum(row) * side
            laid.append((left, top + at, thick, long) if width >= height else (left + at, top, long, thick))
            at += long
        if width >= height:
            left, width = left + thick, width - thick
        else:
            top, height = top + thick, height - thick
    return laid


def _worst(row: list[float], side: float) -> float:
    """The largest ratio of sides in a row of these areas along a side of this length."""
    total = sum(row)
    return max(side * side * max(row) / total**2, total**2 / (side * side * min(row)))


@dataclass(frozen=True)
class Cell:
    """A visible cluster: its node, the number of the group it lies in, and its box, 0..1 of the picture."""

    node: int
    group: int
    box: Box


def cells(tree: Hierarchy, node: int, count: int, aspect: float) -> list[Cell]:
    """The branch of `node` as rectangles, each as large as its share of the rows. `aspect`: width / height of the picture.

    Clusters that merge early lie together: the coarser cut into about sqrt(count) clusters is laid first, and each of those is filled with its own.
    """
    visible = below(tree, node, count)
    outer = below(tree, node, round(len(visible) ** 0.5)) if len(visible) >= _GROUPED_FROM else [node]
    groups: list[list[int]] = [[one for one in visible if _holds(tree, group, one)] for group in outer]
    boxes = squarify([tree.size(group) for group in outer], (0.0, 0.0, aspect, 1.0))
    laid = []
    for number, (members, box) in enumerate(zip(groups, boxes, strict=True)):
        inside = squarify([tree.size(one) for one in members], box)
        laid += [Cell(one, number, (x / aspect, y, w / aspect, h)) for one, (x, y, w, h) in zip(members, inside, strict=True)]
    return laid


def _holds(tree: Hierarchy, outer: int, inner: int) -> bool:
    return bool(tree.first[outer] <= tree.first[inner] and tree.last[inner] <= tree.last[outer])
