"""What repeats: runs of blocks that could go, units that are alike, experts. Pure functions, no screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import MARGIN, Observations, titled
from studio.charts.xray_deep import UNIT_WORDS, words
from studio.theme import COLOURS, SCALE, SEQUENCE

Answer = Mapping[str, Any]
Run = tuple[int, int]  # first block, how many


def _runs(data: Observations) -> list[tuple[float, int, int]]:
    """(angular distance, first block, length) of every run that was measured."""
    found = (data.get("runs") or {}).get("values") or ()
    return [
        (x, start, length)
        for length, row in enumerate(found, 1)
        for start, x in enumerate(row)
        if isinstance(x, float) and math.isfinite(x)
    ]


def best_run(data: Observations, length: int) -> Run | None:
    """The run of that length that turns the hidden state least."""
    found = [(x, start) for x, start, n in _runs(data) if n == length]
    return (min(found)[1], length) if found else None


def run_map(data: Observations, chosen: Run | None = None) -> go.Figure | None:
    """Start x length: how far each run of blocks turns the hidden state; the least of each length is dotted, `chosen` framed. None where unmeasured."""
    rows = _runs(data)
    if not rows:
        return None
    values = data["runs"]["values"]
    starts, lengths = [str(start) for start in range(len(values[0]))], [str(n) for n in range(1, len(values) + 1)]
    ceiling = sorted(x for x, *_ in rows)[int(0.9 * (len(rows) - 1))]
    heat = go.Heatmap(
        x=starts, y=lengths, z=values, colorscale=SCALE, reversescale=True, zmin=0.0, zmax=max(ceiling, 0.01), xgap=1, ygap=1,
        hovertemplate="%{y} block(s) from block %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": {**titled("angular distance"), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    if len(starts) <= 9:
        heat.update(
            text=[["" if x is None else f"{x:.2f}".replace("0.", ".", 1) for x in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 11},
        )
    best = [run for length in range(1, len(values) + 1) if (run := best_run(data, length))]
    dots = go.Scatter(x=[str(start) for start, _ in best], y=[str(n) for _, n in best], mode="markers", hoverinfo="skip", showlegend=False,
                      marker={"symbol": "circle-open", "size": 22 if len(starts) <= 9 else 8, "color": COLOURS["warn"], "line": {"width": 2}})  # fmt: skip
    figure = go.Figure([heat, dots])
    if chosen:
        x, y = chosen[0], chosen[1] - 1
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"color": COLOURS["warn"], "width": 3})
    figure.update_layout(margin={**MARGIN, "r": 4})
    figure.update_xaxes(title=titled("first block that goes"), type="category", showgrid=False, nticks=24, tickangle=0)
    figure.update_yaxes(title=titled("how many go"), type="category", showgrid=False, nticks=16)
    return figure


def run_finding(data: Observations) -> str:
    """The runs that turn the hidden state least, in a sentence."""
    one, two = best_run(data, 1), best_run(data, 2)
    if one is None:
        return "Runs of blocks were not measured"
    at = {(start, n): x for x, start, n in _runs(data)}
    said = f"Block {one[0]} turns the hidden state least ({at[one]:.2f})"
    return said + (f"; of two together, blocks {two[0]} and {two[0] + 1} ({at[two]:.2f})" if two else "")


def run_table(data: Observations) -> pd.DataFrame:
    rows = sorted(_runs(data), key=lambda row: (row[2], row[0]))
    return pd.DataFrame(
        [[start, start + n - 1, n, x] for x, start, n in rows],
        columns=["First block", "Last block", "How many", "Angular distance"],
    )


def run_choices(data: Observations) -> tuple[tuple[str, str], ...]:
    """(words, "FIRST COUNT") of every run that was measured, short ones first: the map for those without a mouse."""
    rows = sorted(_runs(data), key=lambda row: (row[2], row[1]))
    return tuple((f"{run_words((start, n)).capitalize()}: {x:.2f}", f"{start} {n}") for x, start, n in rows)


def run_words(run: Run) -> str:
    first, count = run
    return f"block {first}" if count == 1 else f"blocks {first} to {first + count - 1}"


def nearest_bars(answer: Answer) -> go.Figure:
    """How many units have their nearest unit at each cosine, and where the threshold lies."""
    found = [min(max(x, -1.0), 1.0) for x in answer["nearest"] if isinstance(x, float) and math.isfinite(x)]
    low = min([*found, answer["threshold"], 0.0])
    width = (1.0 - low) / 50
    counts = [0] * 50
    for x in found:
        counts[min(int((x - low) / width), 49)] += 1
    edges = [low + width * place for place in range(51)]
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    colours = [COLOURS["warn"] if middle >= answer["threshold"] else COLOURS["accent"] for middle in middles]
    figure = go.Figure(
        go.Bar(
            x=middles,
            y=counts,
            marker={"color": colours, "line": {"width": 0}},
            hovertemplate="near %{x:.2f}: %{y:,}<extra></extra>",
        )
    )
    figure.add_vline(x=answer["threshold"], line={"color": COLOURS["warn"], "dash": "dot", "width": 2})
    figure.update_layout(margin=MARGIN, bargap=0.04)
    figure.update_xaxes(
        title=titled("cosine with the unit most like it"), range=[low - 0.02, 1.02], showgrid=False, zeroline=False
    )
    figure.update_yaxes(title=titled(f"how many {UNIT_WORDS[answer['structure']][1]}"), rangemode="tozero")
    return figure


def duplicate_finding(answer: Answer) -> str:
    several, total = UNIT_WORDS[answer["structure"]][1], len(answer["nearest"])
    at, threshold = words(answer["block"]), answer["threshold"]
    if answer["count"]:
        many = answer["count"] != 1
        return (f"{answer['in_clusters']:,} of the {total:,} {several} of {at} fall into {answer['count']:,} cluster{'s' if many else ''} of near copies "
                f"(cosine ≥ {threshold:g})")  # fmt: skip
    a = max(range(total), key=lambda place: answer["nearest"][place])
    return (f"No two {several} of {at} are near copies: the most alike, {min(a, answer['mate'][a])} and {max(a, answer['mate'][a])}, "
            f"have cosine {answer['nearest'][a]:.2f}")  # fmt: skip


def duplicate_table(answer: Answer, most: int = 40) -> pd.DataFrame:
    """Clusters first, then the closest pairs."""
    rows: list[list[Any]] = [
        [
            "cluster",
            found["size"],
            ", ".join(map(str, found["members"])) + (" ..." if found["size"] > len(found["members"]) else ""),
            None,
        ]
        for found in answer["clusters"]
    ]
    pairs = {(min(a, b), max(a, b)): answer["nearest"][a] for a, b in enumerate(answer["mate"])}
    rows += [["pair", 2, f"{a}, {b}", round(x, 4)] for (a, b), x in sorted(pairs.items(), key=lambda item: -item[1])[:most]]
    return pd.DataFrame(rows, columns=["What", "Members", "Which", "Cosine"])


def expert_map(answer: Answer, what: str = "answers") -> go.Figure:
    """Expert x expert: mean cosine of what they answer to the same tokens, or of their weights."""
    names = [str(place) for place in range(answer["count"])]
    values = [[None if a == b else x for b, x in enumerate(row)] for a, row in enumerate(answer[what])]
    off = [abs(x) for row in values for x in row if x is not None]
    reach = max([*off, 0.01])
    heat = go.Heatmap(
        x=names, y=names, z=values, zmin=-reach, zmax=reach, xgap=1, ygap=1, hovertemplate="experts %{y} and %{x}: %{z:.3f}<extra></extra>",
        colorscale=[[0, "#d9772b"], [0.5, "#e9ebe4"], [1, "#1f6f4a"]],
        colorbar={"title": {**titled("mean cosine"), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_layout(margin={**MARGIN, "r": 4})
    figure.update_xaxes(title=titled("expert"), type="category", showgrid=False, constrain="domain", tickangle=0)
    figure.update_yaxes(
        title=titled("expert"), type="category", autorange="reversed", showgrid=False, scaleanchor="x", constrain="domain"
    )
    return figure


def expert_finding(answer: Answer, what: str = "answers") -> str:
    pairs = [(x, a, b) for a, row in enumerate(answer[what]) for b, x in enumerate(row) if b > a and isinstance(x, float)]
    if not pairs:
        return f"{words(answer['block']).capitalize()} has one expert"
    x, a, b = max(pairs)
    said = "answer most alike" if what == "answers" else "have the most similar weights"
    return f"In {words(answer['block'])}, experts {a} and {b} {said} (mean cosine {x:.2f})"


def visit_bars(answer: Answer) -> go.Figure | None:
    """For each expert, its share of the visits, a bar a kind of text."""
    shares = answer["visits"]["shares"]
    if not shares:
        return None
    names = [str(place) for place in range(answer["count"])]
    figure = go.Figure([
        go.Bar(x=names, y=[100 * x for x in row], name=kind, marker={"color": SEQUENCE[place % len(SEQUENCE)]},
               hovertemplate=f"expert %{{x}}, {kind}: %{{y:.1f}} %<extra></extra>")
        for place, (kind, row) in enumerate(shares.items())
    ])  # fmt: skip
    figure.add_hline(y=100 / answer["count"], line={"color": COLOURS["muted"], "dash": "dot", "width": 1.5})
    figure.update_layout(barmode="group", bargap=0.25, margin={**MARGIN, "t": 58}, legend={"orientation": "h", "y": 1.26, "x": 0})
    figure.update_xaxes(title=titled("expert"), type="category", showgrid=False, tickangle=0)
    figure.update_yaxes(title=titled("share of the visits, %"), rangemode="tozero")
    return figure


def visit_finding(answer: Answer) -> str:
    shares = answer["visits"]["shares"]
    if not shares:
        return "No text is on this machine to route"
    idle = [place for place in range(answer["count"]) if max(row[place] for row in shares.values()) < 0.005]
    special = (
        [(max(column) - min(column), place) for place, column in enumerate(zip(*shares.values(), strict=True))]
        if len(shares) > 1
        else []
    )
    said = []
    if special:
        _, place = max(special)
        most, least = (pick(shares, key=lambda kind: shares[kind][place]) for pick in (max, min))
        said.append(
            f"expert {place} takes {100 * shares[most][place]:.0f} % of the visits of {most} and {100 * shares[least][place]:.0f} % of {least}"
        )
    if idle:
        said.append(f"{_listed(idle)} {'is' if len(idle) == 1 else 'are'} hardly ever asked")
    whole = "; ".join(said) or "All experts are visited alike"
    return f"In {words(answer['block'])}, {whole}" if said else whole


def _listed(places: Sequence[int]) -> str:
    return f"expert {places[0]}" if len(places) == 1 else f"experts {', '.join(map(str, places[:-1]))} and {places[-1]}"


def expert_table(answer: Answer) -> pd.DataFrame:
    """A row an expert: its share of each kind of text, and the expert whose answers are most like its own."""
    rows = []
    for place in range(answer["count"]):
        others = [(x, b) for b, x in enumerate(answer["answers"][place]) if b != place and isinstance(x, float)]
        near = max(others, default=(None, None))
        rows.append([place, *(round(100 * row[place], 2) for row in answer["visits"]["shares"].values()), near[1], near[0]])
    kinds = [f"{kind} %" for kind in answer["visits"]["shares"]]
    return pd.DataFrame(rows, columns=["Expert", *kinds, "Answers most like", "Mean cosine"])
