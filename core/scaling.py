"""What a few sizes say of more data: a power law of error in rows, and how fast repeating the same rows wears off. Torch-free; scipy when asked.

A fit says itself whether it is worth anything: too few points, a bound reached, or points that do not lie on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LEAST_SIZES, LEAST_EPOCHS = 4, 6
_STEEPEST = 3.0  # the largest exponent; beyond, a few points follow any law
_LONGEST = 1000.0  # epochs: a half-life beyond means that repeating does not wear off here
_POOR = 0.9  # of the errors' variance, less explained than this is a poor fit


@dataclass(frozen=True)
class Fit:
    """a, b, c: see the function. explained: share of the variance of the errors that the law explains (R^2). good: worth drawing as a law;
    words: what it says, or why it says nothing."""

    a: float | None = None
    b: float | None = None
    c: float | None = None
    d: float | None = None
    explained: float | None = None
    good: bool = False
    words: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def power_law(rows: Sequence[float], errors: Sequence[float], spread: Sequence[float] | None = None) -> Fit:
    """error = a * rows^-b + c with a >= 0, 0 <= b <= 3, 0 <= c <= the smallest error; least squares from several starts.

    Three numbers need four sizes. spread: standard deviation over seeds; what lies farther from the law than that makes it a poor one too.
    """
    rows, errors = np.asarray(rows, np.float64), np.asarray(errors, np.float64)
    if len(np.unique(rows)) < LEAST_SIZES:
        return Fit(words=f"A power law has three numbers and needs {LEAST_SIZES} sizes; there are {len(np.unique(rows))}.")
    if np.ptp(errors) <= 1e-12:
        return Fit(words="The error is the same at every size: there is no law to fit.")
    scale = rows / rows.min()

    def law(p: np.ndarray) -> np.ndarray:
        return p[0] * scale ** -p[1] + p[2]

    starts = [(errors[0], b, share * errors.min()) for b in (0.1, 0.3, 0.6, 1.2) for share in (0.0, 0.5, 0.9)]
    (a, b, c), explained = _least(law, errors, starts, [0, 0, 0], [10 * errors.max() + 1e-9, _STEEPEST, max(errors.min(), 1e-12)])
    far = float(np.sqrt(np.mean((law(np.array([a, b, c])) - errors) ** 2)))
    noise = float(np.sqrt(np.mean(np.square(spread)))) if spread is not None and len(spread) else 0.0
    lies = f"error = {a * rows.min() ** b:.3g} x rows^-{b:.2f}" + (f" + {c:.3g}" if c > 1e-6 else "")
    made = {"a": float(a * rows.min() ** b), "b": float(b), "c": float(c), "explained": explained}
    if errors[-1] > errors[0]:
        return Fit(**made, words="More rows did not lower the error: a power law says nothing here.")
    if b > _STEEPEST - 1e-6 or b < 1e-6:
        return Fit(**made, words=f"The exponent ran to its bound ({b:.2g}): the sizes are too close together to fit a law.")
    if explained < _POOR or far > 2 * noise > 0:
        return Fit(**made, words=f"A poor fit (it explains {100 * explained:.0f} % of the differences): {lies}.")
    return Fit(**made, good=True, words=_promise(lies, a, b, c, float(scale.max())))


def _promise(lies: str, a: float, b: float, c: float, most: float) -> str:
    """What twice the data would give, which is the farthest that a handful of sizes allows."""
    now, twice = a * most**-b + c, a * (2 * most) ** -b + c
    floor = f", and no data below {c:.3g}" if c > 1e-6 else ""
    return f"{lies}; twice the data would take it from {now:.3g} to {twice:.3g}{floor}."


def half_life(epochs: Sequence[float], errors: Sequence[float]) -> Fit:
    """How fast a pool wears off (2404.07177): at epoch k its exponent is b * 0.5^((k - 1) / c), and error falls as
    d ln(error - d) = -exponent d ln(samples seen). Fitted to the held-out errors of one training, a: the error at the first moment.

    Ours: the exponent changes continuously instead of by whole epochs. The learning rate falls along the way, which a curve of one training cannot tell from
    wearing off: read it as a bound, and as a comparison between pools that were trained alike.
    """
    epochs, errors = np.asarray(epochs, np.float64), np.asarray(errors, np.float64)
    if len(epochs) < LEAST_EPOCHS or epochs[-1] < 2:
        return Fit(
            words=f"A half-life needs {LEAST_EPOCHS} moments over two epochs or more; there are {len(epochs)} over {epochs[-1]:.1f}."
        )
    if np.ptp(errors) <= 1e-12:
        return Fit(words="The error is the same at every moment: there is nothing to fit.")
    a = max(float(errors[0]), 1e-9)
    fine = np.geomspace(epochs[0], epochs[-1], 200)

    def law(p: np.ndarray) -> np.ndarray:
        b, c, d = p
        exponent = b * 0.5 ** (np.maximum(fine - 1, 0) / c)
        fallen = np.concatenate([[0.0], np.cumsum(0.5 * (exponent[1:] + exponent[:-1]) * np.diff(np.log(fine)))])
        return (a - d) * np.exp(-np.interp(np.log(epochs), np.log(fine), fallen)) + d

    floor = max(float(errors.min()), 1e-12)
    starts = [(b, c, share * floor) for b in (0.2, 0.8) for c in (1.0, 4.0, 20.0) for share in (0.0, 0.8)]
    (b, c, d), explained = _least(law, errors, starts, [0, 0.05, 0], [_STEEPEST, _LONGEST, min(floor, a)])
    made = {"a": a, "b": float(b), "c": float(c), "d": float(d), "explained": explained}
    if explained < _POOR:
        return Fit(
            **made, words=f"A poor fit (it explains {100 * explained:.0f} % of the curve): no half-life can be read from it."
        )
    if c > 0.99 * _LONGEST or c > 5 * epochs[-1]:
        return Fit(**made, good=True, words=f"Repeating the same rows had not worn off after {epochs[-1]:.0f} epochs.")
    return Fit(**made, good=True, words=f"Repeating the same rows loses half of its worth every {c:.1f} epochs (b = {b:.2f}).")


def _least(
    law: Callable[[np.ndarray], np.ndarray],
    errors: np.ndarray,
    starts: Sequence[Sequence[float]],
    low: Sequence[float],
    high: Sequence[float],
) -> tuple[tuple[float, float, float], float]:
    """The best of bounded least squares from all starts, and the share of the variance that it explains."""
    from scipy.optimize import least_squares

    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    span = np.maximum(high - low, 1e-15)
    tries = [
        least_squares(lambda p: law(p) - errors, np.clip(start, low + 1e-6 * span, high - 1e-6 * span), bounds=(low, low + span))
        for start in starts
    ]
    best = min(tries, key=lambda one: one.cost)
    explained = 1.0 - 2 * best.cost / float(np.sum((errors - errors.mean()) ** 2))
    return tuple(float(value) for value in best.x), float(explained)
