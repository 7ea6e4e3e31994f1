"""What a budget will cost, learnt from a few measurements. Pure arithmetic on numbers that `core.model.looking.curves` measured; torch-free.

The model: a layer l at share s adds z_l(s) = A_g * rho_r * error_l(s)^gamma, the answers diverge by a * (sum of z)^b from the dense model's, and the log of
the quality figure grows by c * divergence^d; so by scale * (sum of z)^power with scale = c * a^d, power = b * d.
error_l: the share of the layer's own output that is lost (cheap: one pass). A_g: how much its group, the attention or the MLP of one block, matters
(measured: that group pruned alone). rho_r: how much its role matters in its group (measured: that role pruned in all blocks). gamma, a and b come from
the divergences of a few budgets of the whole model, c and d from their losses; a power above 1 says that parts together cost more than alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np

LEVELS = tuple(level / 20 for level in range(20))  # 0 .. 0.95: shares at which a fitted curve is written down
LEAST = 1e-4  # a log increase below this is noise: it has no logarithm worth fitting
_GAMMAS = tuple(0.5 + 0.05 * step for step in range(25))
_POWERS = tuple(0.7 + 0.03 * step for step in range(45))
_T90 = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81)  # Student's t, nine in ten, by degrees of freedom


@dataclass(frozen=True)
class Layer:
    """A layer as the prediction sees it. `errors`: relative output error at each of the measured levels, which ascend from 0."""

    group: str
    role: str
    errors: tuple[float, ...]


@dataclass(frozen=True)
class Probe:
    """A measurement: these layers lost these shares, the answers diverged by `cost` (nats a prediction) from the dense model's, and the log of the quality
    figure grew by `increase`, give or take `noise` (None: not measured)."""

    shares: Mapping[str, float]
    cost: float
    increase: float | None = None
    noise: float = 0.0

    @property
    def usable(self) -> bool:
        return isfinite(self.cost) and LEAST < self.cost < 20


def told(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """Probes as plain data."""
    return [asdict(probe) for probe in probes]


@dataclass(frozen=True)
class Fit:
    """`cost`: {layer: z at LEVELS}; log increase = scale * (sum of z) ** power. Nine times in ten it is off by no more than the factor exp(within) and
    `floor` (None, 0: too few measurements to say). `error`: median relative error on the whole-model budgets that were fitted."""

    cost: dict[str, tuple[float, ...]]
    scale: float
    power: float
    gamma: float
    within: float | None
    floor: float
    error: float | None


def fit(
    layers: Mapping[str, Layer],
    levels: Sequence[float],
    alone: Sequence[Probe],
    roles: Sequence[Probe],
    together: Sequence[Probe],
) -> Fit:
    """Learn the model above. alone: each pruned one group; roles: each one role in all blocks; together: each all of the model."""
    names = list(layers)
    shape = _Shape(names, layers, np.asarray(levels))
    whole = [probe for probe in together if probe.usable]
    known = [np.log(shape.errors_at(probe)) for probe in (*alone, *roles, *whole)]
    best = min((_fitted(shape, known, alone, roles, whole, gamma) for gamma in _GAMMAS), key=lambda found: found.loss)
    fine = {name: shape.fine(name) ** best.gamma * weight for name, weight in zip(names, best.weights, strict=True)}
    said = [
        best.scale * float(np.exp(row) ** best.gamma @ best.weights) ** best.power for row in known[len(known) - len(whole) :]
    ]
    heard = [(k, probe) for k, probe in zip(said, whole, strict=True) if probe.increase is not None and isfinite(probe.increase)]
    c, d, spread = _link([k for k, _ in heard], [p.increase for _, p in heard], [p.noise for _, p in heard])
    off = np.array([p.increase / (c * k**d) - 1 for k, p in heard]) if heard else np.array(best.left_out)
    spread = spread if heard else sqrt(float(np.mean(np.square(off)))) if len(off) else 0.0
    sure = len(off) >= 3
    # All budgets are measured on the same text, whose luck no fit averages away: the range is never narrower than that, of it and of the text to come.
    luck = 1.645 * sqrt(2.0) * float(np.median([p.noise / (c * k**d) for k, p in heard])) if heard else 0.0
    within = max(_T90[min(len(off) - 3, 9)] * spread * sqrt(1 + 1 / len(off)), luck) if sure else None
    floor = 1.645 * sqrt(2.0) * min(p.noise for _, p in heard) if sure and heard else 0.0
    curves = {name: tuple(map(float, curve)) for name, curve in fine.items()}
    return Fit(
        curves, c * best.scale**d, best.power * d, best.gamma, within, floor, float(np.median(np.abs(off))) if sure else None
    )


def _link(said: list[float], increase: list[float], noise: list[float]) -> tuple[float, float, float]:
    """(c, d, spread) of increase = c * said ** d: least squares, each weighed by its own noise and the spread that the others leave; c = d = 1 with fewer
    than three. Where the text does not tell, d stays near 1: a calibrated model's loss grows by its divergence."""
    if len(said) < 3:
        return 1.0, 1.0, 0.0
    k, t, e = np.log(said), np.asarray(increase), np.asarray(noise)
    spread = 0.1
    for _ in range(6):
        best = (inf, 1.0, 1.0)
        for d in _POWERS:
            for c in np.exp(np.linspace(-1.2, 0.7, 77)):
                guess = c * np.exp(d * k)
                off = (t - guess) ** 2 / (e**2 + (spread * guess) ** 2)
                best = min(best, (float(off.sum()) + ((d - 1) / 0.15) ** 2 + (np.log(c) / 0.5) ** 2, float(c), d))
        guess = best[1] * np.exp(best[2] * k)
        own = np.maximum((t / guess - 1) ** 2 - (e / guess) ** 2, 0.0)  # what noise does not explain
        weight = 1 / (spread**2 + (e / guess) ** 2)
        spread = max(sqrt(float((own * weight).sum() / weight.sum()) * len(said) / max(len(said) - 2, 1)), 0.03)
    return best[1], best[2], spread


class _Shape:
    """Which layer is in which group and has which role, as index arrays, and errors between the measured levels."""

    def __init__(self, names: list[str], layers: Mapping[str, Layer], levels: np.ndarray) -> None:
        self.names, self.levels = names, levels
        groups, roles = (sorted({getattr(layers[name], key) for name in names}) for key in ("group", "role"))
        self.group = np.array([groups.index(layers[name].group) for name in names])
        self.role = np.array([roles.index(layers[name].role) for name in names])
        self.groups, self.roles = len(groups), len(roles)
        self._errors = {
            name: np.maximum.accumulate(np.nan_to_num(np.asarray(layers[name].errors, float), nan=1.0)) for name in names
        }

    def error(self, name: str, shares: np.ndarray | float) -> np.ndarray:
        """Errors grow about like a power of the share, so between levels they are read on straight lines of their logarithms; tiny, never 0."""
        x = np.log(np.maximum(self.levels[1:], 1e-6))
        y = np.log(np.maximum(self._errors[name][1:], 1e-12))
        at = np.log(np.maximum(shares, 1e-6))
        low = y[0] + 2.0 * (at - x[0])  # below the first level: as the square
        return np.exp(np.minimum(np.where(at < x[0], low, np.interp(at, x, y)) + _beyond(x, y, at), 2.0))

    def errors_at(self, probe: Probe) -> np.ndarray:
        shares = probe.shares
        return np.array([float(self.error(name, shares[name])) if shares.get(name) else 1e-12 for name in self.names])

    def fine(self, name: str) -> np.ndarray:
        return np.append(0.0, self.error(name, np.asarray(LEVELS[1:])))


def _beyond(x: np.ndarray, y: np.ndarray, at: np.ndarray | float) -> np.ndarray:
    """What the last slope adds beyond the last level."""
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2]) if len(x) > 1 else 1.0
    return np.maximum(at - x[-1], 0.0) * slope


@dataclass(frozen=True)
class _Found:
    gamma: float
    weights: np.ndarray
    scale: float
    power: float
    left_out: list[float]
    loss: float


def _fitted(shape: _Shape, known: list[np.ndarray], alone: Sequence[Probe], roles: Sequence[Probe], whole: Sequence[Probe],
            gamma: float) -> _Found:  # fmt: skip
    """The best power, weights and scale for one gamma. known: log errors of the probes, in the order alone, roles, whole."""
    features = np.exp(gamma * np.array(known)) if known else np.zeros((0, len(shape.names)))
    features[np.array(known) < np.log(1e-11)] = 0.0
    lone, of_role, of_whole = np.split(features, [len(alone), len(alone) + len(roles)])
    costs = np.log([probe.cost for probe in whole]) if whole else np.zeros(0)
    best: _Found | None = None
    for power in _POWERS if len(whole) >= 3 else (1.0,):
        weights = _weights(shape, lone, of_role, [p.cost for p in alone], [p.cost for p in roles], power)
        sums = of_whole @ weights
        off = costs - power * np.log(np.maximum(sums, 1e-12))
        scale = float(np.mean(off)) if len(off) else 0.0
        loss = float(np.mean(np.square(off - scale))) if len(off) else (gamma - 1) ** 2
        loss += (
            0.002 * scale**2 + 0.002 * (gamma - 1) ** 2 + 0.002 * (power - 1) ** 2
        )  # where measurements do not tell: plain additive costs
        if best is None or loss < best.loss:
            left = [float(x) for x in (off - scale) * len(off) / max(len(off) - 1, 1)]
            best = _Found(gamma, weights, float(np.exp(scale)), power, left, loss)
    return best


def _weights(
    shape: _Shape, lone: np.ndarray, of_role: np.ndarray, costs: list[float], role_costs: list[float], power: float
) -> np.ndarray:
    """A_g * rho_r of each layer, so that groups pruned alone cost what was measured, and roles share it as measured."""
    rho = np.ones(shape.roles)
    z = np.array([max(cost, 0.0) ** (1 / power) if isfinite(cost) else np.nan for cost in costs])
    wanted = np.array([max(cost, LEAST) ** (1 / power) if isfinite(cost) else np.nan for cost in role_costs])
    probe_role = [shape.role[np.flatnonzero(row)[0]] if row.any() else -1 for row in of_role]
    weights = _by_group(shape, lone, z, rho)
    for _ in range(12 if len(of_role) else 0):
        ratio = wanted / np.maximum(of_role @ weights, 1e-12)
        fair = np.nanmedian(ratio)
        for role, value in zip(probe_role, ratio, strict=True):
            if role >= 0 and isfinite(value) and fair > 0:
                rho[role] = min(max(rho[role] * (value / fair) ** 0.6, 1 / 30), 30.0)
        weights = _by_group(shape, lone, z, rho)
    return weights


def _by_group(shape: _Shape, lone: np.ndarray, z: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Each group's A: least squares over the probes of that group alone; a group that seems to cost nothing gets a tenth of the median, and one without
    which the model's answer is no number as much as the dearest."""
    of_layer = rho[shape.role]
    sums = lone @ of_layer
    mine = np.isfinite(z) & (sums > 0)
    at = shape.group[lone.argmax(axis=1)][mine] if len(lone) else np.zeros(0, int)
    above = np.bincount(at, (z * sums)[mine], shape.groups)
    below = np.bincount(at, (sums**2)[mine], shape.groups)
    factors = np.divide(above, below, out=np.full(shape.groups, np.nan), where=below > 0)
    usual = float(np.nanmedian(factors)) if np.isfinite(factors).any() else 1.0
    broken = shape.group[lone.argmax(axis=1)][~np.isfinite(z) & (sums > 0)] if len(lone) else np.zeros(0, int)
    factors[broken] = np.nanmax(factors) if np.isfinite(factors).any() else usual
    factors = np.where(np.isfinite(factors), factors, usual)
    return np.maximum(factors, 0.1 * max(usual, 1e-12))[shape.group] * of_layer
