"""A quadratic keep/drop problem under a fixed number kept, solved by swaps. Arrays in, arrays out."""

from __future__ import annotations

from torch import Tensor


def swapped(start: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Lower E(x) = linear . d + d' quadratic d / 2, d = x - start, by exchanging one that is kept for one that is not, as long as that helps.

    start: bool (n,); linear float64 (n,); quadratic float64 (n, n), symmetric. Returns x: bool (n,), as many True as in start. Each step takes
    the best of all exchanges (ties: the earlier pair); the end is where no exchange of one pair lowers E by more than rounding.
    """
    kept = start.clone()
    slope, diagonal = linear.clone(), quadratic.diagonal()
    least = -1e-12 * float(linear.abs().max() + diagonal.abs().max()) if len(start) else 0.0
    for _ in range(4 * len(start)):
        out, into = kept.nonzero().flatten(), (~kept).nonzero().flatten()
        if not len(out) or not len(into):
            break
        leave, enter = diagonal[out] / 2 - slope[out], diagonal[into] / 2 + slope[into]
        change = leave[:, None] + enter - quadratic[out][:, into]
        best = int(change.argmin())
        if float(change.flatten()[best]) >= least:
            break
        a, b = out[best // len(into)], into[best % len(into)]
        kept[a], kept[b] = False, True
        slope += quadratic[b] - quadratic[a]
    return kept
