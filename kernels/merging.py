"""Agglomerative clustering of weighted points by the nearest-neighbour chain (Müllner 2011). Arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np

_FIRST = 12  # features looked at before the others


def merge_tree(means: np.ndarray, sizes: np.ndarray, ward: bool) -> np.ndarray:
    """The merges of points that stand for `sizes` rows each, lowest first: float64 (points - 1, 4), as scipy's linkage writes them.

    means: (points, features), each the mean of its rows; sizes int (points,). Ward: the height of a merge is sqrt(2 ab / (a + b)) |mean a - mean b|, a
    and b the rows in each. Else average linkage on 1 - dot product, which for means of unit vectors is the mean of 1 - cos over all pairs of
    rows. Columns: the two nodes, the lower first (points are 0 .. points - 1, the i-th merge makes node points + i), height, rows. Memory is points x
    points numbers: give it a few thousand points.
    """
    means, weight = np.asarray(means, np.float64), np.asarray(sizes, np.float64)
    dots = means @ means.T
    if ward:
        length = dots.diagonal()
        apart = np.maximum(length[:, None] + length - 2 * dots, 0) * (2 * weight[:, None] * weight / (weight[:, None] + weight))
    else:
        apart = np.maximum(1 - dots, 0)
    merges = np.empty((len(means) - 1, 4))
    _chain(apart, weight.copy(), ward, merges)
    if ward:
        merges[:, 2] = np.sqrt(merges[:, 2])
    merges = merges[np.argsort(merges[:, 2], kind="stable")]
    _name_nodes(merges)
    return merges


@numba.njit(cache=True, nogil=True)
def _chain(apart: np.ndarray, weight: np.ndarray, ward: bool, merges: np.ndarray) -> None:
    """Follow nearest neighbours until two points are each other's, merge them, go on. A merge is written by one point of each side."""
    size = len(weight)
    alive, height = np.ones(size, np.bool_), np.zeros(size)
    chain, length = np.empty(size, np.int64), 0
    for done in range(size - 1):
        if length == 0:
            chain[0], length = np.argmax(alive), 1
        while True:
            at = chain[length - 1]
            best, least = (chain[length - 2], apart[at, chain[length - 2]]) if length > 1 else (-1, np.inf)
            for other in range(size):
                if alive[other] and other != at and apart[at, other] < least:
                    best, least = other, apart[at, other]
            if length > 1 and best == chain[length - 2]:
                break
            chain[length] = best
            length += 1
        length -= 2
        low, high = min(at, best), max(at, best)
        rise = max(least, height[low], height[high])  # rounding must not put a merge below the merges in it
        merges[done, 0], merges[done, 1], merges[done, 2], merges[done, 3] = low, high, rise, weight[low] + weight[high]
        _join(apart, weight, alive, low, high, least, ward)
        height[high] = rise


@numba.njit(inline="always")
def _join(apart: np.ndarray, weight: np.ndarray, alive: np.ndarray, low: int, high: int, least: float, ward: bool) -> None:
    """The pair lives on as `high`, with distances by Lance and Williams's formula."""
    a, b = weight[low], weight[high]
    alive[low] = False
    for other in range(len(weight)):
        if alive[other] and other != high:
            c = weight[other]
            if ward:
                far = ((a + c) * apart[low, other] + (b + c) * apart[high, other] - c * least) / (a + b + c)
            else:
                far = (a * apart[low, other] + b * apart[high, other]) / (a + b)
            apart[high, other] = apart[other, high] = far
    weight[high] = a + b


def merge_many(points: np.ndarray, ward: bool) -> np.ndarray:
    """The merges of single rows, as `merge_tree` gives them, in memory of points alone: distances are worked out again whenever they are asked for.

    points: (rows, features), float32 inside. Both linkages follow from the means of two groups and their numbers of rows, so no matrix of rows x rows is
    held; time is rows x rows x features at the most (Ward: less where the first features tell most, as main directions do). Ties may break another way than
    in `merge_tree`, which sums otherwise.
    """
    means = np.array(points, np.float32)
    merges = np.empty((len(means) - 1, 4))
    _chain_lean(means, np.ones(len(means)), ward, merges)
    if ward:
        merges[:, 2] = np.sqrt(merges[:, 2])
    merges = merges[np.argsort(merges[:, 2], kind="stable")]
    _name_nodes(merges)
    return merges


@numba.njit(fastmath={"reassoc", "contract", "nsz"}, inline="always")
def _apart(a: np.ndarray, b: np.ndarray, first: int, last: int) -> np.float32:
    """|a - b|^2 over some features."""
    total = np.float32(0)
    for i in range(first, last):
        total += (a[i] - b[i]) * (a[i] - b[i])
    return total


@numba.njit(fastmath={"reassoc", "contract", "nsz"}, inline="always")
def _turned(a: np.ndarray, b: np.ndarray) -> np.float32:
    """1 - a . b."""
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return max(np.float32(1) - total, np.float32(0))


@numba.njit(inline="always")
def _far(a: np.ndarray, b: np.ndarray, weight_a: float, weight_b: float, ward: bool, enough: float) -> float:
    """How far two groups are; Ward's is given up once the first features alone make it `enough`."""
    if not ward:
        return np.float64(_turned(a, b))
    pull, width = 2.0 * (weight_a * weight_b) / (weight_a + weight_b), a.shape[0]
    far = pull * _apart(a, b, 0, min(_FIRST, width))
    return far if far >= enough or width <= _FIRST else far + pull * _apart(a, b, _FIRST, width)


@numba.njit(cache=True, nogil=True)
def _nearest(means: np.ndarray, weight: np.ndarray, alive: np.ndarray, at: int, before: int, ward: bool) -> tuple[int, float]:
    """The group nearest to `at`, and how far it is; `before` wins a tie (-1: nobody does), else the earlier."""
    best, least = -1, np.inf
    if before >= 0:
        best, least = before, _far(means[at], means[before], weight[at], weight[before], ward, np.inf)
    for other in range(means.shape[0]):
        if alive[other] and other != at:
            far = _far(means[at], means[other], weight[at], weight[other], ward, least)
            if far < least:
                best, least = other, far
    return best, least


@numba.njit(cache=True, nogil=True)
def _chain_lean(means: np.ndarray, weight: np.ndarray, ward: bool, merges: np.ndarray) -> None:
    """As `_chain`; of a merged pair `high` lives on with the mean of both."""
    size = len(weight)
    alive, height = np.ones(size, np.bool_), np.zeros(size)
    chain, length = np.empty(size, np.int64), 0
    for done in range(size - 1):
        if length == 0:
            chain[0], length = np.argmax(alive), 1
        while True:
            at = chain[length - 1]
            best, least = _nearest(means, weight, alive, at, chain[length - 2] if length > 1 else -1, ward)
            if length > 1 and best == chain[length - 2]:
                break
            chain[length] = best
            length += 1
        length -= 2
        low, high = min(at, best), max(at, best)
        rise = max(least, height[low], height[high])
        merges[done, 0], merges[done, 1], merges[done, 2], merges[done, 3] = low, high, rise, weight[low] + weight[high]
        part = weight[low] / (weight[low] + weight[high])
        for i in range(means.shape[1]):
            means[high, i] += np.float32(part) * (means[low, i] - means[high, i])
        alive[low], weight[high], height[high] = False, weight[low] + weight[high], rise


@numba.njit(cache=True, nogil=True)
def _name_nodes(merges: np.ndarray) -> None:
    """Replace the points by which merges were written by the nodes that these are in by then."""
    size = len(merges) + 1
    parent = np.arange(2 * size - 1)
    for done in range(size - 1):
        for side in range(2):
            node = int(merges[done, side])
            while parent[node] != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            merges[done, side] = node
        if merges[done, 0] > merges[done, 1]:
            merges[done, 0], merges[done, 1] = merges[done, 1], merges[done, 0]
        parent[int(merges[done, 0])] = parent[int(merges[done, 1])] = size + done
