from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from core.errors import RecipeError
from core.events import Progress, Watcher
from core.method import Paper, search


@search(
    "angular_distance",
    label="Angular distance of a run",
    paper=Paper(
        "Gromov, Tirumala, Shapourian, Glorioso, Roberts",
        2024,
        "The Unreasonable Ineffectiveness of the Deeper Layers",
        "2403.17887",
    ),
    place="criterion/depth",
)
def angular_distance(
    units: tuple[str, ...], sizes: dict[str, int], count: int, last_states: Callable[[], Tensor], watcher: Watcher
) -> list[str]:
    """Keep blocks that turn the hidden state: of all runs of n neighbouring blocks, the one that turns it least goes.

    last_states: (blocks + 1, sequences, hidden), the hidden state of each sequence's last token before each block and after the last.
    d(l) = mean over sequences of arccos(cos(state before block l, state before block l + n)) / pi, in 0..1, for every start l whose run may go whole;
    the run with the lowest goes, ties: the earlier. Names come in the model's order: a run goes at once.

    Intuition: what n blocks together hardly turn, the rest of the model can take as it was; a run leaves one seam instead of n.
    When it lies: it sees one token a sequence, and angles only; and it cannot take blocks that lie apart, which a search by loss often would.
    Deviations from the paper: every start is tried, the first and the last too; the paper's healing is a recover step of its own.
    """
    if not count:
        return []
    states, names, may_go = last_states().double(), list(sizes), set(units)
    starts = [start for start in range(len(names) - count + 1) if may_go.issuperset(names[start : start + count])]
    if not starts:
        raise RecipeError(
            f"No {count} neighbouring blocks may all go: too many are protected.",
            "Shorten `protect`, or ask for a smaller share.",
        )
    cosines = {start: torch.cosine_similarity(states[start], states[start + count], dim=-1) for start in starts}
    distances = {start: float(cosine.clamp(-1, 1).arccos().mean()) / pi for start, cosine in cosines.items()}
    best = min(starts, key=distances.__getitem__)
    run = names[best : best + count]
    text = f"{run[0]} to {run[-1]} turn the hidden state least: angular distance {distances[best]:.4f}; the most: {max(distances.values()):.4f}."
    watcher.say(Progress("prune: angular_distance", kind="note", text=text))
    return run
