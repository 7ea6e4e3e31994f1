"""What allocators would propose for a budget, from figures that are there already: shapes, observations, curves. Torch-free, at once.

The allocators themselves (core/allocate) look into the weights when a run starts; these are those of them that need no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, prod, sqrt

from core.budget import HIGHEST_SHARE, CostCurves, kept_in_proportion, redistribute
from core.frontier import ladder

_STRENGTH = 0.3  # of `influence_weighted`, its default


@dataclass(frozen=True)
class Parts:
    """The layers of a model, in order. `influence`: {block: block influence}, where it was observed; `errors`: {layer: (shares, relative output errors)}."""

    sizes: Mapping[str, int]
    block: Mapping[str, str]
    role: Mapping[str, str]
    shape: Mapping[str, tuple[int, ...]]
    influence: Mapping[str, float] | None = None
    errors: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None


@dataclass(frozen=True)
class Proposal:
    name: str
    label: str
    shares: dict[str, float]


def proposals(parts: Parts, curves: CostCurves | None, total: float, fixed: Mapping[str, float]) -> list[Proposal]:
    """Every proposal that can be made for removing `total` of the weights, with those in `fixed` (locked) left at their shares."""
    free = {part: size for part, size in parts.sizes.items() if part not in fixed}
    if not free:
        return []
    held = sum(share * parts.sizes[part] for part, share in fixed.items())
    weights = min(max(total * sum(parts.sizes.values()) - held, 0.0), HIGHEST_SHARE * sum(free.values()))
    asked = weights / sum(free.values())
    made = {"uniform": ("Uniform", dict.fromkeys(free, asked))}
    if curves:
        made["best"] = ("Best by these curves", ladder(curves, free).shares(weights))
    if parts.errors and parts.influence:
        made["rate_distortion"] = (
            "Rate-distortion",
            ladder(_distortion(parts, free), free, highest=max(0.9, asked)).shares(weights),
        )
    if parts.influence:
        made["influence"] = ("By block influence", _by_influence(parts, free, asked))
    made["erk"] = (
        "Erdős–Rényi kernel",
        _in_proportion({part: sum(parts.shape[part]) / prod(parts.shape[part]) for part in free}, free, asked),
    )
    return [
        Proposal(name, label, {**fixed, **{part: shares.get(part, 0.0) for part in free}})
        for name, (label, shares) in made.items()
    ]


def _distortion(parts: Parts, free: Mapping[str, int]) -> CostCurves:
    """What each layer loses of its output, as the residual stream feels it: relative error * block influence, as the allocator `rate_distortion` counts."""
    known = {part: parts.errors[part] for part in free if part in parts.errors}
    levels = next(iter(known.values()))[0] if known else (0.0, 1.0)
    cost = {
        part: tuple(error * max(parts.influence.get(parts.block[part], 0.0), 0.0) for error in errors)
        for part, (_, errors) in known.items()
    }
    return CostCurves(tuple(levels), cost, 1.0)


def _by_influence(parts: Parts, free: Mapping[str, int], asked: float) -> dict[str, float]:
    values = list(parts.influence.values())
    mean = sum(values) / len(values)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    strong = {block: (value - mean) / deviation if deviation > 0 else 0.0 for block, value in parts.influence.items()}
    return _in_proportion({part: 1 / (1 + exp(-_STRENGTH * strong.get(parts.block[part], 0.0))) for part in free}, free, asked)


def _in_proportion(kept: Mapping[str, float], free: Mapping[str, int], asked: float) -> dict[str, float]:
    """What each keeps in these proportions; no bar above the highest."""
    shares = {part: min(share, HIGHEST_SHARE) for part, share in kept_in_proportion(kept, free, asked).items()}
    return redistribute(shares, free, asked)
