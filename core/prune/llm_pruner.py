from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Annotated, Any

import torch
from torch import Tensor

from core.method import Paper, Param, score

_NEEDS = {
    "vector": {"gradient"},
    "first order": {"gradient"},
    "second order": {"gradient_square"},
    "mixed": {"gradient", "gradient_square"},
}


def _needs(params: dict[str, Any]) -> set[str]:
    return _NEEDS[params.get("estimate", "mixed")]


@score(
    "llm_pruner",
    label="LLM-Pruner (group Taylor)",
    paper=Paper("Ma, Fang, Wang", 2023, "LLM-Pruner: On the Structural Pruning of Large Language Models", "2305.11627"),
    needs=_NEEDS["mixed"],
    needs_of=_needs,
    compare="layer",
    structures=("neurons", "heads", "query_heads"),
    place="criterion/gradients",
)
def llm_pruner(
    parts: tuple[Mapping[str, Tensor], ...],
    *,
    estimate: Annotated[str, Param("Loss estimated by", choices=tuple(_NEEDS))] = "mixed",
    together: Annotated[str, Param("Layers of a unit", choices=("sum", "max", "product", "last"))] = "sum",
) -> Tensor:
    """Keep neurons and heads whose coupled weights, all together, the loss would miss most.

    parts: for each layer that a unit runs through, weight w, gradient g (mean over calibration sequences) and mean squared gradient F, each (units,
    entries, m), of the dense model. A layer's entry is worth, over its m weights: "vector" |sum w g|; "first order" sum |w g|; "second order"
    sum w^2 F; "mixed" sum |w g - w^2 F / 2|. Layers with more entries than others (queries that share a key) are folded onto theirs; then, entry by
    entry, the layers' values are added, or their largest, their product, or the last layer's (the one that reads the unit) is taken; and a unit
    is worth the sum of its entries. Returns (units,). "first order" with "sum" is what taylor gives units; no other choice is.

    Intuition: a unit's weights go together, so what the loss loses is to be estimated for the group, not for each weight by itself.
    When it lies: estimates by Taylor's series are for small changes, and a whole head is none; "vector" lets weights of opposite effect cancel, and
    forgives what a sum of sizes would not. "product" makes a unit worthless where one layer of it is. Ten short sequences, as in the paper, are few.
    Deviations from the paper: its code gives "mixed" the second-order term of the squared gradients, as here, and defaults to "first order"; its first
    four and last two blocks stay (say so with `protect`); a head goes with those that share its keys, where the code folds channels over all heads;
    for "product" each layer's values are first divided by their mean, which changes no order. No LoRA follows by itself: add a recover step.
    """
    entries = gcd(*(part["weight"].shape[1] for part in parts))
    values = torch.stack([_worth(part, estimate).unflatten(1, (-1, entries)).sum(1) for part in parts])
    if together == "product":
        joined = (values / values.mean((1, 2), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)).prod(0)
    else:
        joined = {"sum": lambda: values.sum(0), "max": lambda: values.amax(0), "last": lambda: values[-1]}[together]()
    return joined.sum(1)


def _worth(part: Mapping[str, Tensor], estimate: str) -> Tensor:
    """(units, entries) of one layer, float64."""
    weight = part["weight"].double()
    if estimate == "second order":
        return (weight.square() * part["gradient_square"]).sum(2)
    slope = weight * part["gradient"]
    if estimate == "vector":
        return slope.sum(2).abs()
    if estimate == "mixed":
        slope = slope - weight.square() * part["gradient_square"] / 2
    return slope.abs().sum(2)
