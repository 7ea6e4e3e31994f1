"""What a run reports: plain frozen data that becomes report.json. A figure that was not measured is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metrics:
    """A model at one moment. perplexity: exp of the mean negative log-likelihood a token; bits_per_byte: the same loss in bits, spread over the bytes
    of the text predicted, which does not depend on how the text is cut into tokens; accuracy_interval: 95 % Wilson.

    So that two models can be compared pair by pair: window_losses, the mean loss in nats of each window of text; right, a bit for each image, 1 where it was
    told right, packed and in hexadecimal. divergence: token by token of what the dense model wrote (model/measuring/comparing); corruptions: accuracy by kind
    and severity; geometry: of the features before the last layer."""

    perplexity: float | None = None
    bits_per_byte: float | None = None
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    parameters: int | None = None
    nonzero: int | None = None
    size_bytes: int | None = None
    flops_per_token: float | None = None
    latency_ms: float | None = None
    peak_memory_mb: float | None = None
    samples: tuple[str, ...] = ()
    window_losses: tuple[float, ...] = ()
    right: str = ""
    divergence: tuple[dict[str, Any], ...] = ()
    corruptions: dict[str, Any] | None = None
    geometry: dict[str, Any] | None = None


@dataclass(frozen=True)
class LayerRow:
    """One pruned layer, or block where whole blocks go: asked and reached share of zeros (or units), local output error."""

    name: str
    block: int | None
    shape: tuple[int, ...]
    parameters: int
    asked: float
    sparsity: float
    score_mean: float | None = None
    output_error: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything measured in a run. `sparsity`: over the pruned layers and over all parameters. `protocol`: how each figure was taken.

    `formulas`: what a genetic search found, as in formulas.json but with its best alone. `geometry`: as in geometry.json, without its
    comparisons pair by pair. `damage`: as in damage.json, groups without their rows. `heal`: healing on several choices of rows (core.data.heal).
    `cross`: rows and weights pruned together (core.data.cross).
    """

    name: str
    seed: int
    dense: Metrics | None = None
    pruned: Metrics | None = None
    recovered: Metrics | None = None
    sparsity: dict[str, float] = field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = ()
    layers: tuple[LayerRow, ...] = ()
    data: dict[str, Any] | None = None
    formulas: dict[str, Any] | None = None
    prove: tuple[dict[str, Any], ...] = ()
    geometry: dict[str, Any] | None = None
    damage: dict[str, Any] | None = None
    heal: dict[str, Any] | None = None
    cross: dict[str, Any] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def final(report: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """("pruned" or "recovered", its figures) of a report as read from disk: what the last step left. A model may be pruned again after its recovery."""
    steps = report.get("steps") or ({},)
    order = ("pruned", "recovered") if steps[-1].get("kind") in ("prune", "reconstruct") else ("recovered", "pruned")
    moment = next((name for name in order if report.get(name)), "pruned")
    return moment, report.get(moment) or {}
