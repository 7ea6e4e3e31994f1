"""Run one benchmark or all, print what was measured, and put it into docs/benchmarks.md between the marks of its name."""

from __future__ import annotations

import datetime
import importlib
import platform
import re
import sys
from pathlib import Path

import psutil

from tests.bench import Figure

NAMES = (
    "quality",
    "passes",
    "memory",
    "screen",
    "kernels",
    "endtoend",
    "orderings",
    "methods",
    "peers",
    "prediction",
    "selectors",
    "duplicates",
    "large_data",
    "fidelity",
    "shrunk",
    "healing",
)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def section(name: str, about: str, figures: list[Figure]) -> str:
    """The Markdown of one benchmark."""
    import torch

    machine = f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}, torch {torch.__version__}"
    lines = [
        f"`python3 launch.py bench {name}` · {datetime.date.today()} · {machine}",
        "",
        about,
        "",
        "| what | figure | goal | holds |",
        "|---|---|---|---|",
    ]
    said = {True: "yes", False: "**no**", None: ""}
    return "\n".join(lines + [f"| {f.what} | {f.figure} | {f.goal} | {said[f.held]} |" for f in figures])


def put(name: str, text: str) -> None:
    """Replace the section between the marks, or add it at the end."""
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else "# Benchmarks\n"
    block = f"{marks[0]}\n{text}\n{marks[1]}"
    pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n## {name.capitalize()}\n\n{block}\n"
    DOCUMENT.write_text(new, encoding="utf-8")


def main(arguments: list[str]) -> int:
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        print(f"There is no benchmark called {unknown[0]!r}. There are: {', '.join(NAMES)}.", file=sys.stderr)
        return 2
    for name in arguments or NAMES:
        module = importlib.import_module(f"tests.bench.{name}")
        print(f"{name}: {module.ABOUT}", flush=True)
        figures = module.measure()
        for figure in figures:
            print(f"  {figure.what}: {figure.figure}  {'(goal: ' + figure.goal + ')' if figure.goal else ''}", flush=True)
        put(name, section(name, module.ABOUT, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
