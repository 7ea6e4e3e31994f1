"""Cost curves for the budget: what the model's quality loses when a part of it alone is pruned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.events import Progress, Watcher
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Block
from core.model.bypass import answer_in_tuples, starting_at
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.masks import decide, generator
from core.model.observe import have, matrix, observe_block, statistics_of, stream
from core.model.quality import open_check
from core.recipe import Curves


def measure_curves(loaded: LoadedModel, ask: Curves, calibration: Tensor, seed: int, watcher: Watcher) -> dict[str, Any]:
    """Prune each block alone at each level and measure the quality that is left; weights are put back after each.

    The evaluation sequences wait at the entrance of the block, so only the rest of the model runs. Costs are the log of quality over dense.
    """
    method = get("score", ask.method)
    check = open_check(loaded, ask)
    watcher.check()
    dense = check.measure()
    levels = sorted({level for level in ask.levels if 0 < level < 1})
    quality: dict[str, list[float]] = {}
    statistics, gradients = {}, gradients_of(loaded, [method], calibration, watcher)
    for block, module, hidden, extra in stream(loaded, calibration, watcher, "observe for curves"):
        found = observe_block(loaded, block, module, hidden, extra, statistics_of([method]), watcher, keep_outputs=True)[0]
        statistics |= {name: of_layer | gradients.get(name, {}) for name, of_layer in found.items()}
    watcher.say(Progress("curves", 0, len(loaded.anatomy.blocks) * len(levels)))
    states, extras = blocks.enter(loaded, check.inputs, batch=check.batch), blocks.arguments(loaded, check.inputs)
    in_tuples = answer_in_tuples(loaded, states, extras)
    for block in loaded.anatomy.blocks:
        quality[block.name] = [dense]
        with loaded.block(block.index) as module:
            for level in levels:
                watcher.check()
                with (
                    _pruned_alone(loaded, block, ask, method, statistics, level, seed),
                    starting_at(loaded, block.index, states, in_tuples),
                ):
                    quality[block.name].append(check.measure())
                done = block.index * len(levels) + levels.index(level) + 1
                watcher.say(Progress("curves", done, len(loaded.anatomy.blocks) * len(levels)))
            blocks.advance(module, states, extras[block.index], watcher)
    cost = {name: [0.0, *(_log_ratio(value, dense) for value in values[1:])] for name, values in quality.items()}
    return {"method": ask.method, "structure": ask.structure, "metric": check.metric, "levels": [0.0, *levels], "dense": dense,
            "quality": quality, "cost": cost, "protocol": check.protocol}  # fmt: skip


def _log_ratio(value: float, dense: float) -> float:
    return float(torch.tensor(value / dense).log())


@contextmanager
def _pruned_alone(loaded: LoadedModel, block: Block, ask: Curves, method: Method, statistics: dict[str, dict[str, Tensor]], level: float,
                  seed: int) -> Iterator[None]:  # fmt: skip
    """One block pruned, its weights put back afterwards."""
    saved = {layer.path: loaded.module(layer.path).weight.detach().clone() for layer in block.layers}
    try:
        for layer in block.layers:
            weight = matrix(layer, loaded.module(layer.path).weight.data)
            given = have(weight.float(), tuple(weight.shape), generator(seed, layer.name), statistics.get(layer.name, {}))
            weight.masked_fill_(~decide(method(given), ask.structure, level, method.card.compare, layer.name), 0.0)
        yield
    finally:
        for path, weight in saved.items():
            loaded.module(path).weight.data.copy_(weight)
