"""The list of methods, from the catalogue file. Standard library only: `launch.py methods` answers before anything is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent.parent / "assets" / "catalogue.json"


def show(methods: list[dict[str, Any]], as_json: bool) -> None:
    """Print cards as core.catalogue writes them: a line each, or all as one line of JSON."""
    if as_json:
        print(json.dumps(methods, ensure_ascii=False))
        return
    for card in methods:
        paper = card["paper"]
        said = f"{paper['authors'].split(',')[0]} {paper['year']}" if paper else ""
        print(f"{card['kind']:12} {card['name']:18} {card['label']:28} {said:14} {card['problem'] or card['summary']}")


def main(arguments: list[str]) -> int:
    show(json.loads(FILE.read_text(encoding="utf-8"))["methods"], "--json" in arguments)
    return 0
