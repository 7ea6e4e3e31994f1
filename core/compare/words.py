"""Runs side by side in words and rows: figures as people read them, differences with their intervals, who is best, what each writes. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from core import compare
from core.compare import LETTERS, Side


def written(key: str, value: float | None) -> str:
    """A figure as people read it; "not measured" for None."""
    if value is None:
        return "not measured"
    if key == "perplexity":
        return f"{value:,.2f}" if value < 1e5 else f"{value:.2e}"
    if key == "bits_per_byte":
        return f"{value:.3f}"
    if key == "accuracy":
        return f"{value:.1%}".replace("%", " %")
    if key == "size_bytes":
        return f"{value / 1e6:,.1f} MB"
    if key == "flops_per_token":
        return f"{value / 1e6:,.1f} M"
    if key == "latency_ms":
        return f"{value:,.1f} ms"
    if key == "peak_memory_mb":
        return f"{value:,.0f} MB"
    return f"{value:,.0f}"


def headers(found: Sequence[Side]) -> list[str]:
    return ["Figure", "Dense", *(LETTERS[: len(found)]), *(f"{LETTERS[n]} against A" for n in range(1, len(found)))]


def figure_rows(found: Sequence[Side]) -> list[list[str]]:
    """Figure by figure: dense, each run, each other run against the first with its 95 % interval. A figure that none has is left out."""
    rows = []
    for key, (label, _, _) in compare.FIGURES.items():
        if all(at.final.get(key) is None for at in found):
            continue
        dense = list(dict.fromkeys(written(key, at.dense.get(key)) for at in found))
        rows.append(
            [
                label,
                " / ".join(dense),
                *(written(key, at.final.get(key)) for at in found),
                *(said(key, compare.difference(key, found[0], other)) for other in found[1:]),
            ]
        )
    return rows


def said(key: str, found: compare.Difference | None) -> str:
    """A difference in words: -3.1 % (-4.0 to -2.2)."""
    if found is None:
        return ""
    if found.why:
        return "not comparable"
    if found.change is None:
        return ""
    if found.change == 0:
        return "equal"
    unit = "points" if key == "accuracy" else "%"
    between = f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})" if found.low is not None and found.high is not None else ""
    return f"{100 * found.change:+.1f} {unit}{between}"


def verdict(found: Sequence[Side]) -> str:
    """The first thing to know, in a sentence: which run is best in quality, and whether the interval leaves room for doubt."""
    key = compare.quality_key(found)
    have = [
        (at, n)
        for n, at in enumerate(found)
        if key and at.final.get(key) is not None and not compare.incomparable(key, found[0], at)
    ]
    if key is None or len(have) < 2:
        return "Quality was not measured alike in these runs, so none can be called the better one."
    less = compare.FIGURES[key][2]
    have.sort(key=lambda item: item[0].final[key] if less else -item[0].final[key])
    (best, one), (second, two) = have[:2]
    words = f"{LETTERS[one]} has the best {compare.FIGURES[key][0].lower()}: {written(key, best.final[key])}"
    if best.final[key] == second.final[key]:
        return (
            f"{LETTERS[one]} and {LETTERS[two]} have the same {compare.FIGURES[key][0].lower()}: {written(key, best.final[key])}."
        )
    read = "these images" if key == "accuracy" else "this text"
    bounds = compare.interval(key, best.final, second.final)
    if bounds is None:
        return f"{words}. How sure that is, is not known: the runs kept no figures by window or image."
    if bounds[0] <= 0 <= bounds[1]:
        return f"{words}, but {LETTERS[two]} is within the noise of {read} (95 % interval)."
    return f"{words}, surely better than {LETTERS[two]} on {read} (95 % interval)."


def texts(found: Sequence[Side]) -> list[dict[str, str]]:
    """What the dense model and each final model write, prompt by prompt."""
    out = []
    prompts = list(dict.fromkeys(prompt for at in found for prompt in _prompts(at)))
    for prompt in prompts:
        dense = next((at for at in found if prompt in _prompts(at)), None)
        sides: list[tuple[str, dict[str, Any], Side]] = [("Dense", dense.dense, dense)] if dense else []
        sides += [(f"{LETTERS[n]} · {at.moment}", at.final, at) for n, at in enumerate(found) if prompt in _prompts(at)]
        for title, metrics, at in sides:
            samples = metrics.get("samples") or []
            number = _prompts(at).index(prompt)
            if number < len(samples):
                out.append({"title": title, "lead": prompt, "text": re.sub(r"[ \t]*\n\s*", "\n", str(samples[number]))})
    return out


def _prompts(at: Side) -> list[str]:
    return list(at.recipe.measure.generate) if at.recipe else []
