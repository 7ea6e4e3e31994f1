"""Small pieces that show figures and words: metric cards, texts side by side, one sentence. Words of runs and models are drawn as text only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr

from core.compare.words import written as written  # handed on
from studio.theme import BADGES, COLOURS

_CODE = Path(__file__).with_name("cards.js").read_text(encoding="utf-8")

# key in core.report.Metrics -> (label, is less better?); the order is the order on a card
FIGURES = {
    "perplexity": ("Perplexity", True),
    "bits_per_byte": ("Bits a byte", True),
    "accuracy": ("Accuracy", False),
    "nonzero": ("Non-zero weights", True),
    "parameters": ("Parameters", True),
    "size_bytes": ("Size on disk", True),
    "flops_per_token": ("FLOPs a token (image)", True),
    "latency_ms": ("Latency", True),
    "peak_memory_mb": ("Peak memory", True),
}
NOISY = {"latency_ms": 0.05, "peak_memory_mb": 0.05}  # two measurements differ by this share without any reason
MOMENTS = {"dense": "Dense", "pruned": "Pruned", "recovered": "Recovered"}


def figure_cards(**rest: Any) -> gr.HTML:
    """A card a moment of the model; its value comes from `moments`."""
    return _drawn("figures", "Figures", **rest)


def text_cards(**rest: Any) -> gr.HTML:
    """Texts side by side; its value is a list of {title, lead, text}."""
    return _drawn("texts", "Texts", **rest)


def sentence(**rest: Any) -> gr.HTML:
    """One sentence that stands out; its value is {text, wrong} or a plain string."""
    return _drawn("plan", "Plan", **rest)


def hint(text: str, **rest: Any) -> gr.HTML:
    """A quiet line for where nothing is yet."""
    return _drawn("quiet", "", value=text, **rest)


def _drawn(kind: str, label: str, value: Any = None, **rest: Any) -> gr.HTML:
    name = f' role="region" aria-label="{label}"' if label else ""
    return gr.HTML(
        value=value,
        html_template=f'<div class="{kind}"{name}></div>',
        js_on_load=_CODE,
        apply_default_css=False,
        elem_classes="drawn",
        **rest,
    )


def moments(report: dict[str, Any] | None, badge: str = "measured") -> list[dict[str, Any]]:
    """A card for each moment that the report has: its main figure large, the others below, each against the dense model."""
    assert badge in BADGES
    dense, other = (report or {}).get("dense") or {}, other_tokens(report)
    return [
        _card(key, title, report[key], dense, badge, other)
        for key, title in MOMENTS.items()
        if report and isinstance(report.get(key), dict)
    ]


def other_tokens(report: dict[str, Any] | None) -> bool:
    """Was the vocabulary changed after the dense model was measured? Perplexities a token are then not comparable; bits a byte are."""
    return bool((((report or {}).get("protocol") or {}).get("perplexity") or {}).get("dense_has_other_tokens"))


def main_figure(metrics: dict[str, Any], other: bool = False) -> str:
    """The quality figure a card leads with: perplexity (bits a byte where tokens are other ones), else accuracy, else what is left of the weights."""
    order = ("bits_per_byte", "accuracy") if other else ("perplexity", "accuracy")
    return next((key for key in order if metrics.get(key) is not None), "nonzero")


def _card(key: str, title: str, metrics: dict[str, Any], dense: dict[str, Any], badge: str, other: bool) -> dict[str, Any]:
    lead = main_figure(metrics, other)
    rows = []
    for name, (label, less) in FIGURES.items():
        if name != lead and metrics.get(name) is not None:
            against = None if other and name == "perplexity" else dense.get(name)
            rows.append([label, written(name, metrics[name]), _tone(metrics[name], against, less, NOISY.get(name, 0.0))])
    interval = metrics.get("accuracy_interval")
    if interval:
        rows.insert(0, ["95 % interval", " to ".join(written("accuracy", edge) for edge in interval), ""])
    change = "" if key == "dense" else _change(lead, metrics.get(lead), dense.get(lead))
    return {
        "title": title,
        "tone": COLOURS[key],
        "badge": badge,
        "big": written(lead, metrics.get(lead)),
        "unit": FIGURES[lead][0].lower() + change,
        "rows": rows,
    }


def _tone(value: float, dense: float | None, less: bool, slack: float) -> str:
    if dense is None or abs(value - dense) <= slack * abs(dense):
        return ""
    return "better" if (value < dense) == less else "worse"


def _change(key: str, value: float | None, dense: float | None) -> str:
    if value is None or not dense:
        return ""
    if key == "accuracy":
        return f", {100 * (value - dense):+.1f} points"
    factor = value / dense
    return f", {factor:.2f} × dense" if factor < 100 else f", {factor:,.0f} × dense"


def figure_rows(report: dict[str, Any] | None) -> list[list[str]]:
    """The same figures as rows of a table: figure, dense, pruned, recovered."""
    if not report:
        return []
    have = [report.get(moment) or {} for moment in MOMENTS]
    return [
        [label, *(written(key, metrics.get(key)) for metrics in have)]
        for key, (label, _) in FIGURES.items()
        if any(metrics.get(key) is not None for metrics in have)
    ]


def sample_texts(report: dict[str, Any] | None, prompts: list[str]) -> list[dict[str, str]]:
    """What the model wrote at each moment, prompt by prompt."""
    out = []
    for number, prompt in enumerate(prompts):
        for moment, title in MOMENTS.items():
            samples = ((report or {}).get(moment) or {}).get("samples") or []
            if number < len(samples):
                out.append(
                    {
                        "title": title,
                        "tone": COLOURS[moment],
                        "lead": prompt,
                        "text": _lines(str(samples[number]).removeprefix(prompt)),
                    }
                )
    return out


def _lines(text: str) -> str:
    """The text without its empty lines: small models love them."""
    return re.sub(r"[ \t]*\n\s*", "\n", text)
