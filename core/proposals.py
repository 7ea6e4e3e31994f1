"""What allocators would propose for a budget, from figures that are there already: shapes, observations, curves. Torch-free, at once.

Those allocators that need no weights are asked themselves; rate-distortion goes by errors that were observed, in place of a pass of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.allocate.erk import erk
from core.allocate.influence_weighted import influence_weighted
from core.budget import HIGHEST_SHARE, OUTLIER_SPREAD, CostCurves, away_from_mean, redistribute
from core.frontier import ladder


@dataclass(frozen=True)
class Parts:
    """The layers of a model, in order. `influence`: {block: block influence}, where it was observed; `errors`: {layer: (shares, relative output errors)};
    `outliers`: {block: share of its weights that stand out}."""

    sizes: Mapping[str, int]
    block: Mapping[str, str]
    role: Mapping[str, str]
    shape: Mapping[str, tuple[int, ...]]
    influence: Mapping[str, float] | None = None
    errors: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None
    outliers: Mapping[str, float] | None = None


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
        usual = sum(parts.influence.values()) / len(parts.influence)
        influence = {block: parts.influence.get(block, usual) for block in parts.block.values()}
        made["influence"] = (
            "By block influence",
            _capped(influence_weighted(free, parts.block, asked, influence, {}), free, asked),
        )  # its usual rule reads no angle
    if parts.outliers and all(parts.block[part] in parts.outliers for part in free):
        block = {part: parts.block[part] for part in free}
        made["owl"] = ("OWL", _capped(away_from_mean(parts.outliers, block, free, asked, OUTLIER_SPREAD), free, asked))
    made["erk"] = ("Erdős–Rényi kernel", _capped(erk(free, {part: parts.shape[part] for part in free}, asked), free, asked))
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


def _capped(shares: Mapping[str, float], free: Mapping[str, int], asked: float) -> dict[str, float]:
    """No bar above the highest; what that leaves over goes to the others."""
    return redistribute({part: min(share, HIGHEST_SHARE) for part, share in shares.items()}, free, asked)
