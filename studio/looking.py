"""What the X-ray and Budget rooms share: the recipe that looks at a model, and the card of one of its layers."""

from __future__ import annotations

from typing import Any

from core.views import slug
from studio import known
from studio.bench import Bench
from studio.charts import xray
from studio.known import Observed
from studio.parts import facts

MOST_FOR_GRADIENTS = 400_000_000  # parameters: a backward pass of more takes too long for a look
_ALWAYS = ("magnitude", "wanda", "relative_importance")
_GRADIENTS = ("taylor", "fisher", "gblm", "pruner_zero")


_UNIT_LEVELS = [0.3, 0.6]  # of a block's units, taken out of it alone


def recipe_for(bench: Bench, source: str, curves: bool, structure: str = "") -> dict[str, Any]:
    """The run that looks at a model: importance and similarity, and with `curves` what each block costs alone: its weights, or its whole units of a
    `structure`."""
    described = known.description(source, bench.workspace.folder) or {}
    depth = ["block_influence"] if described.get("hidden", 1) else []  # undefined where the width changes between blocks
    observe: dict[str, Any] = {"scores": [*depth, "magnitude", "wanda"]}
    if curves:
        observe["curves"] = {"structure": structure, "levels": _UNIT_LEVELS} if structure else {}
    else:
        observe |= {"scores": [*depth, *scores(described)], "ablation": "blocks" not in described.get("refused", {})}
    name = slug(source.removeprefix("builtin:").rstrip("/").rpartition("/")[2]).strip("-.")[:60] or "model"
    return {
        "recipe": 1,
        "name": f"{f'curves-{structure}'.rstrip('-') if curves else 'xray'}-{name}",
        "model": {"source": source},
        "calibration": {"samples": 16 if curves else 64, "tokens": 256},
        "observe": observe,
    }


def scores(described: dict[str, Any]) -> list[str]:
    """The scores of single weights that one look can give: all that read weights and activations, and in a language model of moderate size those of
    gradients too (the engine leaves them out again where the memory does not allow them)."""
    light = described.get("kind", "decoder") == "decoder" and described.get("parameters", 0) <= MOST_FOR_GRADIENTS
    return [*_ALWAYS, *(_GRADIENTS if light else ())]


def statistics(layer: dict[str, Any]) -> dict[str, Any]:
    """What the worker found of a layer's weights: a finding, and the figures below it."""
    times = layer["max_magnitude"] / layer["mean_magnitude"] if layer["mean_magnitude"] else 0.0
    said = f"The largest weight is {times:.0f} times the mean magnitude" if times else "Every weight is zero"
    broken = [("Not a number", f"{layer['not_finite']:,}")] if layer.get("not_finite") else []
    return facts.said(said, badge="measured", facts=[
        ("Mean ± standard deviation", f"{layer['mean']:.2g} ± {layer['std']:.3g}"),
        ("Largest magnitude", f"{layer['max_magnitude']:.3g}"),
        ("Zero already", f"{100 * layer['zeros']:.2g} %"),
        *broken,
        *([("The budget's cut, by magnitude", f"{layer['cut']:.3g}")] if layer.get("cut") is not None else []),
    ])  # fmt: skip


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
        ("The budget removes", f"{100 * share:.1f} %: {round(share * row['parameters']):,} weights" if share else "nothing yet"),
    ]
    return facts.said(name, badge=seen.badge, facts=shown)


def share_of(bench: Bench, name: str) -> float:
    """What the present budget removes from a layer: its own share, else its block's."""
    shares = bench.workspace.read().budget.shares
    return shares.get(name, shares.get(".".join(name.split(".")[:2]), 0.0))
