"""What there is to see in a model without changing it: importance of layers and blocks, block similarity, cost curves for the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from core.errors import ModelError, ResourceError
from core.events import Progress, Watcher
from core.method import Method, get
from core.model.anatomy import Block
from core.model.depth.ablation import without_each_block
from core.model.files.source import fingerprint
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.looking.curves import measure_curves
from core.model.looking.redundancy import Borders
from core.model.looking.unit_prices import unit_prices
from core.model.masks import generator
from core.model.observe import have, matrix, observe_block, of_kind, statistics_of, stream
from core.recipe import Observe


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
        "units": unit_prices(loaded, watcher) if ask.curves else None,
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
