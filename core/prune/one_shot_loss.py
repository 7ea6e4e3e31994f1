from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from core.events import Progress, Watcher
from core.method import Paper, search


@search(
    "one_shot_loss",
    label="One-shot loss",
    paper=Paper(
        "Kim, Kim, Kim, Castells, Choi, Shin, Song",
        2024,
        "Shortened LLaMA: Depth Pruning for Large Language Models with Comparison of Retraining Methods",
        "2402.02834",
    ),
    structures=("blocks", "sublayers"),
    place="criterion/depth",
)
def one_shot_loss(
    units: tuple[str, ...],
    count: int,
    evaluate_each: Callable[[frozenset[str], Iterable[str]], Iterator[tuple[str, float]]],
    watcher: Watcher,
) -> list[str]:
    """Keep blocks that are missed when they alone are gone; those with the lowest loss go, all at once.

    units: names of what may go. evaluate_each: mean negative log-likelihood in nats a token of the calibration text without one of them.
    Each is tried once, in the whole model; the `count` lowest go, lowest first; ties: the earlier.

    Intuition: as SLEB, but asked once: as many evaluations as there are blocks, however many go.
    When it lies: two blocks that can each be spared may not both be spared: neighbours often stand in for each other. SLEB looks again.
    Deviations from the paper: its perplexity criterion only (not Taylor's), and no block is protected; the paper keeps the first four and the last two, because
    without them the text falls apart: say `protect: ["blocks.[0-3]", ...]`.
    """
    losses: dict[str, float] = {}
    watcher.say(Progress("prune: one_shot_loss", 0, len(units)))
    for unit, loss in evaluate_each(frozenset(), units):
        losses[unit] = loss
        watcher.say(Progress("prune: one_shot_loss", len(losses), len(units), values={"loss": loss}))
    return sorted(units, key=losses.__getitem__)[:count]
