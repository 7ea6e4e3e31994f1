"""A report as a short table for a terminal. Takes report.json as read, so it needs no torch and shows old reports too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean
from typing import Any

_FIGURES = {  # key in Metrics -> (label, how it is written)
    "perplexity": ("perplexity", lambda x: f"{x:,.2f}"),
    "bits_per_byte": ("bits a byte", lambda x: f"{x:.3f}"),
    "accuracy": ("accuracy", lambda x: f"{x:.2%}"),
    "parameters": ("parameters", lambda x: f"{x:,}"),
    "nonzero": ("non-zero", lambda x: f"{x:,}"),
    "size_bytes": ("size, MB", lambda x: f"{x / 1e6:,.2f}"),
    "flops_per_token": ("MFLOPs a token (image)", lambda x: f"{x / 1e6:,.1f}"),
    "latency_ms": ("latency, ms", lambda x: f"{x:,.1f}"),
}


def text(report: dict[str, Any]) -> str:
    """The figures that were measured: a column for each moment of the model, then what the data half found, then seconds and memory."""
    parts = [
        _moments(report),
        _tokens(report),
        _formulas(report.get("formulas") or {}),
        _data(report),
        _proof(report.get("prove") or ()),
        _healing(report.get("heal") or {}),
        _crossing(report.get("cross") or {}),
        _cost(report),
    ]
    return "\n\n".join(part for part in parts if part)


def _moments(report: dict[str, Any]) -> str:
    moments = [name for name in ("dense", "pruned", "recovered") if report.get(name)]
    rows = []
    for key, (label, written) in _FIGURES.items():
        values = [report[name].get(key) for name in moments]
        if any(value is not None for value in values):
            rows.append([label, *("" if value is None else written(value) for value in values)])
    for name, share in (report.get("sparsity") or {}).items():
        rows.append([f"zeros ({name.replace('_', ' ')})", *[""] * (len(moments) - 1), f"{share:.2%}"])
    return _columns([["", *moments], *rows]) if moments and rows else ""


def _healing(found: dict[str, Any]) -> str:
    """Held-out perplexity by who chose the rows that healed, and how many tokens they had."""
    if not found:
        return ""
    levels = [[who, "", f"{mean(level[who] for level in found['levels']):,.2f}"] for who in ("dense", "pruned")]
    healed = [[f"healed, {one['selector']}", f"{one['share']:.0%}", f"{one['mean']:,.2f}"] for one in found["summary"]]
    return _columns([["", "of the tokens", "held-out perplexity"], *levels, *healed])


def _crossing(found: dict[str, Any]) -> str:
    """Mean accuracy of each share of rows with each share of weights."""
    if not found:
        return ""
    rows, weights = (sorted({cell[name] for cell in found["cells"]}) for name in ("rows", "weights"))
    at = {(cell["rows"], cell["weights"]): f"{cell['mean']:.2%}" for cell in found["cells"]}
    head = ["weights kept", *(f"{share:.3g} of rows" for share in rows)]
    return _columns([head, *([f"{part:.3g}", *(at[share, part] for share in rows)] for part in weights)])


def _tokens(report: dict[str, Any]) -> str:
    if ((report.get("protocol") or {}).get("perplexity") or {}).get("dense_has_other_tokens"):
        return "The vocabulary is another one than the dense model's: do not compare their perplexities; compare bits a byte."
    return ""


def _formulas(found: dict[str, Any]) -> str:
    """The best formulas of a genetic search, then what the best is worth on text that it was not chosen by."""
    if not found:
        return ""
    rows = [("perplexity", "second look", "formula")]
    rows += [
        (f"{row['perplexity']:,.2f}", f"{row['again']:,.2f}" if row.get("again") else "", row["formula"])
        for row in found["best"][:5]
    ]
    lines = [f"{first:>10}  {again:>11}  {formula}" for first, again, formula in rows]
    held = found.get("held_out") or {}
    figures = [f"{name} {held[name]:,.2f}" for name in ("dense", "magnitude", "wanda", "formula") if held.get(name) is not None]
    proof = [f"held out ({held['source']}): {', '.join(figures)}"] if figures else []
    return "\n".join([f"{found['tried']} formulas tried, {found['worked']} work", *lines, *proof])


def _data(report: dict[str, Any]) -> str:
    data = report.get("data") or {}
    rows, kept = data.get("rows"), data.get("kept")
    if not rows or kept is None:
        return ""
    return f"kept {kept:,} of {rows:,} rows ({kept / rows:.1%})"


def _proof(proofs: Iterable[dict[str, Any]]) -> str:
    """Mean accuracy (of a language model perplexity) over the seeds, a line for each share and selector."""
    proofs = list(proofs)
    key = "perplexity" if any(proof.get("perplexity") is not None for proof in proofs) else "accuracy"
    groups: dict[tuple[float, str], list[float]] = defaultdict(list)
    for proof in proofs:
        if proof.get(key) is not None:
            groups[proof["share"], proof["selector"]].append(proof[key])
    written = _FIGURES[key][1]
    rows = [
        [f"{100 * share:.4g}%", name, written(mean(found)), str(len(found))] for (share, name), found in sorted(groups.items())
    ]
    return _columns([["share", "selector", key, "seeds"], *rows]) if rows else ""


def _cost(report: dict[str, Any]) -> str:
    seconds = {name: value for name, value in (report.get("seconds") or {}).items() if name != "total"}
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    peak = report.get("peak_rss_mb")
    return "; ".join(part for part in (stages, f"peak memory {peak:,.0f} MB" if peak else "") if part)


def _columns(rows: list[list[str]]) -> str:
    """Rows as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)
