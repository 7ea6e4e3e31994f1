"""Runs side by side as one HTML file that needs nothing else: no script, no request, every word escaped. Torch-free.

python -m core.compare.page RUN_FOLDER [RUN_FOLDER ...] --out FILE.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from core import compare, folder
from core.command import answer
from core.compare import LETTERS, Side, masks, svg
from core.compare import words as compare_words
from core.errors import ResourceError
from core.recipe import to_yaml
from core.views import slug, to_command

USAGE = "python -m core.compare.page RUN_FOLDER [RUN_FOLDER ...] --out FILE.html"
_STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;
color:#1b2620;background:#fff}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%;font-size:.9rem;
font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8886}.wide{overflow-x:auto}svg{width:100%;height:auto}
svg text{font-size:11px;fill:currentColor}pre{overflow-x:auto;background:#8881;padding:.8rem;border-radius:8px;font-size:.82rem}.key{display:flex;
flex-wrap:wrap;gap:.3rem 1.2rem;font-size:.88rem}.key i{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}blockquote{
margin:.3rem 0 1rem;padding-left:1rem;border-left:3px solid #8886;white-space:pre-wrap}
.note{color:#56625a}@media(prefers-color-scheme:dark){body{color:#e6ece7;background:#0f1512}
.note{color:#a3b1a8}}"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write(found: Sequence[Side], place: Path) -> Path:
    """Write the report into the folder `place` and return the file. Raises ResourceError where there is nothing to report, or the disk refuses."""
    if not found:
        raise ResourceError("There is no finished run to report on.", "Choose one that is done.")
    names = "-".join(slug(at.name.replace("/", "-")) for at in found)[:80]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise folder.disk_error(error, place) from None
    file = place / f"report-{names}.html"
    folder.write_text(file, page(found))
    return file


def page(found: Sequence[Side]) -> str:
    """The whole file."""
    title = "Prunarium: " + ", ".join(at.name for at in found)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">Written {time.strftime("%Y-%m-%d %H:%M")}. All figures were measured in the runs named; in brackets, the 95 % interval of a '
        "difference by a paired bootstrap over what both were measured on.</p>",
        _key(found),
        f"<p><b>{escape(compare_words.verdict(found))}</b></p>" if len(found) > 1 else "",
        "".join(f'<p class="note">{escape(words)}</p>' for words in compare.apart(found)),
        _table(compare_words.headers(found), compare_words.figure_rows(found)),
        _pareto(found),
        _layers(found),
        _overlap(found),
        _robust(found),
        _texts(found),
        _recipes(found),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def _key(found: Sequence[Side]) -> str:
    dots = "".join(
        f'<span><i style="background:{svg.COLOURS[n]}"></i>{LETTERS[n]} · {escape(at.name)} ({escape(at.moment)}, {escape(at.model)})</span>'
        for n, at in enumerate(found)
    )
    return f'<p class="key"><span><i style="background:{svg.DENSE}"></i>dense</span>{dots}</p>'


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _pareto(found: Sequence[Side]) -> str:
    key = compare.quality_key(found)
    if key is None:
        return ""
    marks = compare.placed(found, key, "nonzero")
    if len(marks) < 2:
        return ""
    label, _, less = compare.FIGURES[key]
    x = svg.axis("weights that are not zero", [mark[1] for mark in marks], zero=True)
    y = svg.axis(f"{label.lower()} ({'lower' if less else 'higher'} is better)", [mark[2] for mark in marks])
    best = [marks[at][1:3] for at in compare.front([mark[1:3] for mark in marks], less)]
    dots = [(name, a, b, svg.DENSE if number is None else svg.COLOURS[number]) for name, a, b, number in marks]
    return "<h2>Quality against size</h2>" + svg.points(x, y, dots, best)


def _layers(found: Sequence[Side]) -> str:
    names = sorted({str(layer["name"]) for at in found for layer in at.layers}, key=masks.by_block)
    if not names:
        return ""
    series = []
    for number, at in enumerate(found):
        own = {str(layer["name"]): 100 * float(layer["sparsity"]) for layer in at.layers}
        series.append((LETTERS[number], [own.get(name) for name in names], svg.COLOURS[number]))
    return "<h2>Where each took its share</h2>" + svg.lines("layers, first to last", svg.Axis("% removed", 0, 100), names, series)


def _overlap(found: Sequence[Side]) -> str:
    series, names = [], []
    for number, other in enumerate(found[1:], 1):
        told = masks.overlaps(found[0], other)
        names = names or [masks.label(row["name"]) for row in told]
        at = {masks.label(row["name"]): row["jaccard"] for row in told}
        if told:
            series.append((f"A and {LETTERS[number]}", [at.get(name) for name in names], svg.COLOURS[number]))
    if not series:
        return ""
    y = svg.Axis("overlap of what is pruned (Jaccard)", 0, 1.02)
    return "<h2>How far the others prune what A prunes</h2>" + svg.lines("masks, first to last", y, names, series)


def _robust(found: Sequence[Side]) -> str:
    alike = compare.measured_alike(found, "corruptions")
    told = [(name, at, svg.DENSE) if n is None else (LETTERS[n], at, svg.COLOURS[n]) for name, n, at in alike]
    if not told:
        return ""
    kinds = list(told[0][1])
    series = [
        (
            name,
            [
                100 * at[kind] if kind == "clean" else 100 * sum(at[kind].values()) / len(at[kind]) if kind in at else None
                for kind in kinds
            ],
            colour,
        )
        for name, at, colour in told
    ]
    return "<h2>Accuracy on corrupted images, mean over severities</h2>" + svg.bars(
        svg.Axis("accuracy (%)", 0, 100), kinds, series
    )


def _texts(found: Sequence[Side]) -> str:
    told = compare_words.texts(found)
    parts = [
        f"<h3>{escape(item['title'])}</h3><p>{escape(item['lead'])}</p><blockquote>{escape(item['text'])}</blockquote>"
        for item in told
    ]
    return "<h2>What they write</h2>" + "".join(parts) if parts else ""


def _recipes(found: Sequence[Side]) -> str:
    parts = [
        f"<h3>{LETTERS[n]} · {escape(at.name)}</h3><pre>{escape('# ' + to_command(at.recipe))}\n{escape(to_yaml(at.recipe, full=True))}</pre>"
        for n, at in enumerate(found)
        if at.recipe
    ]
    return "<h2>Recipes</h2>" + "".join(parts) if parts else ""


def _main(words: list[str]) -> None:
    out = Path(words[words.index("--out") + 1])
    found = [compare.side(Path(word).resolve()) for word in words[: words.index("--out")]]
    if len(found) > compare.MOST:
        raise ResourceError(f"{len(found)} runs were named, and at most {compare.MOST} can be told apart.", "Take some away.")
    folder.write_text(out, page(found))
    print(out)


if __name__ == "__main__":
    given = sys.argv[1:]
    good = len(given) >= 3 and given[-2] == "--out"
    sys.exit(answer(lambda: _main(given), USAGE, understood=good))
