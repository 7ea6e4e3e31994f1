from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from core.events import Progress, Watcher
from core.method import Paper, search


@search(
    "sleb",
    label="SLEB",
    paper=Paper(
        "Song, Oh, Kim, Kim, Kim, Kim",
        2024,
        "SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks",
        "2402.09025",
    ),
    place="criterion/depth",
)
def sleb(
    units: tuple[str, ...],
    count: int,
    evaluate_each: Callable[[frozenset[str], Iterable[str]], Iterator[tuple[str, float]]],
    watcher: Watcher,
) -> list[str]:
    """Keep blocks that are missed: take out the one whose absence hurts least, look again, repeat.

    units: names of the blocks that may go. evaluate_each: mean negative log-likelihood in nats a token of the calibration text without some blocks.
    Round r tries each block that is left, in the model without the r - 1 that have gone, and removes the one with the lowest loss; ties: the earlier.

    Intuition: whether a block is redundant depends on which others are still there; so ask the model itself, again after each removal.
    When it lies: the loss is that of the calibration text, and of few samples if you gave few; and it is greedy, so two blocks that would have been the best
    pair to lose may not be the two that go.
    Deviations from the paper: every block may go, the first and the last too; say `protect` to keep some.
    """
    gone: list[str] = []
    total = sum(len(units) - taken for taken in range(count))
    done = 0
    watcher.say(Progress("prune: sleb", 0, total))
    while len(gone) < count:
        losses: dict[str, float] = {}
        for unit, loss in evaluate_each(frozenset(gone), [unit for unit in units if unit not in gone]):
            losses[unit] = loss
            done += 1
            watcher.say(Progress("prune: sleb", done, total, values={"loss": loss}))
        gone.append(min((unit for unit in units if unit in losses), key=losses.__getitem__))
    return gone
