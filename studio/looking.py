"""What the X-ray and Budget rooms share: the recipe that looks at a model, and the card of one of its layers."""

from __future__ import annotations

from typing import Any

from core.views import slug
from studio import facts, known
from studio.bench import Bench
from studio.charts import xray
from studio.known import Observed


def recipe_for(bench: Bench, source: str, curves: bool) -> dict[str, Any]:
    """The run that looks at a model: importance and similarity, and with `curves` what each block costs alone."""
    described = known.description(source, bench.workspace.folder) or {}
    depth = ["block_influence"] if described.get("hidden", 1) else []  # undefined where the width changes between blocks
    observe: dict[str, Any] = {"scores": [*depth, "magnitude", "wanda"]}
    if curves:
        observe["curves"] = {}
    name = slug(source.removeprefix("builtin:").rstrip("/").rpartition("/")[2]).strip("-.")[:60] or "model"
    return {
        "recipe": 1,
        "name": f"{'curves' if curves else 'xray'}-{name}",
        "model": {"source": source},
        "calibration": {"samples": 16 if curves else 64, "tokens": 256},
        "observe": observe,
    }


def protocol(seen: Observed) -> str:
    """Where the pictures come from, in a sentence."""
    told = seen.data.get("protocol") or {}
    shape = " × ".join(str(size) for size in [told.get("sequences"), *(told.get("shape") or [])] if size)
    origin = f"Run {seen.run}" if seen.run else "The figures that come with Prunarium"
    return f"{origin}: calibration inputs {shape}; hidden states compared at {told.get('tokens_compared', '?')} places."


def card(bench: Bench, seen: Observed, name: str) -> dict[str, Any] | None:
    """A layer's facts: shape, size, scores, and what the present budget takes from it. None for a layer that was not observed."""
    row = next((row for row in seen.data["layers"] if row["name"] == name), None)
    if row is None:
        return None
    total = seen.data["model"]["parameters"]
    share = share_of(bench, name)
    shown = [
        ("Role", row["role"]),
        ("Shape (outputs × inputs)", " × ".join(map(str, row["shape"]))),
        ("Parameters", f"{row['parameters']:,}"),
        ("Share of the model", f"{100 * row['parameters'] / max(total, 1):.1f} %"),
        *(
            (f"{xray.label(metric)} ({xray.unit(metric)})", f"{value:.4g}")
            for metric, value in row["scores"].items()
            if value is not None
        ),
        ("The budget removes", f"{100 * share:.1f} %" if share else "nothing yet"),
    ]
    return facts.said(name, badge=seen.badge, facts=shown)


def share_of(bench: Bench, name: str) -> float:
    """What the present budget removes from a layer: its own share, else its block's."""
    shares = bench.workspace.read().budget.shares
    return shares.get(name, shares.get(".".join(name.split(".")[:2]), 0.0))
