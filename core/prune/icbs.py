from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import torch
from torch import Tensor

from core.method import Paper, Param, get, learned
from kernels.swaps import swapped

Masks = dict[str, Tensor]
Backward = Callable[[Masks, Tensor], float]


@learned(
    "icbs",
    label="iCBS (combinatorial blocks)",
    structures=("unstructured",),
    bytes_each=40,
    paper=Paper(
        "Rosenberg, Brubaker, Schuetz, Zhu, Kadıoğlu, Borujeni, Katzgraber",
        2024,
        "Scalable iterative pruning of large language and vision models using block coordinate descent",
        "2411.17796",
    ),
    place="criterion/gradients",
)
def icbs(
    shapes: Mapping[str, tuple[int, ...]],
    targets: tuple[tuple[tuple[str, ...], int], ...],
    ids: Tensor,
    decide: Callable[[Masks], Masks],
    loss: Callable[[Masks], float],
    backward: Backward,
    scores: Callable[[str], Masks],
    note: Callable[[int, int, float], None],
    generator: torch.Generator,
    *,
    start: Annotated[str, Param("First mask", choices=("wanda", "magnitude"))] = "wanda",
    rounds: Annotated[int, Param("Rounds", 1, 200)] = 8,
    block: Annotated[int, Param("Weights a block", 2, 4096)] = 256,
    samples: Annotated[int, Param("Sequences a round", 1, 512)] = 32,
    ridge: Annotated[float, Param("Ridge", 0.0, 1000.0)] = 1.0,
) -> Masks:
    """Keep the set of weights that together lose least: a quadratic model of the loss decides which kept and dropped ones to exchange.

    The first mask m (1 kept, 0 dropped) is that of `start`. Each round, for each layer: a_n = dL_n/dm at the masks as they are, for each of `samples`
    calibration sequences (that of a dropped weight too: what the loss would do if it came back); a weight's own estimate of a flip by d = 1 - 2 m is
    mean a * d + (mean a^2 + r) / 2. The block is the half of `block` kept and the half dropped weights whose flips promise most. Within it,
    E(x) = mean a . (x - m) + (x - m)' (mean of a a' + r I) (x - m) / 2 with r = ridge * the layer's mean of a^2 is lowered by swaps of one kept for
    one dropped, the best first, until none helps. The new masks of all layers stay where the
    loss on the whole calibration text has fallen; else blocks of half the width are tried, down to one pair, and the next round begins at twice the width
    that helped. It ends after `rounds`.

    Intuition: two weights that do the same thing both look dispensable, or both dear; only terms between them tell that one of the two should stay.
    When it lies: the outer products of a few gradients are a poor curvature (their rank is the number of sequences), so ever more rounds fit the
    calibration text; and swaps end in the nearest hollow. Most of the mask remains the first one's.
    Deviations from the paper: swaps to a local minimum in the place of a solver for quadratic binary problems; one block in every layer at once, then
    a test of the loss, where the paper goes block after block; how a block is chosen, the ridge and the defaults are ours.
    """
    share = {name: count / sum(torch.Size(shapes[n]).numel() for n in names) for names, count in targets for name in names}
    first = scores(start)
    if get("score", start).card.compare == "row":
        first = {name: _against_the_cut(score, share[name]) for name, score in first.items()}
    kept, width = decide(first), block
    best = loss(_floats(kept))
    for turn in range(1, rounds + 1):
        text = ids[torch.randperm(len(ids), generator=generator)[:samples]]
        for tried, used in _exchanged(kept, width, text, ridge, backward):
            found = loss(_floats(tried))
            if found < best:
                kept, best, width = tried, found, min(2 * used, block)
                break
        else:  # not even a pair in each layer helps, as far as these sequences tell
            width = 2
        note(turn, rounds, best)
    return _floats(kept)


def _floats(kept: Mapping[str, Tensor]) -> Masks:
    return {name: mask.float() for name, mask in kept.items()}


def _against_the_cut(score: Tensor, share: float) -> Tensor:
    """Scores that compare within a row, (out, in), made comparable: each divided by that of the last one of its row that would go."""
    cut = score.kthvalue(min(max(round(share * score.shape[1]), 1), score.shape[1]), dim=1).values
    return score / cut.clamp_min(1e-30)[:, None]


def _exchanged(kept: Masks, width: int, ids: Tensor, ridge: float, backward: Backward) -> Iterator[tuple[Masks, int]]:
    """The masks after the exchanges that one block of each layer asks for, and the width of the block: the width given, half of it, ... down to 2."""
    mean, square = {}, {}
    for slopes in _slopes(kept, ids, backward):
        for name, slope in slopes.items():
            mean[name] = mean.get(name, 0) + slope / len(ids)
            square[name] = square.get(name, 0) + slope.square() / len(ids)
    damp = {name: ridge * float(square[name].mean()) for name in kept}
    places = {name: _block(kept[name], mean[name], square[name] + damp[name], width) for name in kept}
    found = {name: [] for name in kept}
    for slopes in _slopes(kept, ids, backward):
        for name, slope in slopes.items():
            found[name].append(slope.flatten()[torch.cat(places[name])].double())
    each = {name: torch.stack(rows) for name, rows in found.items()}
    while width >= 2:
        yield {name: _solved(mask, places[name], each[name], damp[name], width // 2) for name, mask in kept.items()}, width
        width //= 2


def _solved(mask: Tensor, places: tuple[Tensor, Tensor], each: Tensor, damp: float, half: int) -> Tensor:
    """One layer's mask after the exchanges among the first `half` of its block's kept places and of its dropped ones. each (sequences, block)."""
    first, last = len(places[0]), sum(map(len, places))
    inside = torch.cat((torch.arange(first)[:half], torch.arange(first, last)[:half])).to(each.device)
    at, each = torch.cat(places)[inside], each[:, inside]
    curved = each.T @ each / len(each) + damp * torch.eye(len(inside), dtype=each.dtype, device=each.device)
    flat = mask.flatten().clone()
    flat[at] = swapped(flat[at], each.mean(0), curved)
    return flat.reshape(mask.shape)


def _slopes(kept: Masks, ids: Tensor, backward: Backward) -> Iterator[Masks]:
    """For each sequence {layer: how its loss would change with each entry of the mask}."""
    for one in ids.split(1):
        leaves = {name: mask.float().requires_grad_(True) for name, mask in kept.items()}
        backward(leaves, one)
        yield {name: leaf.grad for name, leaf in leaves.items()}


def _block(kept: Tensor, mean: Tensor, curved: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Flat places of the kept and of the dropped weights, half the block each, whose flips promise most, the most promising first."""
    promise = (torch.where(kept, -mean, mean) + curved / 2).flatten()
    flat = kept.flatten()
    sides = (
        promise.masked_fill(~side, torch.inf).argsort(stable=True)[: min(width // 2, int(side.sum()))] for side in (flat, ~flat)
    )
    return tuple(sides)
