"""Does recovery data chosen by damage heal as well as random data? tiny-llama on its own kind of text, 5 seeds, reported either way."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from core import builtins, proof, recipe
from core.events import Silent
from core.run import run
from tests.bench import Figure

SEEDS, ROWS, FIFTH = 5, 400, 0.2
ABOUT = (
    f"{ROWS} paragraphs of WikiText-2 train (of more than 80 characters, evenly drawn, their first 64 tokens), tiny-llama with 60 % of its weights gone "
    f"(Wanda, 32 calibration sequences of 128), healed by LoRA (2e-3, one pass, batches of 4 x 64). {SEEDS} seeds; for each a fifth of the rows is held "
    "out and measured. 12 clusters on TF-IDF. Differences are paired by seed, with their 95 % interval; below 0 the first is better."
)


def found(**changes: Any) -> dict[str, Any]:
    """The report's field of the job; `changes` go into select."""
    texts = [line.strip() for line in builtins.read_text("wikitext2/train") if len(line) > 80]
    with tempfile.TemporaryDirectory(prefix="prunarium-healing-") as room:
        place = Path(room)
        pd.DataFrame({"text": texts[:: len(texts) // ROWS][:ROWS]}).to_csv(place / "paragraphs.csv", index=False)
        asked = recipe.parse({
            "recipe": 1, "name": "healing", "model": {"source": "builtin:tiny-llama"}, "calibration": {"samples": 32, "tokens": 128},
            "steps": [{"prune": {"method": "wanda", "sparsity": 0.6}}], "data": {"source": str(place / "paragraphs.csv")},
            "embedding": {"source": "tfidf"}, "clusters": {"count": 12}, "select": {"method": "damage", **changes},
            "heal": {"method": "lora", "learning_rate": 2e-3, "shares": [FIFTH], "seeds": SEEDS, "tokens": 64, "rows": ROWS},
        })  # fmt: skip
        told = run(asked, place / "run", Silent()).heal
    assert told is not None
    return told


def measure() -> list[Figure]:
    told = found()
    lines = told["lines"]
    levels = {who: [level[who] for level in told["levels"]] for who in ("dense", "pruned")}
    out = [Figure(f"held-out perplexity, {who}", f"{sum(each) / len(each):.2f}") for who, each in levels.items()]
    for one in told["summary"]:
        spread = f" ({one['low']:.2f} to {one['high']:.2f})" if one["low"] is not None else ""
        out.append(Figure(f"healed on {100 * one['share']:g} %, {one['selector']}", f"{one['mean']:.2f}{spread}"))
    fifth = {who: proof.figures(lines, who, FIFTH) for who in ("damage", "random", "random + distillation")}
    for other, goal in (("random", "at least equal"), ("random + distillation", "")):
        gap = proof.paired(fifth["damage"], fifth[other])
        out.append(Figure(f"a fifth of the tokens: damage minus {other}", _said(gap), goal, _no_worse(gap) if goal else None))
    gap = proof.paired(fifth["damage"], proof.figures(lines, "all"))
    return [*out, Figure("damage on a fifth of the tokens minus all tokens", _said(gap), "at least equal", _no_worse(gap))]


def _said(gap: tuple[float, float | None, float | None, int] | None) -> str:
    if gap is None or gap[1] is None or gap[2] is None:
        return "not measured"
    return f"{gap[0]:+.3f} of perplexity ({gap[1]:+.3f} to {gap[2]:+.3f}, {gap[3]} seeds)"


def _no_worse(gap: tuple[float, float | None, float | None, int] | None) -> bool:
    """The interval does not lie wholly above 0: lower is better."""
    return gap is not None and gap[1] is not None and gap[1] <= 0


if __name__ == "__main__":
    for figure in measure():
        print(f"{figure.what}: {figure.figure} {'(' + figure.goal + ': ' + str(figure.held) + ')' if figure.goal else ''}")
