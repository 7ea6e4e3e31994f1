"""Arithmetic of a proof: means with intervals over seeds, differences pair by pair, time to a figure with all costs counted. Torch-free.

Lines are those of report.json's `prove` (core.data.prove); older ones lack seconds and history, and everything here bears with that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from core import scaling

Line = dict[str, Any]
CONFIDENCE = 0.95
WHOLE, CHANCE, OPPOSITE = "all", "random", "opposite"
NEAR = 0.98  # the figure to reach: so much of what all rows give


def measure(lines: Sequence[Line]) -> str:
    """accuracy (0..1, more is better), or perplexity (less is better)."""
    return "perplexity" if any(line.get("perplexity") is not None for line in lines) else "accuracy"


def figures(lines: Sequence[Line], selector: str, share: float | None = None) -> dict[int, float]:
    """{seed: figure} of one selector at one share (all rows are at 1). A figure that is not a number is left out."""
    key = measure(lines)
    mine = [line for line in lines if line["selector"] == selector and (share is None or line["share"] == share)]
    return {line["seed"]: float(line[key]) for line in mine if line.get(key) is not None}


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(mean, low, high): Student's t over seeds, 95 %. One seed has no spread: low and high are None."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None, None
    from scipy.special import stdtrit

    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * math.sqrt(variance / count)
    return mean, mean - half, mean + half


def paired(one: dict[int, float], other: dict[int, float]) -> tuple[float, float | None, float | None, int] | None:
    """(mean, low, high, seeds) of one minus other over the seeds that both have; None where there is none. Seeds share held-out rows, hence pairs."""
    gaps = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    return (*interval(gaps), len(gaps)) if gaps else None


def clear(found: tuple[float, float | None, float | None, int] | None) -> bool:
    """Does the interval leave out 0?"""
    return found is not None and found[1] is not None and found[2] is not None and (found[1] > 0 or found[2] < 0)


def summary(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """For each share and selector: mean, low, high, seeds, rows, the paired difference from random, and mean seconds."""
    groups = sorted({(line["share"], line["selector"]) for line in lines}, key=lambda group: (group[0], _rank(group[1])))
    out = []
    for share, who in groups:
        values = figures(lines, who, share)
        if not values:
            continue
        mine = [line for line in lines if line["share"] == share and line["selector"] == who]
        mean, low, high = interval(list(values.values()))
        gap = paired(values, figures(lines, CHANCE, share)) if who not in (CHANCE, WHOLE) else None
        out.append({
            "share": share, "selector": who, "mean": mean, "low": low, "high": high, "seeds": len(values),
            "rows": round(math.fsum(line.get("rows") or 0 for line in mine) / len(mine)),
            "difference": gap and gap[0], "difference_low": gap and gap[1], "difference_high": gap and gap[2],
            "seconds": seconds(mine),
        })  # fmt: skip
    return out


def _rank(selector: str) -> tuple[int, str]:
    order = {WHOLE: 0, CHANCE: 2, "rs2": 3, "random + distillation": 4, OPPOSITE: 5}
    return order.get(selector, 1), selector


def seconds(lines: Sequence[Line]) -> float | None:
    """Mean seconds of these fits: choosing, teaching and training. None for reports that did not take them."""
    known = [cost(line) + line["training_seconds"] for line in lines if line.get("training_seconds") is not None]
    return math.fsum(known) / len(known) if known else None


def cost(line: Line) -> float:
    """Seconds before training can begin: the choice and the teacher."""
    return float(line.get("selection_seconds") or 0.0) + float(line.get("teacher_seconds") or 0.0)


def reached(figure: float, target: float, key: str) -> bool:
    return figure <= target if key == "perplexity" else figure >= target


def seconds_to(line: Line, target: float, key: str) -> float | None:
    """Seconds, choice and teacher included, until this fit's held-out figure is first as good as `target`; None where it never is."""
    for _, trained, figure in line.get("history") or ():
        if figure is not None and reached(figure, target, key):
            return cost(line) + float(trained)
    return None


def target_of(lines: Sequence[Line]) -> float | None:
    """What to reach: 98 % of the accuracy of all rows, or 1 / 0.98 times their perplexity. None without them."""
    whole = list(figures(lines, WHOLE).values())
    if not whole:
        return None
    mean = math.fsum(whole) / len(whole)
    return mean / NEAR if measure(lines) == "perplexity" else mean * NEAR


def times(lines: Sequence[Line], target: float) -> list[dict[str, Any]]:
    """For each share and selector: mean seconds to `target` where every seed reached it, else None; how many did, and the seconds before training."""
    key = measure(lines)
    out = []
    for group in summary(lines):
        mine = [line for line in lines if (line["share"], line["selector"]) == (group["share"], group["selector"])]
        found = [seconds_to(line, target, key) for line in mine]
        some = [value for value in found if value is not None]
        whole = math.fsum(some) / len(some) if len(some) == len(found) else None
        before = math.fsum(map(cost, mine)) / len(mine)
        out.append({
            "share": group["share"], "selector": group["selector"], "seconds": whole, "before": before, "reached": len(some), "seeds": len(found),
        })  # fmt: skip
    return out


def told(lines: Sequence[Line], chosen: str, prefer: str | None = None) -> dict[str, Any]:
    """What report.json says of a proof. `chosen`: the recipe's selector; `prefer`: which end its score keeps, hard or easy, where it says so."""
    if not lines:
        return {}
    target = target_of(lines)
    who = [name for name in (chosen, CHANCE, OPPOSITE) if figures(lines, name)]
    return {
        "measure": measure(lines),
        "chosen": chosen,
        "summary": summary(lines),
        "target": target,
        "times": times(lines, target) if target is not None else [],
        "power_laws": {name: scaling.power_law(*error_points(lines, name)).to_dict() for name in dict.fromkeys(who)},
        "half_life": _repetition(lines),
        "regime": regime(lines, chosen, prefer),
    }


def error_points(lines: Sequence[Line], selector: str) -> tuple[list[float], list[float], list[float]]:
    """(rows, mean error, its standard deviation over seeds) at each share, all rows last: the data of a power law.

    The error is 1 - accuracy, of a language model the loss in nats a token.
    """
    points = []
    for group in summary(lines):
        if group["selector"] not in (selector, WHOLE) or (group["share"] == 1.0 and group["selector"] != WHOLE):
            continue
        errors = [error(value, lines) for value in figures(lines, group["selector"], group["share"]).values()]
        mean = math.fsum(errors) / len(errors)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in errors) / (len(errors) - 1)) if len(errors) > 1 else 0.0
        points.append((float(group["rows"]), mean, spread))
    points.sort()
    return [at[0] for at in points], [at[1] for at in points], [at[2] for at in points]


def error(figure: float, lines: Sequence[Line]) -> float:
    return math.log(figure) if measure(lines) == "perplexity" else 1.0 - figure


def _repetition(lines: Sequence[Line]) -> dict[str, Any] | None:
    """The half-life of repetition, from the random arm's smallest share (where rows are repeated while there is still much to learn)."""
    chance = [line for line in lines if line["selector"] == CHANCE and len(line.get("history") or ()) > 1]
    if not chance:
        return None
    share = min(line["share"] for line in chance)
    mine = [line["history"] for line in chance if line["share"] == share]
    points = min(map(len, mine))
    epochs = [mine[0][at][0] for at in range(points)]
    errors = [math.fsum(error(history[at][2], lines) for history in mine) / len(mine) for at in range(points)]
    return {"share": share, **scaling.half_life(epochs, errors).to_dict()}


def regime(lines: Sequence[Line], chosen: str, prefer: str | None = None) -> str:
    """Which end of the score to keep with so little or so much data, in a sentence; empty where both ends were not trained."""
    shares = sorted({line["share"] for line in lines if line["selector"] == OPPOSITE})
    if not shares:
        return ""
    less = measure(lines) == "perplexity"
    ends = {"hard": ("the hard rows", "the easy ones"), "easy": ("the easy rows", "the hard ones")}
    first, last = ends.get(prefer or "", (f"the rows that {chosen} puts first", "those that it puts last"))
    found = []
    for share in shares:
        gap = paired(figures(lines, chosen, share), figures(lines, OPPOSITE, share))
        rows = next((line["rows"] for line in lines if line["share"] == share), 0)
        found.append((share, rows, gap, (0 if not clear(gap) else 1 if (gap[0] > 0) != less else -1)))
    return _regime_words(found, first, last, less)


def _regime_words(found: list[tuple[float, int, Any, int]], first: str, last: str, less: bool) -> str:
    """`found`: share, rows, paired difference, and 1 where the chosen end is better, -1 where the other is, 0 where seeds cannot tell."""
    known = [at for at in found if at[3]]
    if not known:
        return f"Keep {first} or {last}: over these seeds the two cannot be told apart at any share."
    small, large = known[0], known[-1]
    end = {1: first, -1: last}

    def by(at: tuple[float, int, Any, int]) -> str:
        gap = abs(at[2][0])
        return f"{gap:.2f} of perplexity" if less else f"{100 * gap:.1f} points"

    if small[3] == large[3]:
        to = f" up to {large[1]:,} rows" if large is not small else ""
        return f"With {small[1]:,} rows{to}, keep {end[small[3]]}: {by(small)} better than {end[-small[3]]}" + (
            f" at the least data, {by(large)} at the most." if large is not small else "."
        )
    return (
        f"With this little data ({small[1]:,} rows) keep {end[small[3]]} ({by(small)} better); "
        f"with {large[1]:,} rows keep {end[large[3]]} ({by(large)} better)."
    )
