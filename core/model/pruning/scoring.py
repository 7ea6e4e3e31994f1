"""One layer's scores, its mask at a share, and what that costs its output: shared by allocation, pruning and rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core.method import Method, get
from core.model.anatomy import Layer
from core.model.loading import LoadedModel
from core.model.masks import generator
from core.model.observe import have, matrix

STAND_IN = "wanda"  # whose scores an allocator gets where the step's method is a solver, which has none: same inputs, N:M or not


def criterion(method: Method, params: Mapping[str, Any]) -> tuple[Method, Mapping[str, Any]]:
    """The score, with its parameters, that an allocator hears: the step's own, or the stand-in where that is a solver."""
    return (method, params) if method.card.kind == "score" else (get("score", STAND_IN), {})


def layer_weight(loaded: LoadedModel, layer: Layer) -> Tensor:
    """A layer's weight as float32 (out, in)."""
    with loaded.holding(layer):
        return matrix(layer, loaded.module(layer.path).weight.detach()).float()


def given_to_score(loaded: LoadedModel, layer: Layer, statistics: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """What a score of this layer may ask for by name."""
    weight = layer_weight(loaded, layer)
    return have(weight, tuple(weight.shape), generator(seed, layer.name), statistics)


def layer_scores(
    loaded: LoadedModel, layer: Layer, method: Method, params: Mapping[str, Any], statistics: Mapping[str, Tensor], seed: int
) -> Tensor:
    """Importances of a layer's weights, (out, in)."""
    return method(given_to_score(loaded, layer, statistics, seed), params)


def output_error(before: Tensor, after: Tensor, gram: Tensor) -> float:
    """How much of a layer's output on the calibration inputs is lost: |(before - after) X|^2 / |before X|^2, from gram = X X^T. Weights (out, in)."""
    gram, lost = gram.to(before.device, torch.float32), before - after
    whole = float((before @ gram).mul_(before).sum(dtype=torch.float64))
    return float((lost @ gram).mul_(lost).sum(dtype=torch.float64)) / whole if whole > 0 else 0.0
