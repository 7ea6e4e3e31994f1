from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Progress, Watcher
from core.method import Paper, Param, transform
from core.model import blocks
from core.model.depth.surgery import remove_blocks
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.observe import stream
from core.model.pruning.pruned import Pruned
from core.report import LayerRow


@transform(
    "laco",
    label="LaCo (merge blocks)",
    structures=("blocks",),
    paper=Paper("Yang, Cao, Zhao", 2024, "LaCo: Large Language Model Pruning via Layer Collapse", "2402.11187"),
    place="criterion/depth",
)
def laco(
    loaded: LoadedModel,
    share: float,
    units: tuple[str, ...],
    inputs: Callable[[], Tensor],
    watcher: Watcher,
    *,
    together: Annotated[int, Param("Blocks merged at once", 2, 16)] = 2,
    apart: Annotated[int, Param("Blocks between two merges", 1, 16)] = 2,
    threshold: Annotated[float, Param("Lowest cosine allowed", -1.0, 1.0)] = 0.65,
    sequences: Annotated[int, Param("Calibration sequences", 1, 128)] = 10,
) -> Pruned:
    """Keep what later blocks add: merge their differences into an earlier block while the model still says nearly the same.

    Merge of block l with the K = together - 1 blocks above it, for each parameter W (norms and biases too), in float32:
    W_l <- W_l + sum over k = 1..K of (W_{l+k} - W_l); then blocks l+1 .. l+K go. Tried from the top down: l starts at blocks - together. A merge
    stays where the mean over tokens of cos(output of the last block before anything was merged, output now) is above `threshold`; then l falls by
    `apart` (and to blocks left - together at most), else by 1. It ends at the share asked for, or below the first block: where the threshold ends
    it early, fewer blocks go than asked, and a note says so. The last merge takes only as many blocks as are still owed.

    Intuition: neighbouring blocks do similar things, so one block that carries the sum of their differences stands in for several.
    When it lies: weights are added as if blocks were linear and met the same input, so a sum of many differences can leave what any one of them was; and
    the cosine hides a change in length, and a high one says little about the next token: dropping the right blocks often loses less.
    Deviations from the paper: the sum of differences as the paper writes it, where the code published with it telescopes to "keep the last block";
    outputs are compared before the final norm, token by token; the share asked for ends it, not the lowest block alone; the defaults are ours. Masks made
    before do not hold in a block that was merged into.
    """
    count = min(nearest(share * len(loaded.anatomy.blocks)), len(loaded.anatomy.blocks) - 1)
    if not count:
        return Pruned(loaded, rows=_rows(loaded, (), {}))
    _check_alike(loaded, units)
    ids = inputs()[:sequences]
    merges = _merged(loaded, units, ids, count, together, apart, threshold, watcher)
    gone = tuple(sorted(index for _, taken, _ in merges for index in taken))
    rows = _rows(loaded, gone, {base: cosine for base, _, cosine in merges})
    if len(gone) < count:
        text = f"{len(gone)} of {count} blocks went: no further merge keeps a cosine above {threshold:g}."
        watcher.say(Progress("prune: laco", kind="note", text=text))
    said = {
        "merges": [{"into": base, "taken": list(taken), "cosine": cosine} for base, taken, cosine in merges],
        "asked": count,
    }
    rewritten = tuple(sorted({base for base, _, _ in merges}))
    return Pruned(remove_blocks(loaded, gone), {}, gone, rows, {}, said, rewritten=rewritten)


Merge = tuple[int, tuple[int, ...], float]  # (block merged into, blocks that went into it, cosine after), as numbered before


def _merged(loaded: LoadedModel, units: Sequence[str], ids: Tensor, count: int, together: int, apart: int, threshold: float,
            watcher: Watcher) -> list[Merge]:  # fmt: skip
    """Carry out the merges that may stay; the blocks taken are still in the model, to be removed."""
    may = {block.index for block in loaded.anatomy.blocks if block.name in set(units)}
    chain, owed, merges = [block.index for block in loaded.anatomy.blocks], count, []
    before = _outputs(loaded, ids, chain, watcher)
    place = max(len(chain) - together, 0)
    while place >= 0 and owed:
        base, taken = chain[place], tuple(chain[place + 1 : place + 1 + min(together - 1, owed)])
        watcher.say(Progress("prune: laco", count - owed, count))
        cosine = _tried(loaded, ids, chain, base, taken, before, threshold, watcher) if taken and may >= {base, *taken} else None
        if cosine is not None:
            chain, owed = [index for index in chain if index not in taken], owed - len(taken)
            merges.append((base, taken, cosine))
            place = min(place - apart, len(chain) - together)
        else:
            place -= 1
    watcher.say(Progress("prune: laco", count - owed, count))
    return merges


def _tried(loaded: LoadedModel, ids: Tensor, chain: Sequence[int], base: int, taken: Sequence[int], before: blocks.Hidden,
           threshold: float, watcher: Watcher) -> float | None:  # fmt: skip
    """The cosine with those blocks merged; where it is not above the threshold, None, and the block is as it was. So it is after a stop."""
    module = _module(loaded, base)
    as_it_was = copy.deepcopy(module.state_dict())
    stays = False
    try:
        _merge(module, [_module(loaded, index) for index in taken])
        cosine = _cosine(before, _outputs(loaded, ids, [index for index in chain if index not in taken], watcher))
        stays = cosine > threshold
    finally:
        if not stays:
            module.load_state_dict(as_it_was)
    return cosine if stays else None


def _merge(base: nn.Module, others: Sequence[nn.Module]) -> None:
    """Add to each parameter of the base its differences to those of the others."""
    theirs = [dict(other.named_parameters()) for other in others]
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            own = parameter.float()
            parameter.copy_(own + sum(other[name].float() - own for other in theirs))


def _outputs(loaded: LoadedModel, ids: Tensor, chain: Sequence[int], watcher: Watcher) -> blocks.Hidden:
    """What the last block of this chain gives, batch by batch: where the text stands when the stream ends."""
    hidden: blocks.Hidden = []
    for block, module, hidden, extra in stream(loaded, ids, watcher, "observe"):
        if block.index in chain:
            blocks.advance(module, hidden, extra, watcher)
    return hidden


def _cosine(before: blocks.Hidden, after: blocks.Hidden) -> float:
    """Mean over all tokens; -1 where something is no number, so that no threshold lets it pass."""
    each = torch.cat(
        [torch.cosine_similarity(a.double(), b.double(), dim=-1).flatten() for a, b in zip(before, after, strict=True)]
    )
    mean = float(each.mean())
    return mean if mean == mean else -1.0


def _check_alike(loaded: LoadedModel, units: Sequence[str]) -> None:
    """Raise ModelError where the blocks that may merge do not have the same parameters."""
    shapes = {
        block.name: {name: tuple(p.shape) for name, p in _module(loaded, block.index).named_parameters()}
        for block in loaded.anatomy.blocks
        if block.name in set(units)
    }
    first = next(iter(shapes))
    for name, there in shapes.items():
        if there != shapes[first]:
            raise ModelError(
                f"{name} has other weights than {first}, so the two cannot be merged.",
                "Merge blocks before parts of them are removed, or use sleb.",
            )


def _module(loaded: LoadedModel, index: int) -> nn.Module:
    return loaded.module(loaded.anatomy.blocks[index].path)


def _rows(loaded: LoadedModel, gone: Sequence[int], cosines: dict[int, float]) -> tuple[LayerRow, ...]:
    return tuple(
        LayerRow(
            block.name, block.index, (), block.parameters, went := float(block.index in gone), went, cosines.get(block.index)
        )
        for block in loaded.anatomy.blocks
    )
