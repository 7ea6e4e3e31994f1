"""A number of rows shared out among groups. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np


def nearest_quotas(wanted: np.ndarray, low: np.ndarray, high: np.ndarray, total: int) -> np.ndarray:
    """The x nearest to `wanted` (least sum of squares) with sum x = total and low <= x <= high, in whole numbers that add up exactly.

    wanted float (groups,), finite; low, high int (groups,). At the optimum of the quadratic program every x that no bound holds lies one and the same
    amount below its wish, so x = clip(wanted - level, low, high), and the level is found by bisection. Then whole numbers by largest remainder; of
    equal remainders the earlier group's first. Returns int64 (groups,). Raises ValueError where the bounds cannot hold.
    """
    wanted, low, high = np.asarray(wanted, np.float64), np.asarray(low, np.int64), np.asarray(high, np.int64)
    if (low > high).any() or not low.sum() <= total <= high.sum() or not np.isfinite(wanted).all():
        raise ValueError(f"no quotas between the bounds add up to {total}")
    below, above = float((wanted - high).min(initial=0.0)), float((wanted - low).max(initial=0.0))
    for _ in range(200):  # each halves the interval: the end is the precision of the numbers
        level = (below + above) / 2
        if np.clip(wanted - level, low, high).sum() > total:
            below = level
        else:
            above = level
    return whole(np.clip(wanted - (below + above) / 2, low, high), high, total)


def whole(shares: np.ndarray, high: np.ndarray, total: int) -> np.ndarray:
    """Shares (groups,), whose sum is near `total`, as whole numbers of that sum, none above `high`: largest remainder, the earlier group of two first."""
    shares, high = np.asarray(shares, np.float64), np.asarray(high, np.int64)
    found = np.minimum(np.floor(shares + 1e-9).astype(np.int64), high)
    order = np.argsort(-(shares - found), kind="stable")
    while (owed := total - int(found.sum())) > 0:
        open_groups = order[found[order] < high[order]]
        if len(open_groups) == 0:
            raise ValueError(f"the groups hold fewer than {total}")
        found[open_groups[:owed]] += 1
    return found
