"""What each picture of runs side by side says: its finding, a sentence, and the same as a table. Screen and report draw over these. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import compare
from core.compare import LETTERS, Side, masks
from core.compare.words import written

COSTS = {
    "nonzero": "weights that are not zero",
    "size_bytes": "bytes on disk",
    "flops_per_token": "FLOPs a token (image)",
    "latency_ms": "latency (ms)",
}
GEOMETRY = {
    "angle": "angle to own class (°)",
    "norm": "feature norm",
    "margin": "margin to the nearest border",
    "turned": "turned away from dense (°)",
}


@dataclass(frozen=True)
class Told:
    """`rows` are empty where there is nothing to draw: the finding says why."""

    finding: str
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def pareto(found: Sequence[Side], cost: str = "nonzero") -> Told:
    """Who is beaten by none in both quality and a cost."""
    key = compare.quality_key(found)
    if key is None:
        return Told("No quality was measured in these runs: tick Quality before the next one.")
    label, _, less = compare.FIGURES[key]
    points = compare.placed(found, key, cost)
    if len(points) < 2:
        return Told(f"Fewer than two of these models have both {label.lower()} and {COSTS[cost]}.")
    best = compare.front([(x, y) for _, x, y, _ in points], less)
    names = [points[i][0].split(" · ")[0] for i in best]
    beaten = [point[0].split(" · ")[0] for i, point in enumerate(points) if i not in best]
    finding = f"{listed(names)} {'is' if len(names) == 1 else 'are'} not beaten in both quality and {COSTS[cost]}"
    finding += f"; {listed(beaten)} {'is' if len(beaten) == 1 else 'are'}" if beaten else ""
    rows = tuple((n, written(cost, x), written(key, y), "yes" if i in best else "no") for i, (n, x, y, _) in enumerate(points))
    return Told(finding, ("Model", COSTS[cost].capitalize(), label, "On the front"), rows)


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def shares(found: Sequence[Side]) -> tuple[list[str], list[dict[str, float]]]:
    """(layers in the model's order, {layer: % removed} of each run)."""
    order = sorted(dict.fromkeys(str(layer["name"]) for at in found for layer in at.layers), key=masks.by_block)
    return order, [{str(layer["name"]): 100 * float(layer["sparsity"]) for layer in at.layers} for at in found]


def layers(found: Sequence[Side]) -> Told:
    """Where the runs took most unlike shares."""
    order, own = shares(found)
    if not order:
        return Told("None of these runs names layers.")
    spread = {name: max(at.get(name, 0.0) for at in own) - min(at.get(name, 0.0) for at in own) for name in order}
    widest = max(order, key=spread.__getitem__)
    finding = f"The runs differ most in {widest}: by {spread[widest]:.0f} points"
    finding = finding if len(found) > 1 and spread[widest] >= 0.5 else "All took the same share of every layer"
    headers = ("Layer", *(f"{LETTERS[n]} removed %" for n in range(len(found))))
    return Told(finding, headers, tuple((name, *(f"{at[name]:.1f}" if name in at else "" for at in own)) for name in order))


def overlaps(found: Sequence[Side], limit: int = 400) -> list[tuple[int, list[dict[str, Any]]]]:
    """(number of the run, its masks over the first run's) for each run that has masks of the same shapes."""
    out = []
    for number, other in enumerate(found[1:], 1):
        rows = [row for row in masks.overlaps(found[0], other) if row["jaccard"] < 1 or row["chance"] < 1][:limit]
        out += [(number, rows)] if rows else []
    return out


def overlap(found: Sequence[Side], over: Sequence[tuple[int, list[dict[str, Any]]]] | None = None) -> Told:
    """How little of what they prune the least alike pair shares. over: `overlaps(found)`, where it is at hand."""
    over = overlaps(found) if over is None else over
    if not over:
        return Told("No mask of the same shape was left by two of these runs, so none can be laid over another.")
    means = [(*(float(np.mean([row[key] for row in rows])) for key in ("jaccard", "chance")), LETTERS[n]) for n, rows in over]
    mean, chance, letter = min(means)
    finding = f"A and {letter} share {100 * mean:.0f} % of all they prune between them; chance would give {100 * chance:.0f} %"
    rows = tuple(
        (f"A and {LETTERS[n]}", masks.label(str(row["name"])), *(f"{row[key]:.3f}" for key in ("jaccard", "chance", "agree")))
        for n, told in over
        for row in told
    )
    return Told(finding, ("Runs", "Mask", "Jaccard", "By chance", "Agreement"), rows)


def difference(one: np.ndarray, two: np.ndarray, tiles: np.ndarray, letter: str, layer: str) -> Told:
    """What two masks of a matrix prune alone and together. tiles: their masks.difference_map."""
    by_row, alike = np.abs(np.asarray(tiles)).mean(1), masks.overlap(one, two)
    finding = f"A and {letter} agree on {100 * alike['agree']:.0f} % of the weights of {masks.label(layer)}"
    only_a, only_b = int(np.count_nonzero(two & ~one)), int(np.count_nonzero(one & ~two))
    rows = (
        ("Pruned by A alone", f"{only_a:,}"),
        (f"Pruned by {letter} alone", f"{only_b:,}"),
        ("Pruned by both", f"{int(np.count_nonzero(~one & ~two)):,}"),
        ("Kept by both", f"{int(np.count_nonzero(one & two)):,}"),
        ("Rows where they differ most begin at", f"{int(by_row.argmax() * one.shape[0] / len(by_row)):,}"),
    )
    return Told(finding, ("What", "Weights"), rows)


def heads_grid(found: Sequence[Side], number: int) -> tuple[list[str], list[list[float | None]], bool]:
    """(blocks, % removed of each head, or points against A, is it against A?). A block with fewer heads than another ends in None."""
    own, first = masks.heads(found[number]), masks.heads(found[0])
    against = number > 0 and own.keys() == first.keys() and all(len(own[name]) == len(first[name]) for name in own)
    most = max((len(values) for values in own.values()), default=0)
    base = {name: first[name] if against else [0.0] * len(own[name]) for name in own}
    grid = [[100 * (own[n][i] - base[n][i]) if i < len(own[n]) else None for i in range(most)] for n in own]
    return list(own), grid, against


def heads(found: Sequence[Side], number: int) -> Told:
    """The head of which most went, or where a run differs most from the first."""
    names, grid, against = heads_grid(found, number)
    letter = LETTERS[number]
    if not names:
        return Told(f"{letter} left no mask on attention heads.")
    flat = [(value, n, i) for n, row in zip(names, grid, strict=True) for i, value in enumerate(row) if value is not None]
    value, block, head = max(flat, key=lambda item: abs(item[0]))
    words = f"{letter} takes {value:.0f} %"
    if against:
        words = f"{letter} takes {abs(value):.0f} points {'more' if value > 0 else 'less'} than A"
    most = "widest difference" if against else "most of all heads"
    own, first = masks.heads(found[number]), masks.heads(found[0])
    rows = tuple(
        (n, str(i), f"{100 * share:.1f}", f"{100 * first[n][i]:.1f}" if against else "")
        for n in names
        for i, share in enumerate(own[n])
    )
    finding = f"{words} of head {head} in block {block.removeprefix('blocks.')}, the {most}"
    return Told(finding, ("Block", "Head", f"{letter} removed %", "A removed %"), rows)


def models(found: Sequence[Side], key: str) -> list[tuple[str, int | None, Mapping[str, Any]]]:
    """(name with its letter, number, figures) of the dense model and of each final one, where they were measured alike."""
    names = compare.lettered(found)
    return [(name if n is None else names[n], n, at) for name, n, at in compare.measured_alike(found, key)]


def corruptions(found: Sequence[Side]) -> Told:
    """Who loses most under which corruption."""
    have = models(found, "corruptions")
    if not have:
        return Told("No run here measured corruptions: put measure: {corruptions: {}} into a recipe for an image classifier.")
    kinds, rows, drops = [kind for kind in have[0][2] if kind != "clean"], [], []
    for name, _, told in have:
        rows += [(name, "clean", "", f"{100 * told['clean']:.1f}")]
        rows += [(name, kind, str(at), f"{100 * share:.1f}") for kind in kinds for at, share in told.get(kind, {}).items()]
        drops += [(told["clean"] - float(np.mean(list(told[kind].values()))), name, kind) for kind in kinds if kind in told]
    fall, name, kind = max(drops)
    who = "The dense model" if name == "dense" else name.split(" · ")[0]
    finding = f"{who} falls most under {kind}: {100 * fall:.0f} points below its clean accuracy"
    return Told(finding, ("Model", "Corruption", "Severity", "Accuracy %"), tuple(rows))


def geometry(found: Sequence[Side]) -> Told:
    """The smallest median margin against the dense model's, and how far that one's features turned."""
    have = models(found, "geometry")
    if not have:
        return Told("No run here measured geometry: put measure: {geometry: {}} into a recipe for an image classifier.")
    rows = tuple(
        (name, words, *(f"{x:.3g}" for x in told[key]["at"])) for key, words in GEOMETRY.items() for name, _, told in have if key in told
    )  # fmt: skip
    dense = have[0] if have[0][1] is None else None
    name, _, told = min((one for one in have if one is not dense), key=lambda one: one[2]["margin"]["at"][2])
    finding = f"Half of the images keep a margin of {told['margin']['at'][2]:.2f} or more in {name.split(' · ')[0]}"
    finding += f", and {dense[2]['margin']['at'][2]:.2f} in the dense model" if dense else ""
    finding += f"; features have turned by {told['turned']['at'][2]:.0f}° (median)" if "turned" in told else ""
    return Told(finding, ("Model", "Figure", "5 %", "25 %", "median", "75 %", "95 %"), rows)
