"""Runs side by side as one HTML file that needs nothing else: no script, no request, every word escaped. Torch-free.

python -m core.compare.page RUN_FOLDER [RUN_FOLDER ...] --out FILE.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from html import escape
from math import exp
from pathlib import Path

from core import compare, folder
from core.command import answer
from core.compare import LETTERS, Side, pictures, svg
from core.compare import words as compare_words
from core.errors import ResourceError
from core.recipe import to_yaml
from core.views import slug, to_command

USAGE = "python -m core.compare.page RUN_FOLDER [RUN_FOLDER ...] --out FILE.html"
_STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;
color:#1b2620;background:#fff}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%;font-size:.9rem;
font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8886}.wide{overflow-x:auto}.wide svg{min-width:520px}
h1,h2{overflow-wrap:anywhere}svg{width:100%;height:auto}
svg text{font-size:11px;fill:currentColor}pre{overflow-x:auto;background:#8881;padding:.8rem;border-radius:8px;font-size:.82rem}.key{display:flex;
flex-wrap:wrap;gap:.3rem 1.2rem;font-size:.88rem}.key i{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}blockquote{
margin:.3rem 0 1rem;padding-left:1rem;border-left:3px solid #8886;white-space:pre-wrap}
details{margin:.4rem 0 1.4rem}summary{cursor:pointer}h3{font-size:1rem;margin:.2rem 0}
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
        pictures.table(compare_words.headers(found), compare_words.figure_rows(found)),
        *pictures.all_of(found),
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


def _texts(found: Sequence[Side]) -> str:
    told = compare_words.texts(found)
    parts = [
        f"<h3>{escape(item['title'])}</h3><p>{escape(item['lead'])}</p><blockquote>{escape(item['text'])}</blockquote>"
        for item in told
    ]
    parts += [_apart(n, at) for n, at in enumerate(found) if at.final.get("divergence")]
    return "<h2>What they write</h2>" + "".join(parts) if parts else ""


def _apart(number: int, at: Side) -> str:
    """The dense model's words, coloured by how far this run's model is from it at each."""
    words, line = "", ""
    for told in at.final["divergence"]:
        for kl, token in zip(told["kl"], map(str, told["tokens"]), strict=True):
            if not (line.endswith("\n") and not token.strip() and "\n" in token):  # of several empty lines one is enough
                words += _token(kl, token)
            line = token
    return (
        f"<h3>Dense, coloured by how far {LETTERS[number]} is from it</h3>"
        '<p class="note">KL divergence of the next token, in nats; deepest from three nats on.</p>'
        f"<blockquote>{words}</blockquote>"
    )


def _token(kl: float | None, token: str) -> str:
    hint, depth = ("not a number", 0.8) if kl is None else (f"{kl:.3f} nats", 0.8 * (1 - exp(-kl)))
    return f'<span title="{hint}" style="background:rgba(217,119,43,{depth:.2f})">{escape(token)}</span>'


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
