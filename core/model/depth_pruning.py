"""Whole blocks out: scored in the dense model, or found by trying."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.errors import RecipeError
from core.events import Watcher
from core.method import Method
from core.model.anatomy import Block
from core.model.choosing import by_hand, chosen_blocks
from core.model.loading import LoadedModel
from core.model.masks import generator, nearest
from core.model.observe import have, observe_block, statistics_of, stream
from core.model.pruned import Pruned
from core.model.surgery import remove_blocks
from core.recipe import Prune
from core.report import LayerRow


def prune_blocks(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> Pruned:
    """Score whole blocks in the dense model, take the lowest out."""
    allowed = chosen_blocks(loaded.anatomy, step.only, step.protect)
    if method.card.kind == "search":
        raise RecipeError(f"{step.method} cannot search among blocks yet.", "Use block_influence.")
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
