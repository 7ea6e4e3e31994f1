"""The pictures of the report on runs side by side: heading, finding, picture, and the same as a table, all of them one after another. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from core import compare
from core.compare import LETTERS, Side, masks, svg, told
from core.compare.told import Told


def all_of(found: Sequence[Side]) -> Iterator[str]:
    """Each picture that these runs have something for."""
    for cost in told.COSTS:
        yield pareto(found, cost)
    yield layers(found)
    yield overlap(found)
    for number in range(1, len(found)):
        yield difference(found, number)
    for number in range(len(found)):
        yield heads(found, number)
    yield robust(found)
    yield geometry(found)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _part(heading: str, said: Told, picture: str) -> str:
    if not said.rows:
        return ""
    twin = f"<details><summary>Table</summary>{table(said.headers, said.rows)}</details>"
    return f'<h2>{escape(heading)}</h2><p><b>{escape(said.finding)}</b></p><div class="wide">{picture}</div>{twin}'


def pareto(found: Sequence[Side], cost: str) -> str:
    """Quality against a cost; nothing where all cost the same."""
    said, key = told.pareto(found, cost), compare.quality_key(found)
    if not said.rows or key is None:
        return ""
    marks = compare.placed(found, key, cost)
    if cost != "nonzero" and len({mark[1] for mark in marks}) < 2:
        return ""
    label, _, less = compare.FIGURES[key]
    percent, scale = (" in %", 100) if key == "accuracy" else ("", 1)
    x = svg.axis(told.COSTS[cost], [mark[1] for mark in marks], zero=True)
    y = svg.axis(f"{label.lower()}{percent} ({'lower' if less else 'higher'} is better)", [scale * mark[2] for mark in marks])
    best = [(marks[at][1], scale * marks[at][2]) for at in compare.front([mark[1:3] for mark in marks], less)]
    dots = [(name, a, scale * b, svg.DENSE if number is None else svg.COLOURS[number]) for name, a, b, number in marks]
    return _part(f"Quality against {told.COSTS[cost]}", said, svg.points(x, y, dots, best))


def layers(found: Sequence[Side]) -> str:
    names, own = told.shares(found)
    if not names:
        return ""
    series = [(LETTERS[n], [at.get(name) for name in names], svg.COLOURS[n]) for n, at in enumerate(own)]
    return _part(
        "Where each took its share",
        told.layers(found),
        svg.lines("layers, first to last", svg.Axis("% removed", 0, 100), names, series),
    )


def overlap(found: Sequence[Side]) -> str:
    over = told.overlaps(found)
    if not over:
        return ""
    names = list(dict.fromkeys(masks.label(row["name"]) for _, rows in over for row in rows))
    series = []
    for number, rows in over:
        at = {masks.label(row["name"]): row["jaccard"] for row in rows}
        series.append((f"A and {LETTERS[number]}", [at.get(name) for name in names], svg.COLOURS[number]))
    y = svg.Axis("overlap of what is pruned (Jaccard)", 0, 1.02)
    return _part(
        "How far the others prune what A prunes", told.overlap(found, over), svg.lines("masks, first to last", y, names, series)
    )


def difference(found: Sequence[Side], number: int) -> str:
    """The map of the mask in which a run differs most from the first."""
    rows = [row for row in masks.overlaps(found[0], found[number]) if row["jaccard"] < 1]
    for row in sorted(rows, key=lambda row: row["agree"]):
        one, two = (masks.masks(found[at].path)[row["name"]] for at in (0, number))
        tiles = masks.difference_map(one, two) if one.ndim > 1 else None
        if tiles is not None:
            letter = LETTERS[number]
            said = told.difference(one, two, tiles, letter, row["name"])
            drawn = svg.grid(
                "inputs (tiles of columns)",
                "outputs (tiles of rows)",
                tiles.tolist(),
                1.0,
                "only A prunes there",
                f"only {letter} does",
            )
            return _part(f"Where A and {letter} differ most: {masks.label(row['name'])}", said, drawn)
    return ""


def heads(found: Sequence[Side], number: int) -> str:
    said, (names, grid, against) = told.heads(found, number), told.heads_grid(found, number)
    if not names:
        return ""
    reach = max([abs(x) for row in grid for x in row if x is not None] + [1.0]) if against else 100.0
    letter = LETTERS[number]
    more = f"{letter} takes up to {reach:.0f} points more" if against else "100 % removed"
    drawn = svg.grid("attention head", "block", grid, reach, f"up to {reach:.0f} points less", more, signed=against)
    return _part(f"Attention heads: {letter}{' against A' if against else ''}", said, drawn)


def robust(found: Sequence[Side]) -> str:
    have = told.models(found, "corruptions")
    if not have:
        return ""
    kinds = list(have[0][2])
    series = []
    for name, number, at in have:
        means = [
            100 * at[kind] if kind == "clean" else 100 * sum(at[kind].values()) / len(at[kind]) if kind in at else None
            for kind in kinds
        ]
        series.append((name.split(" · ")[0], means, _colour(number)))
    drawn = svg.bars(svg.Axis("accuracy (%)", 0, 100), kinds, series)
    return _part("Accuracy on corrupted images, mean over severities", told.corruptions(found), drawn)


def geometry(found: Sequence[Side]) -> str:
    """Boxes of angle, norm and margin of the features, a picture a figure."""
    have, drawn = told.models(found, "geometry"), []
    for key, words in told.GEOMETRY.items():
        series = [(name.split(" · ")[0], at[key]["at"], _colour(number)) for name, number, at in have if key in at]
        if series:
            y = svg.axis(words, [value for _, values, _ in series for value in values])
            drawn.append(svg.boxes(y, series))
    return _part("Feature geometry, dense against pruned", told.geometry(found), "".join(drawn)) if drawn else ""


def _colour(number: int | None) -> str:
    return svg.DENSE if number is None else svg.COLOURS[number]
