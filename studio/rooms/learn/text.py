"""The little Markdown that lessons are written in, as plain data for the page, which draws every piece as text. Pure.

Paragraphs, `- ` lists, **strong**, *emphasis*, `code`. Anything else stays what it is: text.
"""

from __future__ import annotations

import re
from typing import Any

_SPAN = re.compile(r"\*\*(?P<b>[^*\n]+)\*\*|\*(?P<i>[^*\n]+)\*|`(?P<code>[^`\n]+)`")


def blocks(text: str) -> list[dict[str, Any]]:
    """[{"kind": "p", "spans": [[tag or "", text], ...]} or {"kind": "ul", "items": [spans, ...]}, ...]."""
    out: list[dict[str, Any]] = []
    for part in re.split(r"\n[ \t]*\n", text.strip()):
        items = _items(part)
        if items:
            out.append({"kind": "ul", "items": [spans(item) for item in items]})
        elif part.strip():
            out.append({"kind": "p", "spans": spans(part)})
    return out


def _items(part: str) -> list[str]:
    """The items of a list; nothing where the paragraph is none."""
    lines = part.strip().split("\n")
    if not lines[0].startswith("- "):
        return []
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(line[2:])
        else:
            items[-1] += f" {line.strip()}"
    return items


def spans(text: str) -> list[list[str]]:
    """A paragraph as [tag, text] pairs; lines are joined."""
    flat, out, end = " ".join(text.split()), [], 0
    for hit in _SPAN.finditer(flat):
        if hit.start() > end:
            out.append(["", flat[end : hit.start()]])
        out.append([hit.lastgroup or "", hit[hit.lastgroup or 0]])
        end = hit.end()
    return [*out, ["", flat[end:]]] if end < len(flat) else out
