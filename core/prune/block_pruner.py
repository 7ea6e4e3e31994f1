from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from core.events import Progress, Watcher
from core.method import Paper, search


@search(
    "block_pruner",
    label="BlockPruner",
    paper=Paper("Zhong, Wan, Chen, Quan, Li", 2024, "BlockPruner: Fine-grained Pruning for Large Language Models", "2406.10594"),
    structures=("sublayers",),
    place="criterion/depth",
)
def block_pruner(
    units: tuple[str, ...],
    sizes: dict[str, int],
    share: float,
    evaluate_each: Callable[[frozenset[str], Iterable[str]], Iterator[tuple[str, float]]],
    watcher: Watcher,
) -> list[str]:
    """Keep the attentions and MLPs that are missed: take out the one whose absence hurts least, look again, repeat.

    units: names of the sub-layers that may go; sizes: {sub-layer: parameters} of all; share: of the parameters of all sub-layers, to remove.
    evaluate_each: mean negative log-likelihood in nats a token of the calibration text without some of them. Each round tries every sub-layer
    that would bring the parameters removed nearer to the share asked for, and removes the one with the lowest loss (ties: the earlier); it ends where none
    would. So the share is met as nearly as what is left allows, from above or below; one sub-layer always stays.

    Intuition: attention and MLP of one block are not equally redundant; late attentions often do next to nothing, and an MLP weighs twice as much.
    When it lies: as SLEB, it is greedy and believes the calibration text; and losses of small and large sub-layers are compared as they are, so many small
    ones may go where one large one would have cost less for its size.
    Deviations from the paper: the budget is a share of the sub-layers' parameters instead of a number of them.
    """
    gone: list[str] = []
    target, removed, done = share * sum(sizes.values()), 0, 0
    while len(gone) < len(sizes) - 1:
        nearer = [unit for unit in units if unit not in gone and abs(removed + sizes[unit] - target) < abs(removed - target)]
        if not nearer:
            break
        total = done + _about([sizes[unit] for unit in nearer], target - removed)
        losses: dict[str, float] = {}
        for unit, loss in evaluate_each(frozenset(gone), nearer):
            losses[unit] = loss
            done += 1
            watcher.say(Progress("prune: block_pruner", done, total, values={"loss": loss}))
        gone.append(min(nearer, key=losses.__getitem__))
        removed += sizes[gone[-1]]
    return gone


def _about(sizes: list[int], missing: float) -> int:
    """About how many evaluations are left: as if all that may still go were of one size."""
    rounds = min(max(round(missing * len(sizes) / sum(sizes)), 1), len(sizes))
    return sum(len(sizes) - taken for taken in range(rounds))
