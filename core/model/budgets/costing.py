"""Budgets against the real model: its figure now, what each part gives back when it goes, and the figure that was reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from core.cost import COSTS, MASKS, Owed, Price, said
from core.errors import ModelError, RecipeError
from core.events import Watcher
from core.model.anatomy import Block, Layer
from core.model.budgets.block_latency import TimedBlocks
from core.model.depth.bypass import Unit
from core.model.loading import LoadedModel
from core.model.measuring.counts import (
    attention_flops,
    check_in_memory,
    flops_per_token,
    keys_seen,
    kv_bytes,
    patches,
    positions,
    weights_a_token,
)
from core.model.measuring.latency import latency
from core.model.measuring.lean import counts_of
from core.model.mixture.experts import ExpertLayer
from core.model.pruning.pruned import Pruned
from core.model.units.groups import QUERY_HEADS, Group
from core.recipe import Prune, tile_size

_ANOTHER = "Choose another cost, such as parameters."


def owed(loaded: LoadedModel, step: Prune, watcher: Watcher) -> Owed | None:
    """What the step's budget asks of this model; None where it has none. Raises RecipeError or ModelError where that cannot be."""
    budget = step.budget
    if budget is None:
        return None
    structure = "tiles" if tile_size(step.structure) else step.structure
    tokens = budget.tokens or (min(128, loaded.anatomy.context or 128) if budget.cost == "latency" else 512)
    protocol: dict[str, Any] = {}
    if budget.cost in ("flops", "kv_bytes", "latency") and loaded.anatomy.kind != "image_classifier":
        protocol["tokens"] = tokens
    if budget.cost in ("kv_bytes", "latency"):
        protocol["batch"] = budget.batch
    if budget.cost == "latency":
        protocol |= {
            "repeats": budget.repeats,
            "statistic": "lower quartile",
            "threads": torch.get_num_threads(),
            "device": str(loaded.device),
        }
    asked = Owed(budget.cost, structure, 0.0, 0.0, protocol)
    before = figure(loaded, asked, watcher, "dense")
    target = before * (1 - budget.remove) if budget.remove is not None else budget.at_most
    if target >= before:
        raise RecipeError(
            f"The budget allows {said(budget.cost, target)}, and there are no more than {said(budget.cost, before)}: nothing would go.",
            "Give a smaller at_most, or leave the step out.",
        )
    return replace(asked, before=before, target=target)


def figure(loaded: LoadedModel, asked: Owed, watcher: Watcher, stage: str) -> float:
    """The model's cost as it stands. Where masks set weights to zero, parameters and operations are those of weights that are not zero."""
    masked, at = asked.structure in MASKS, asked.protocol
    if asked.cost in ("parameters", "bytes"):
        counted = counts_of(loaded)
        return float(counted.size_bytes if asked.cost == "bytes" else counted.nonzero if masked else counted.parameters)
    check_in_memory(loaded)
    if asked.cost == "latency":
        return latency(loaded, at["batch"], at.get("tokens", 0), at["repeats"], watcher, f"latency: {stage}").low_ms
    if asked.cost == "kv_bytes":
        found: float | None = kv_bytes(loaded, at.get("tokens", 0), at["batch"])
        why = "keeps no keys and values"
    else:
        found, why = flops_per_token(loaded, nonzero=masked, context=at.get("tokens", 512)), "has no known number of operations"
    if not found:
        raise ModelError(f"{loaded.name} {why}, so no budget in {COSTS[asked.cost][0]} can be set.", _ANOTHER)
    return float(found)


def told(done: Pruned, asked: Owed, watcher: Watcher) -> Pruned:
    """What the report says: the figure that the budget asked for, and the one that was reached, counted (or measured) on the pruned model."""
    reached = figure(done.loaded, asked, watcher, "pruned")
    entry = {"cost": asked.cost, "before": asked.before, "target": asked.target, "reached": reached, **asked.protocol}
    if asked.cost == "latency":  # another moment of this machine would decide otherwise; a budget by hand with these repeats it
        entry["shares"] = {row.name: row.sparsity for row in done.rows}
    return replace(done, said={**done.said, "budget": entry})


def layer_prices(loaded: LoadedModel, layers: Sequence[Layer], by_row: bool, asked: Owed) -> dict[str, Price]:
    """What each layer's weights take off when they become zero. by_row: each row loses as many, so whole columns' worths go at a time."""
    places = _places(loaded, asked)
    prices = {}
    for layer in layers:
        weights = math.prod(layer.shape)
        each = 1.0 if asked.cost == "parameters" else 2.0 * places.get(loaded.module(layer.path), 1)
        with loaded.holding(layer):
            zeros = weights - int(torch.count_nonzero(loaded.module(layer.path).weight))
        steps = weights // layer.shape[0] if by_row else weights
        free = zeros * steps / weights  # zeros that are there already go first, and give nothing back
        full = (weights - zeros) * each
        curve = ((0.0, float(steps)), (0.0, full)) if not zeros else ((0.0, free, float(steps)), (0.0, 0.0, full))
        prices[layer.name] = Price(steps, steps, *curve) if zeros < weights else Price.linear(steps, 0.0)
    return prices


def group_prices(loaded: LoadedModel, groups: Sequence[Group], asked: Owed, watcher: Watcher) -> dict[str, Price]:
    """What the neurons or heads of each group take off. One of each stays."""
    if asked.cost == "latency":
        timed = TimedBlocks(loaded, asked, watcher)
        return {group.name: timed.group(group) for group in groups}
    places = _places(loaded, asked)
    return {
        group.name: Price.linear(group.steps, group.alike * _unit_cost(loaded, group, asked, places), group.steps - 1)
        for group in groups
    }


def _unit_cost(loaded: LoadedModel, group: Group, asked: Owed, places: Mapping[nn.Module, int]) -> float:
    """One unit's share of the figure: its rows and columns, with their biases; the keys, values and scores of a head."""
    block = loaded.anatomy.blocks[group.block]
    layers, heads = (
        {layer.path: layer for layer in block.layers},
        block.attention if group.structure in ("heads", QUERY_HEADS) else None,
    )
    stored = operations = 0.0
    for part in group.everything:
        shape, module, entries = layers[part.path].shape, loaded.module(part.path), part.index.shape[1]
        weights = entries * math.prod(shape) / shape[part.axis]
        stored += weights + (entries if part.axis == 0 and module.bias is not None else 0)
        operations += 2 * weights * places.get(module, 1)
    if asked.cost == "parameters":
        return stored
    if asked.cost == "bytes":
        return stored * loaded.source_dtype.itemsize
    if asked.cost == "kv_bytes":
        return 2.0 * heads.head_dim * loaded.source_dtype.itemsize * asked.protocol["tokens"] * asked.protocol["batch"]
    return operations + (_attention(loaded, block, asked, places) / group.units if heads else 0.0)


def _attention(loaded: LoadedModel, block: Block, asked: Owed, places: Mapping[nn.Module, int]) -> float:
    if places:
        seen = patches(loaded, block, dict(places))
        return attention_flops(block.attention, seen, seen)
    return attention_flops(block.attention, 1, keys_seen(loaded.anatomy.kind, asked.protocol["tokens"]))


def _places(loaded: LoadedModel, asked: Owed) -> dict[nn.Module, int]:
    """How often each layer's weights are applied to one image; empty for text, where it is once a token."""
    return positions(loaded) if asked.cost == "flops" and loaded.anatomy.kind == "image_classifier" else {}


def expert_price(loaded: LoadedModel, layers: Sequence[ExpertLayer], asked: Owed) -> Price:
    """What one expert fewer in every block takes off: its matrices and its row of the router."""
    each = 0.0
    for layer in layers:
        rows = [p for p in loaded.module(layer.router).parameters(recurse=False) if len(p) == layer.count]
        own = [p for p in loaded.module(layer.path).parameters() if len(p) == layer.count]
        each += sum(parameter.numel() for parameter in (*rows, *own)) / layer.count
    each *= loaded.source_dtype.itemsize if asked.cost == "bytes" else 1
    return Price.linear(layers[0].count, each, layers[0].count - 1)


def depth_costs(loaded: LoadedModel, units: Iterable[Unit], asked: Owed, watcher: Watcher) -> dict[str, float]:
    """What each block, or attention or MLP of one, takes off when it goes."""
    if asked.cost == "latency":
        timed = TimedBlocks(loaded, asked, watcher)
        return {unit.name: timed.unit(unit) for unit in units}
    places = _places(loaded, asked)
    return {unit.name: _unit_off(loaded, unit, asked, places) for unit in units}


def _unit_off(loaded: LoadedModel, unit: Unit, asked: Owed, places: Mapping[nn.Module, int]) -> float:
    if asked.cost in ("parameters", "bytes"):
        return float(unit.parameters * (loaded.source_dtype.itemsize if asked.cost == "bytes" else 1))
    block = loaded.anatomy.blocks[unit.block]
    attends = block.attention is not None and not unit.name.endswith(".mlp")
    if asked.cost == "kv_bytes":
        kept = block.attention.kv_heads * block.attention.head_dim if attends else 0
        return 2.0 * kept * loaded.source_dtype.itemsize * asked.protocol["tokens"] * asked.protocol["batch"]
    modules = [loaded.module(path) for path in (unit.gone or [unit.path])]
    if places:
        weights = sum(
            2.0 * part.weight.numel() * places[part] for module in modules for part in module.modules() if part in places
        )
    else:
        weights = 2.0 * sum(weights_a_token(module, whole=loaded.model) for module in modules)
    return weights + (_attention(loaded, block, asked, places) if attends else 0.0)
