"""What the small form of the Compare room says, as a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import catalogue, sweep
from core.errors import RecipeError

_MEASURES: dict[str, dict[str, Any]] = {
    "image_classifier": {"accuracy": {}},
    "decoder": {"perplexity": {"samples": 32, "tokens": 256}},
}
CHOOSERS = [(card.label, card.name) for card in catalogue.of_kind("selector") if card.name in
             ("random", "k_center", "facility_location", "herding", "density_quotas")]  # fmt: skip
CHOOSERS += [(card.label, card.name) for card in catalogue.of_kind("data_score") if card.name in ("perplexity", "typicality")]


def form_yaml(model: str, methods: list[str], typed: str, kind: str = "decoder", choosers: Sequence[str] = ()) -> str:
    """What the form says, as a sweep. kind: the model's, decides what is measured; choosers: what chooses the calibration windows, a cell each. Raises
    RecipeError where a share is no number between 0 and 100."""
    shares = []
    for word in typed.replace(";", ",").split(","):
        try:
            share = float(word)
        except ValueError:
            share = -1.0
        if not 0 < share < 100:
            raise RecipeError(
                f"{word.strip()[:20]!r} is no share between 0 and 100 %.", "Write numbers with commas between: 30, 50, 70."
            )
        shares.append(round(share / 100, 4))
    if not methods:
        raise RecipeError("No method was chosen.", "Choose one or more.")
    short = model.removeprefix("builtin:").rstrip("/").split("/")[-1]
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in short).strip("._-") or "model"
    return sweep.to_yaml(
        {
            "recipe": 1, "name": f"{name[:40]}-sweep", "model": {"source": model}, "calibration": {"samples": 32, "tokens": 256},
            "steps": [{"prune": {"method": methods[0], "sparsity": shares[0]}}],
            **({"measure": _MEASURES[kind]} if kind in _MEASURES else {}),
            "sweep": {
                "steps.0.prune.method": methods,
                "steps.0.prune.sparsity": shares,
                **({"calibration.choose.method": list(choosers)} if choosers and kind == "decoder" else {}),
            },
        }
    )  # fmt: skip
