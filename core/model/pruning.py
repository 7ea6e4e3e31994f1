"""The prune step: score -> allocate -> decide -> apply, block by block, with the pruned activations propagated as the papers do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from core.errors import ModelError, RecipeError
from core.events import Watcher, follow
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Anatomy, Block, Layer
from core.model.loading import LoadedModel
from core.model.masks import PackedMask, decide, generator, nearest
from core.model.observe import have, matrix, observe_block, statistics_of, stream
from core.model.surgery import remove_blocks
from core.recipe import Prune, n_of_m
from core.report import LayerRow


@dataclass(frozen=True)
class Pruned:
    """What a prune step did. masks: {module path: kept}; removed: indices of blocks taken out; scores: small summaries for the run folder."""

    loaded: LoadedModel
    masks: Mapping[str, PackedMask] = field(default_factory=dict)
    removed: tuple[int, ...] = ()
    rows: tuple[LayerRow, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def prune(loaded: LoadedModel, step: Prune, inputs: Callable[[], Tensor], seed: int, watcher: Watcher) -> Pruned:
    """Carry out one prune step on the model in memory.

    inputs() gives the calibration ids or pixels, asked for only where the method needs activations. Raises RecipeError or ModelError before
    any weight has changed where the step does not fit the model.
    """
    if step.structure in loaded.anatomy.refused:
        raise ModelError(
            loaded.anatomy.refused[step.structure], "Choose a structure that this model has; the Model room lists them."
        )
    method = get("score", step.method)
    if step.structure == "blocks":
        return _prune_blocks(loaded, step, method, inputs, seed, watcher)
    layers = chosen_layers(loaded.anatomy, step.only, step.protect)
    shares = _shares(loaded, step, method, layers, inputs, seed, watcher)
    if statistics_of([method]):
        return _prune_streaming(loaded, step, method, shares, inputs(), seed, watcher)
    found = _Found()
    for layer in follow(layers, f"prune: {step.method}", watcher):
        _prune_layer(loaded, layer, step, method, shares[layer.name], {}, seed, found)
    return found.pruned(loaded)


def chosen_layers(anatomy: Anatomy, only: Sequence[str], protect: Sequence[str]) -> list[Layer]:
    """The layers a step touches. `only` and `protect`: layer or block names, or patterns with * ? [ ]. A name that fits nothing is an error."""

    def fits(layer: Layer, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) or name.startswith(pattern + ".") for name in (layer.name, layer.path))

    for pattern in (*only, *protect):
        if not any(fits(layer, pattern) for layer in anatomy.layers):
            names = ", ".join(layer.name for layer in anatomy.layers[:3])
            raise RecipeError(f"No layer of this model fits {pattern!r}.", f"Layers are called {names}, ...")
    layers = [layer for layer in anatomy.layers if not only or any(fits(layer, pattern) for pattern in only)]
    layers = [layer for layer in layers if not any(fits(layer, pattern) for pattern in protect)]
    if not layers:
        raise RecipeError("The step leaves no layer to prune: everything is protected.", "Shorten `protect`, or widen `only`.")
    return layers


def by_hand(shares: Mapping[str, float], anatomy: Anatomy, layers: Sequence[Layer]) -> dict[str, float]:
    """{layer or block name: share} -> {layer name: share}. A layer's own name wins over its block's; what is not named stays whole."""
    known = {layer.name for layer in anatomy.layers} | {block.name for block in anatomy.blocks}
    for name in shares:
        if name not in known:
            raise RecipeError(
                f"The budget names {name!r}, which this model does not have.", f"It has {', '.join(sorted(known)[:4])}, ..."
            )
    block_name = {block.index: block.name for block in anatomy.blocks}
    return {layer.name: shares.get(layer.name, shares.get(block_name.get(layer.block, ""), 0.0)) for layer in layers}


def _shares(loaded: LoadedModel, step: Prune, method: Method, layers: Sequence[Layer], inputs: Callable[[], Tensor], seed: int,
            watcher: Watcher) -> dict[str, float]:  # fmt: skip
    """Allocate: the share that each layer gives."""
    if n_of_m(step.structure):
        if step.allocation.method != "uniform":
            raise RecipeError(
                f"{step.structure} fixes the share of every layer.", "Leave allocation out, or choose structure: unstructured."
            )
        for layer in layers:  # refuse before anything has changed
            decide(torch.zeros(1, layer_columns(layer)), step.structure, step.sparsity, "row", layer.name)
    if step.allocation.method == "by_hand":
        return by_hand(step.allocation.shares, loaded.anatomy, layers)
    allocator = get("allocator", step.allocation.method)
    given: dict[str, object] = {"sizes": {layer.name: layer.parameters for layer in layers}, "sparsity": step.sparsity}
    if "scores" in allocator.needs:
        statistics = _dense_statistics(loaded, method, inputs, watcher)
        by_name = {layer.name: layer for layer in layers}

        def scores(name: str) -> Tensor:
            return _scores(loaded, by_name[name], step, method, statistics.get(name, {}), seed).flatten().cpu()

        given["scores"] = scores
    return allocator(given, step.allocation.params)


def layer_columns(layer: Layer) -> int:
    """Inputs of a layer's weight as a matrix."""
    return layer.parameters // layer.shape[0]


def _dense_statistics(
    loaded: LoadedModel, method: Method, inputs: Callable[[], Tensor], watcher: Watcher
) -> dict[str, dict[str, Tensor]]:
    """Statistics of every layer of the model as it stands, for scores that are compared across layers."""
    names, found = statistics_of([method]), {}
    if names:
        for block, module, hidden, extra in stream(loaded, inputs(), watcher, "observe"):
            found |= observe_block(loaded, block, module, hidden, extra, names, watcher, keep_outputs=True)[0]
    return found


def _prune_streaming(loaded: LoadedModel, step: Prune, method: Method, shares: Mapping[str, float], inputs: Tensor, seed: int,
                     watcher: Watcher) -> Pruned:  # fmt: skip
    """Each block: observe it dense, prune its layers, run it again pruned to feed the next one."""
    found, names = _Found(), statistics_of([method])
    last = max((b.index for b in loaded.anatomy.blocks if any(layer.name in shares for layer in b.layers)), default=-1)
    for block, module, hidden, extra in stream(loaded, inputs, watcher, f"prune: {step.method}"):
        touched = [layer for layer in block.layers if layer.name in shares]
        if block.index > last:
            continue
        statistics = (
            observe_block(loaded, replace(block, layers=tuple(touched)), module, hidden, extra, names, watcher)[0]
            if touched
            else {}
        )
        for layer in touched:
            _prune_layer(loaded, layer, step, method, shares[layer.name], statistics[layer.name], seed, found)
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)
    return found.pruned(loaded)


@dataclass
class _Found:
    """What has been pruned so far."""

    masks: dict[str, PackedMask] = field(default_factory=dict)
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def pruned(self, loaded: LoadedModel) -> Pruned:
        return Pruned(loaded, self.masks, (), tuple(self.rows), self.scores)


def _scores(
    loaded: LoadedModel, layer: Layer, step: Prune, method: Method, statistics: Mapping[str, Tensor], seed: int
) -> Tensor:
    weight = matrix(layer, loaded.module(layer.path).weight.detach()).float()
    return method(have(weight, tuple(weight.shape), generator(seed, layer.name), statistics), step.params)


def _prune_layer(loaded: LoadedModel, layer: Layer, step: Prune, method: Method, share: float, statistics: Mapping[str, Tensor], seed: int,
                 found: _Found) -> None:  # fmt: skip
    """Score one layer, decide its mask, set what falls to zero."""
    scores = _scores(loaded, layer, step, method, statistics, seed)
    keep = decide(scores, step.structure, share, method.card.compare, layer.name)
    weight = loaded.module(layer.path).weight
    with torch.no_grad():
        matrix(layer, weight.data).masked_fill_(~keep.to(weight.device), 0.0)
    shaped = keep.T if layer.kind == "conv1d" else keep.reshape(weight.shape)
    found.masks[layer.path] = PackedMask.of(shaped.contiguous())
    found.scores[f"{layer.name}.rows"], found.scores[f"{layer.name}.columns"] = scores.mean(1), scores.mean(0)
    reached = 1 - float(keep.float().mean())
    found.rows.append(LayerRow(layer.name, layer.block, layer.shape, layer.parameters, share, reached, float(scores.mean())))


def _prune_blocks(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> Pruned:
    """Score whole blocks in the dense model, take the lowest out."""
    allowed = _chosen_blocks(loaded.anatomy, step.only, step.protect)
    scores = _block_scores(loaded, step, method, inputs, seed, watcher)
    if step.allocation.method == "by_hand":
        by_hand(step.allocation.shares, loaded.anatomy, ())
        if any(share not in (0.0, 1.0) for share in step.allocation.shares.values()):
            raise RecipeError("A block goes whole or stays.", "Give each named block a share of 0 or 1.")
        removed = {block.index for block in allowed if step.allocation.shares.get(block.name) == 1.0}
    else:
        count = min(nearest(step.sparsity * len(loaded.anatomy.blocks)), len(loaded.anatomy.blocks) - 1, len(allowed))
        removed = {block.index for block in sorted(allowed, key=lambda block: (scores[block.name], block.index))[:count]}
    asked = {block.index: float(block.index in removed) for block in loaded.anatomy.blocks}
    rows = tuple(_block_row(block, asked[block.index], scores[block.name]) for block in loaded.anatomy.blocks)
    summary = {"blocks": torch.tensor([scores[block.name] for block in loaded.anatomy.blocks])}
    return Pruned(remove_blocks(loaded, sorted(removed)), {}, tuple(sorted(removed)), rows, summary)


def _chosen_blocks(anatomy: Anatomy, only: Sequence[str], protect: Sequence[str]) -> list[Block]:
    """The blocks that may go. `only` and `protect` as for layers: names or patterns, and one that fits nothing is an error."""

    def fits(block: Block, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in (block.name, block.path) for pattern in patterns)

    for pattern in (*only, *protect):
        if not any(fits(block, (pattern,)) for block in anatomy.blocks):
            names = ", ".join(block.name for block in anatomy.blocks[:3])
            raise RecipeError(f"No block of this model fits {pattern!r}.", f"Blocks are called {names}, ...")
    allowed = [block for block in anatomy.blocks if (not only or fits(block, only)) and not fits(block, protect)]
    if not allowed:
        raise RecipeError("The step leaves no block to remove: everything is protected.", "Shorten `protect`, or widen `only`.")
    return allowed


def _block_scores(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> dict[str, float]:
    """{block name: score} from one dense pass, or from no pass where the method needs none."""
    names = statistics_of([method])
    statistics: dict[str, dict[str, Tensor]] = {block.name: {} for block in loaded.anatomy.blocks}
    if names:
        for block, module, hidden, extra in stream(loaded, inputs(), watcher, "observe"):
            statistics[block.name] = observe_block(loaded, block, module, hidden, extra, names, watcher, keep_outputs=True)[1]
    return {
        block.name: float(method(have(None, (), generator(seed, block.name), statistics[block.name]), step.params))
        for block in loaded.anatomy.blocks
    }


def _block_row(block: Block, removed: float, score: float) -> LayerRow:
    return LayerRow(block.name, block.index, (), block.parameters, removed, removed, score)
