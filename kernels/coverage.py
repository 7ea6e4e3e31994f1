"""Rows that stand for their neighbours: facility location and voting on a graph of nearest rows. Arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np

from kernels.heap import sink

_WHOLE = 12  # a vote is counted in units of 10^-12, so that sums are exact whatever their order


def readers(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who has each row among its nearest: (starts int64 (rows + 1,), places int64: flat places in `index`, earlier rows first)."""
    starts = np.concatenate(([0], np.cumsum(np.bincount(index.reshape(-1), minlength=len(index)))))
    places = np.empty(index.size, np.int64)
    _fill(index.reshape(-1), starts[:-1].copy(), places)
    return starts, places


def cover_greedily(index: np.ndarray, near: np.ndarray, count: int) -> np.ndarray:
    """`count` different rows, each the one that adds most to sum over rows i of max(least_i, max over chosen u of near(i, u)).

    index (rows, neighbours): the rows that can stand for row i, itself among them; near: how well, float32 of that shape, finite; least_i is the
    smallest near of row i, what it has without any. Ties take the earlier row. Returns int64 (count,), in the order chosen. Lazy (Minoux 1978):
    what a row adds never grows, so only the row whose last known gain is the largest is looked at again.
    """
    rows = len(index)
    if not 0 < count <= rows:
        raise ValueError(f"cannot choose {count} of {rows} rows")
    starts, places = readers(index)
    who = (places // index.shape[1]).astype(np.int32)
    chosen = np.empty(count, np.int64)
    _cover(starts, who, np.ascontiguousarray(near, np.float32).reshape(-1)[places], near.min(axis=1).astype(np.float32), chosen)
    return chosen


def vote(index: np.ndarray, count: int) -> np.ndarray:
    """`count` different rows, each the one of most votes: rows not chosen vote for their nearest with 10^-(how many of those are chosen).

    index (rows, neighbours), a row never among its own. Ties take the earlier row. Returns int64 (count,), in the order chosen. Votes below 10^-12
    count as nothing; the others are whole numbers of 10^-12, so the sums are exact.
    """
    rows = len(index)
    if not 0 < count <= rows:
        raise ValueError(f"cannot choose {count} of {rows} rows")
    starts, places = readers(index)
    who = (places // max(index.shape[1], 1)).astype(np.int32)
    chosen = np.empty(count, np.int64)
    _vote(index, starts, who, 10 ** np.arange(_WHOLE, -1, -1, dtype=np.int64), chosen)
    return chosen


@numba.njit(cache=True, nogil=True)
def _fill(flat: np.ndarray, free: np.ndarray, places: np.ndarray) -> None:
    for place in range(flat.shape[0]):
        places[free[flat[place]]] = place
        free[flat[place]] += 1


@numba.njit(cache=True, nogil=True)
def _gain(row: int, starts: np.ndarray, who: np.ndarray, near: np.ndarray, best: np.ndarray) -> float:
    total = 0.0
    for at in range(starts[row], starts[row + 1]):
        total += max(near[at] - best[who[at]], np.float32(0))
    return total


@numba.njit(cache=True, nogil=True)
def _cover(starts: np.ndarray, who: np.ndarray, near: np.ndarray, best: np.ndarray, chosen: np.ndarray) -> None:
    rows = best.shape[0]
    gains, known, heap = np.empty(rows), np.zeros(rows, np.int64), np.arange(rows)
    for row in range(rows):
        gains[row] = _gain(row, starts, who, near, best)
    for at in range(rows // 2 - 1, -1, -1):
        sink(heap, rows, at, gains)
    done, size = 0, rows
    while done < chosen.shape[0]:
        row = heap[0]
        if known[row] == done:
            chosen[done] = row
            done += 1
            for at in range(starts[row], starts[row + 1]):
                best[who[at]] = max(best[who[at]], near[at])
            size -= 1
            heap[0] = heap[size]
        else:
            gains[row], known[row] = _gain(row, starts, who, near, best), done
        sink(heap, size, 0, gains)


@numba.njit(cache=True, nogil=True)
def _vote(index: np.ndarray, starts: np.ndarray, who: np.ndarray, worth: np.ndarray, chosen: np.ndarray) -> None:
    rows = index.shape[0]
    votes, covered, gone = np.empty(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    for row in range(rows):
        votes[row] = (starts[row + 1] - starts[row]) * worth[0]
    for done in range(chosen.shape[0]):
        best = -1
        for row in range(rows):
            if not gone[row] and (best < 0 or votes[row] > votes[best]):
                best = row
        chosen[done], gone[best] = best, True
        if covered[best] < worth.shape[0]:  # a chosen row votes no more
            for other in index[best]:
                votes[other] -= worth[covered[best]]
        for at in range(starts[best], starts[best + 1]):
            voter = who[at]
            if gone[voter] or covered[voter] >= worth.shape[0]:
                continue
            before = worth[covered[voter]]
            covered[voter] += 1
            after = worth[covered[voter]] if covered[voter] < worth.shape[0] else 0
            for other in index[voter]:
                votes[other] += after - before
