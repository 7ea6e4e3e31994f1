"""What there is to see in a model without changing it: importance of layers and blocks, block similarity, cost curves for the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError, ResourceError
from core.events import Progress, Watcher
from core.method import Method, get
from core.model import blocks
from core.model.ablation import without_each_block
from core.model.anatomy import Block
from core.model.bypass import answer_in_tuples, starting_at
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.masks import decide, generator
from core.model.observe import have, matrix, observe_block, of_kind, statistics_of, stream
from core.model.quality import open_check
from core.model.redundancy import Borders
from core.model.source import fingerprint
from core.recipe import Curves, Observe


def observe_model(loaded: LoadedModel, ask: Observe, inputs: Callable[[], Tensor], seed: int, watcher: Watcher) -> dict[str, Any]:
    """One streaming pass over the calibration inputs, then what is asked besides. Returns what observations.json holds.

    A score whose gradients this model or machine does not allow is left out, where others remain; `left_out` says why.
    """
    calibration, borders, left_out = inputs(), Borders(len(loaded.anatomy.blocks)), dict[str, str]()
    scores, gradients = _with_gradients(loaded, [get("score", name) for name in ask.scores], calibration, watcher, left_out)
    of_layers = [method for method in scores if "unstructured" in method.card.structures]
    of_blocks = [method for method in scores if "blocks" in method.card.structures and method not in of_layers]
    out_blocks, out_layers = [], []
    for block, module, hidden, extra in stream(loaded, calibration, watcher, "observe"):
        borders.take(hidden, block.index)
        statistics, of_block = observe_block(
            loaded, block, module, hidden, extra, statistics_of(scores), watcher, keep_outputs=True
        )
        given = {layer.name: statistics[layer.name] | gradients.pop(layer.name, {}) for layer in block.layers}
        rows = [_layer_row(loaded, block, layer, of_layers, given[layer.name], seed) for layer in block.layers]
        figures = {method.card.name: float(method(have(None, (), generator(seed, block.name), of_block))) for method in of_blocks}
        told = {"name": block.name, "index": block.index, "parameters": block.parameters}
        out_blocks.append({**told, "scores": figures | _block_means(rows, of_layers)})
        out_layers += rows
        if block.index == len(loaded.anatomy.blocks) - 1:
            borders.take(hidden, block.index + 1)
    return {
        "model": {"name": loaded.name, "fingerprint": fingerprint(loaded.location), "parameters": loaded.anatomy.parameters, "kind": loaded.anatomy.kind},
        "protocol": {"sequences": len(calibration), "shape": list(calibration.shape[1:]), "tokens_compared": borders.tokens()},
        "blocks": out_blocks,
        "layers": out_layers,
        "similarity": borders.similarity() if ask.similarity else None,
        "runs": borders.runs(loaded.anatomy.kind == "decoder") if ask.similarity else None,
        "ablation": _ablation(loaded, calibration, watcher, left_out) if ask.ablation else None,
        "left_out": left_out,
        "curves": measure_curves(loaded, ask.curves, calibration, seed, watcher) if ask.curves else None,
    }  # fmt: skip


def _with_gradients(
    loaded: LoadedModel, scores: Sequence[Method], calibration: Tensor, watcher: Watcher, left_out: dict[str, str]
) -> tuple[list[Method], dict[str, dict[str, Tensor]]]:
    """The scores that can be had, and the gradient statistics that they need."""
    try:
        return list(scores), gradients_of(loaded, scores, calibration, watcher)
    except (ModelError, ResourceError) as error:
        rest = [method for method in scores if not of_kind(method.needed(), "gradient")]
        if not rest:
            raise
        left_out |= {method.card.name: error.problem for method in scores if method not in rest}
        watcher.say(Progress("gradients", kind="note", text=f"Left out {', '.join(left_out)}: {error.problem}"))
        return rest, {}


def _ablation(loaded: LoadedModel, calibration: Tensor, watcher: Watcher, left_out: dict[str, str]) -> dict[str, Any] | None:
    try:
        return without_each_block(loaded, calibration, watcher)
    except ModelError as error:
        left_out["ablation"] = error.problem
        return None


def _layer_row(
    loaded: LoadedModel, block: Block, layer: Any, scores: Sequence[Method], statistics: dict[str, Tensor], seed: int
) -> dict[str, Any]:
    weight = matrix(layer, loaded.module(layer.path).weight.detach()).float()
    given = have(weight, tuple(weight.shape), generator(seed, layer.name), statistics)
    means = {method.card.name: float(method(given).mean()) for method in scores}
    return {
        "name": layer.name,
        "block": block.name,
        "role": layer.role,
        "shape": list(layer.shape),
        "parameters": layer.parameters,
        "scores": means,
    }


def _block_means(rows: Sequence[dict[str, Any]], scores: Sequence[Method]) -> dict[str, float]:
    """The mean score of a block's weights: its layers' means weighted by their size."""
    total = max(sum(row["parameters"] for row in rows), 1)
    return {m.card.name: sum(row["scores"][m.card.name] * row["parameters"] for row in rows) / total for m in scores}


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
