"""What a model loses without each of its blocks, or without one weight: all others as they are, and everything put back."""

from __future__ import annotations

from math import isfinite, log
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Watcher, follow
from core.model.depth.bypass import block_units, bypassed
from core.model.depth.trials import open_trials
from core.model.loading import LoadedModel
from core.model.measuring.likelihood import token_losses
from core.model.measuring.measure import check_writes, generate
from core.model.measuring.quality import open_check
from core.model.observe import matrix
from core.recipe import Curves

SEQUENCES = 16  # of the calibration text


def without_each_block(loaded: LoadedModel, inputs: Tensor, watcher: Watcher) -> dict[str, Any]:
    """{"dense": loss, "without": {block: loss}} in nats a token (a label); None where a loss is not a number. Raises ModelError where blocks cannot be
    left out, or the model predicts nothing that a loss could be of."""
    if why := loaded.anatomy.refused.get("blocks"):
        raise ModelError(why, "Compare other scores.")
    units = block_units(loaded)
    if len(units) < 2:
        raise ModelError("A model of one block is nothing without it.", "Compare other scores.")
    if loaded.anatomy.kind == "decoder":
        trials = open_trials(loaded, units, inputs[:SEQUENCES], watcher)
        found = dict(follow(trials.evaluate_each(frozenset(), units), "blocks left out", watcher, len(units)))
        return _told(trials.losses[frozenset()], found, {"sequences": min(len(inputs), SEQUENCES), "of": "next token"})
    check = open_check(loaded, Curves())
    dense, without = log(check.measure()), {}
    for name, unit in follow(units.items(), "blocks left out", watcher, len(units)):
        with bypassed(loaded, [unit]), torch.no_grad():
            value = check.measure()
        without[name] = log(value) if isfinite(value) and value > 0 else float("nan")
    return _told(dense, without, {"samples": len(check.inputs), "of": "label"})


def _told(dense: float, without: dict[str, float], protocol: dict[str, Any]) -> dict[str, Any]:
    whole = {name: loss if isfinite(loss) else None for name, loss in without.items()}
    return {"dense": dense, "without": whole, "protocol": protocol}


def without_weight(loaded: LoadedModel, ids: Tensor, layer: str, row: int, column: int, prompt: str) -> dict[str, Any]:
    """{"dense": {text, loss}, "without": {text, loss}, weight}: one weight set to zero for as long as the model writes, then put back. Raises ModelError
    where the model does not write, or the layer has no such weight."""
    found = loaded.anatomy.layer(layer)
    check_writes(loaded)
    weight = matrix(found, loaded.module(found.path).weight.data)
    if not (0 <= row < weight.shape[0] and 0 <= column < weight.shape[1]):
        raise ModelError(
            f"{layer} has no weight [{row}, {column}].", f"It has {weight.shape[0]} rows and {weight.shape[1]} columns."
        )
    before = weight[row, column].clone()
    told = {"weight": float(before), "dense": _heard(loaded, ids, prompt)}
    try:
        weight[row, column] = 0
        return told | {"without": _heard(loaded, ids, prompt)}
    finally:
        weight[row, column] = before


def _heard(loaded: LoadedModel, ids: Tensor, prompt: str) -> dict[str, Any]:
    with torch.no_grad():
        loss = float(torch.cat([token_losses(loaded.model, row[None]) for row in ids.to(loaded.device)]).double().mean())
    return {"text": generate(loaded, [prompt])[0], "loss": loss if isfinite(loss) else None}
