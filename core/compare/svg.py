"""Small pictures as inline SVG, for pages without a script: points, lines and bars on two axes. Every word is escaped; colours follow the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f9465", "#d9772b", "#4c86c6", "#a96bb5", "#b8932a", "#3aa0a0", "#cc5f6b", "#7a8f3c")
DENSE = "#7c8a96"
_WIDE, _HIGH, _LEFT, _BELOW, _TOP, _RIGHT = 760, 320, 70, 46, 14, 16


@dataclass(frozen=True)
class Axis:
    """`low`..`high` of the data, drawn over the picture's width or height."""

    title: str
    low: float
    high: float

    def at(self, value: float, upward: bool) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        if upward:
            return _HIGH - _BELOW - share * (_HIGH - _BELOW - _TOP)
        return _LEFT + share * (_WIDE - _LEFT - _RIGHT)


def axis(title: str, values: Sequence[float], zero: bool = False) -> Axis:
    """An axis around the values, with a little room; from zero where asked."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(title, low if zero and low == 0 else low - room, high + room)


def points(x: Axis, y: Axis, marks: Sequence[tuple[str, float, float, str]], path: Sequence[tuple[float, float]] = ()) -> str:
    """marks: (name, x, y, colour); path: a dotted line through these places."""
    parts = []
    if len(path) > 1:
        told = " ".join(f"{x.at(a, False):.1f},{y.at(b, True):.1f}" for a, b in path)
        parts.append(f'<polyline points="{told}" fill="none" stroke="currentColor" stroke-opacity=".5" stroke-dasharray="3 4"/>')
    for name, a, b, colour in marks:
        left, top = x.at(a, False), y.at(b, True)
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="6" fill="{colour}"><title>{escape(name)}</title></circle>')
        parts.append(f'<text x="{left:.1f}" y="{top - 10:.1f}" text-anchor="middle">{escape(name.split(" · ")[0])}</text>')
    return _framed(x, y, parts)


def lines(x_title: str, y: Axis, names: Sequence[str], series: Sequence[tuple[str, Sequence[float | None], str]]) -> str:
    """A line a series over the same names; a gap where a value is None."""
    x = Axis(x_title, -0.5, len(names) - 0.5)
    parts = []
    for name, values, colour in series:
        run: list[str] = []
        for at, value in enumerate([*values, None]):
            if value is not None:
                run.append(f"{x.at(at, False):.1f},{y.at(value, True):.1f}")
            elif run:
                parts.append(
                    f'<polyline points="{" ".join(run)}" fill="none" stroke="{colour}" stroke-width="2"><title>{escape(name)}</title></polyline>'
                )
                run = []
    return _framed(x, y, parts, names)


def bars(y: Axis, names: Sequence[str], series: Sequence[tuple[str, Sequence[float | None], str]]) -> str:
    """Bars side by side: a group a name, a bar a series."""
    x = Axis("", -0.5, len(names) - 0.5)
    parts, width = [], 0.8 * (x.at(1, False) - x.at(0, False)) / max(len(series), 1)
    for number, (name, values, colour) in enumerate(series):
        for at, value in enumerate(values):
            if value is not None:
                left, top = x.at(at - 0.4, False) + number * width, y.at(value, True)
                parts.append(
                    f'<rect x="{left:.1f}" y="{top:.1f}" width="{width - 1:.1f}" height="{max(_HIGH - _BELOW - top, 0):.1f}" fill="{colour}">'
                    f"<title>{escape(name)}: {value:.3g}</title></rect>"
                )
    return _framed(x, y, parts, names)


def grid(
    x_title: str, y_title: str, values: Sequence[Sequence[float | None]], reach: float, low: str, high: str, signed: bool = True
) -> str:
    """A heat map, row by row: -reach..reach from COLOURS[0] to COLOURS[1] where `signed`, else 0..reach; `low` and `high` say what the ends mean."""
    rows, columns = len(values), max((len(row) for row in values), default=0)
    wide, high_px = (_WIDE - _LEFT - _RIGHT) / max(columns, 1), (_HIGH - _BELOW - _TOP) / max(rows, 1)
    parts = [f'<svg viewBox="0 0 {_WIDE} {_HIGH + 22}" role="img" aria-label="{escape(y_title)} against {escape(x_title)}">']
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is None or abs(value) < 0.005 * reach:
                continue
            colour = COLOURS[0] if value < 0 and signed else COLOURS[1]
            parts.append(
                f'<rect x="{_LEFT + x * wide:.1f}" y="{_TOP + y * high_px:.1f}" width="{wide:.2f}" height="{high_px:.2f}" fill="{colour}" '
                f'fill-opacity="{min(abs(value) / reach, 1):.2f}"/>'
            )
    right, below = _WIDE - _RIGHT, _HIGH - _BELOW
    parts.append(
        f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{below - _TOP}" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
    )
    for at in sorted({0, columns // 2, columns - 1}) if columns else ():
        parts.append(f'<text x="{_LEFT + (at + 0.5) * wide:.1f}" y="{below + 16}" text-anchor="middle">{at}</text>')
    for at in sorted({0, rows // 2, rows - 1}) if rows else ():
        parts.append(f'<text x="{_LEFT - 6}" y="{_TOP + (at + 0.5) * high_px + 4:.1f}" text-anchor="end">{at}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{_HIGH - 6}" text-anchor="middle">{escape(x_title)}</text>')
    ends = [(COLOURS[0], low)] * signed + [(COLOURS[1], high)]
    for number, (colour, words) in enumerate(ends):
        left = _LEFT + number * 240
        parts.append(f'<rect x="{left}" y="{_HIGH + 6}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{left + 18}" y="{_HIGH + 16}">{escape(words)}</text>')
    parts.append(f'<text transform="translate(14 {_HIGH / 2}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text></svg>')
    return "".join(parts)


def boxes(y: Axis, series: Sequence[tuple[str, Sequence[float], str]]) -> str:
    """A box a series: its values are the 5, 25, 50, 75 and 95 % points."""
    x = Axis("", -0.5, len(series) - 0.5)
    parts = []
    for at, (name, (low, q1, middle, q3, high), colour) in enumerate(series):
        mid, half = x.at(at, False), min(40.0, 240 / max(len(series), 1))
        a, b, c, d, e = (y.at(value, True) for value in (low, q1, middle, q3, high))
        parts.append(f'<line x1="{mid:.1f}" x2="{mid:.1f}" y1="{a:.1f}" y2="{e:.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<rect x="{mid - half:.1f}" y="{d:.1f}" width="{2 * half:.1f}" height="{max(b - d, 0.5):.1f}" fill="{colour}" fill-opacity=".35" '
            f'stroke="{colour}"><title>{escape(name)}: median {middle:.3g}</title></rect>'
        )
        parts.append(
            f'<line x1="{mid - half:.1f}" x2="{mid + half:.1f}" y1="{c:.1f}" y2="{c:.1f}" stroke="{colour}" stroke-width="3"/>'
        )
    return _framed(x, y, parts, [name for name, _, _ in series])


def _framed(x: Axis, y: Axis, parts: Sequence[str], names: Sequence[str] | None = None) -> str:
    out = [f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(y.title)} against {escape(x.title or "kinds")}">']
    for value in _ticks(y):
        top = y.at(value, True)
        out.append(
            f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{top:.1f}" y2="{top:.1f}" stroke="currentColor" stroke-opacity=".15"/>'
        )
        out.append(f'<text x="{_LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    if names is None:
        out += [
            f'<text x="{x.at(v, False):.1f}" y="{_HIGH - _BELOW + 16}" text-anchor="middle">{_number(v)}</text>'
            for v in _ticks(x)
        ]
    else:
        step = max(len(names) // 8, 1)
        out += [
            f'<text x="{x.at(at, False):.1f}" y="{_HIGH - _BELOW + 16}" text-anchor="middle">{escape(_tail(name))}</text>'
            for at, name in enumerate(names) if at % step == 0
        ]  # fmt: skip
    out += parts
    out.append(f'<text x="{(_LEFT + _WIDE) / 2}" y="{_HIGH - 6}" text-anchor="middle">{escape(x.title)}</text>')
    out.append(f'<text transform="translate(14 {_HIGH / 2}) rotate(-90)" text-anchor="middle">{escape(y.title)}</text></svg>')
    return "".join(out)


def _ticks(at: Axis) -> list[float]:
    """About five round numbers within the axis."""
    span = at.high - at.low
    if span <= 0:
        return [at.low]
    power = 10.0 ** len(str(int(span))) if span >= 1 else 1.0
    while power > span / 3:
        power /= 10
    step = next((power * m for m in (1, 2, 5, 10, 20, 50) if span / (power * m) <= 6), power * 100)
    first = -(-at.low // step)
    return [round((first + n) * step, 10) for n in range(8) if (first + n) * step <= at.high]


def _number(value: float) -> str:
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= scale:
            return f"{value / (1e3 if unit == 'k' else scale):.4g}{unit}"
    return f"{value:.4g}"


def _tail(name: str) -> str:
    parts = name.split(".")
    return f"{parts[1]}.{parts[-1]}" if parts[0] == "blocks" and len(parts) > 2 else name[-18:]
