"""What there is to see in a model without changing it: importance of layers and blocks, block similarity, cost curves for the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from core.events import Watcher
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Block
from core.model.curves import measure_curves
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.masks import generator
from core.model.observe import have, matrix, observe_block, statistics_of, stream
from core.model.source import fingerprint
from core.recipe import Observe

TOKENS_COMPARED = 512  # hidden states kept per block border for the similarity: memory stays bounded whatever the calibration set


def observe_model(loaded: LoadedModel, ask: Observe, inputs: Callable[[], Tensor], seed: int, watcher: Watcher) -> dict[str, Any]:
    """One streaming pass over the calibration inputs, then the curves where asked. Returns what observations.json holds."""
    scores = [get("score", name) for name in ask.scores]
    of_layers = [method for method in scores if "unstructured" in method.card.structures]
    of_blocks = [method for method in scores if "blocks" in method.card.structures and method not in of_layers]
    calibration, samples = inputs(), _Samples()
    gradients = gradients_of(loaded, scores, calibration, watcher)
    out_blocks, out_layers = [], []
    for block, module, hidden, extra in stream(loaded, calibration, watcher, "observe"):
        samples.take(hidden)
        statistics, of_block = observe_block(
            loaded, block, module, hidden, extra, statistics_of(scores), watcher, keep_outputs=True
        )
        given = {layer.name: statistics[layer.name] | gradients.pop(layer.name, {}) for layer in block.layers}
        rows = [_layer_row(loaded, block, layer, of_layers, given[layer.name], seed) for layer in block.layers]
        figures = {method.card.name: float(method(have(None, (), generator(seed, block.name), of_block))) for method in of_blocks}
        out_blocks.append(
            {
                "name": block.name,
                "index": block.index,
                "parameters": block.parameters,
                "scores": figures | _block_means(rows, of_layers),
            }
        )
        out_layers += rows
        if block.index == len(loaded.anatomy.blocks) - 1:
            samples.take(hidden)
    return {
        "model": {"name": loaded.name, "fingerprint": fingerprint(loaded.location), "parameters": loaded.anatomy.parameters, "kind": loaded.anatomy.kind},
        "protocol": {"sequences": len(calibration), "shape": list(calibration.shape[1:]), "tokens_compared": samples.count()},
        "blocks": out_blocks,
        "layers": out_layers,
        "similarity": samples.similarity() if ask.similarity else None,
        "curves": measure_curves(loaded, ask.curves, calibration, seed, watcher) if ask.curves else None,
    }  # fmt: skip


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


class _Samples:
    """Hidden states of the same few hundred tokens at every border between blocks."""

    def __init__(self) -> None:
        self.at: list[Tensor] = []

    def take(self, hidden: blocks.Hidden) -> None:
        """Every k-th token of each batch, the same at each border (where a border has another shape, nothing compares with it)."""
        flat = [batch.flatten(0, -2) if batch.dim() == 3 else batch.flatten(1) for batch in hidden]
        step = max(sum(map(len, flat)) // TOKENS_COMPARED, 1)
        self.at.append(torch.cat([batch[::step] for batch in flat])[:TOKENS_COMPARED].float().cpu())

    def count(self) -> int:
        return len(self.at[0]) if self.at else 0

    def similarity(self) -> dict[str, Any]:
        """Mean over tokens of the cosine between the hidden states at every two borders; None where their widths differ."""
        unit = [torch.nn.functional.normalize(states, dim=-1) for states in self.at]
        values = [[float((a * b).sum(-1).mean()) if a.shape == b.shape else None for b in unit] for a in unit]
        return {"measure": "cosine", "labels": ["input", *(str(i) for i in range(len(unit) - 1))], "values": values}
