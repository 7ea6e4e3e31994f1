"""Dense and pruned text side by side: the dense model's words coloured by how far the other is from it at each. Pure: report in, plain data out."""

from __future__ import annotations

from math import exp
from typing import Any

from core.report import final
from studio.parts import cards, facts

HEADERS = ["Prompt", "Token", "Model", "KL divergence (nats)", "Probability, dense", "Probability, this model"]
_NOTE = (
    "The dense model's own words, read by the model that came out: the deeper the colour, the farther its next-token distribution is from the dense "
    "model's there (KL divergence in nats). Each place is judged with the dense text before it, so one slip does not count twice."
)


def finding(report: dict[str, Any]) -> dict[str, Any] | None:
    """Where the model that came out is farthest from the dense one; None where that was not measured."""
    told = _final(report)
    tokens = [(kl, token, p, q) for at in told for kl, token, p, q in _tokens(at) if kl is not None]
    if not tokens:
        return None
    worst, token, dense, now = max(tokens, key=lambda one: one[0])
    middle = sorted(kl for kl, *_ in tokens)[len(tokens) // 2]
    word = token.strip() or "a line break"
    title = (
        f"It is farthest from the dense model at “{word}” ({worst:.2f} nats: {100 * dense:.0f} % likely before, {100 * now:.0f} % now); "
        f"half of all tokens stay within {middle:.2f}"
    )
    return facts.said(title, _NOTE, "measured")


def texts(report: dict[str, Any], prompts: list[str]) -> list[dict[str, Any]]:
    """As cards.sample_texts; the dense model's text in tokens, where they were measured."""
    out, told = [], _final(report)
    for item in cards.sample_texts(report, prompts):
        number = prompts.index(item["lead"])
        if item["title"] == cards.MOMENTS["dense"] and number < len(told):
            tokens = [[text, _level(kl), _hint(kl, dense, now)] for kl, text, dense, now in _tokens(told[number])]
            item = {**item, "title": "Dense, coloured by how far the other is", "tokens": _without_empty_lines(tokens)}
        out.append(item)
    return out


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Every token of every moment as a row: HEADERS says the columns."""
    out = []
    for moment in ("pruned", "recovered"):
        for number, told in enumerate((report.get(moment) or {}).get("divergence") or (), 1):
            for kl, token, dense, now in _tokens(told):
                figures = ["" if x is None else f"{x:.4g}" for x in (kl, dense, now)]
                out.append([str(number), token.replace("\n", "↵"), cards.MOMENTS[moment], *figures])
    return out


def _final(report: dict[str, Any]) -> list[dict[str, Any]]:
    return final(report)[1].get("divergence") or []


def _tokens(told: dict[str, Any]) -> list[tuple[float | None, str, float, float]]:
    pairs = zip(told["kl"], told["tokens"], told["dense"], told["pruned"], strict=True)
    return [(kl, str(token), float(dense or 0.0), float(now or 0.0)) for kl, token, dense, now in pairs]


def _level(kl: float | None) -> float:
    """0 where the two agree, near 1 from three nats on."""
    return 1.0 if kl is None else 1.0 - exp(-kl)


def _hint(kl: float | None, dense: float, now: float) -> str:
    return f"{'not a number' if kl is None else f'{kl:.3f} nats'}; {100 * dense:.1f} % likely in the dense model, {100 * now:.1f} % in this one"


def _without_empty_lines(tokens: list[list[Any]]) -> list[list[Any]]:
    """Small models love empty lines: of several in a row one is drawn. The table has them all."""
    out: list[list[Any]] = []
    for token in tokens:
        if not (out and not token[0].strip() and "\n" in token[0] and out[-1][0].endswith("\n")):
            out.append(token)
    return out
