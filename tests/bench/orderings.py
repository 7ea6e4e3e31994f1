"""Do the orderings that papers publish hold on SmolLM2-135M? Reported either way."""

from __future__ import annotations

import time
from typing import Any

from core.events import Silent
from core.model.inputs import text
from core.model.loading import load
from core.model.measuring.measure import perplexity as perplexity_of
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.bench import Figure

MODEL, TOKENS, SAMPLES, WINDOWS = "builtin:smollm2-135m", 512, 16, 32
ABOUT = (
    f"SmolLM2-135M-Instruct (dequantised Q4_1), float32. Calibration: {SAMPLES} x {TOKENS} tokens of WikiText-2 train, seed 0 (searches: 8 x 256). "
    f"Perplexity on WikiText-2 test: {WINDOWS} consecutive windows of {TOKENS} tokens, rows joined by a blank line, no stride: not the protocol of "
    "the section above. Seconds are of the prune step, single runs."
)
SEARCHES = {"sleb": (8, 256), "block_pruner": (4, 256)}  # sequences x tokens
HALF: dict[str, dict[str, Any]] = {
    "magnitude 50 %": {"method": "magnitude", "sparsity": 0.5},
    "Wanda 50 %": {"method": "wanda", "sparsity": 0.5},
    "SparseGPT 50 %": {"method": "sparsegpt", "sparsity": 0.5},
    "Wanda 4:8": {"method": "wanda", "structure": "4:8"},
    "Wanda 2:4": {"method": "wanda", "structure": "2:4"},
}
SPREAD: dict[str, dict[str, Any]] = {
    f"Wanda 70 %, {name}": {"method": "wanda", "sparsity": 0.7, "allocation": {"method": name}}
    for name in ("uniform", "owl", "erk", "global", "rate_distortion")
}
DEPTH: dict[str, dict[str, Any]] = {
    "20 % of the blocks, block influence": {"method": "block_influence", "structure": "blocks", "sparsity": 0.2},
    "20 % of the blocks, SLEB": {"method": "sleb", "structure": "blocks", "sparsity": 0.2},
}
WIDTH: dict[str, dict[str, Any]] = {
    "20 % of the neurons, random": {"method": "random", "structure": "neurons", "sparsity": 0.2},
    "20 % of the neurons, magnitude": {"method": "magnitude", "structure": "neurons", "sparsity": 0.2},
    "20 % of the neurons, FLAP": {"method": "flap", "structure": "neurons", "sparsity": 0.2},
}


def after(fields: dict[str, Any]) -> tuple[float, float]:
    """(perplexity, seconds) of the model after this prune step."""
    loaded = load(MODEL)
    shape = SEARCHES.get(fields["method"], (SAMPLES, TOKENS))
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, *shape, 0)
    start = time.perf_counter()
    loaded = prune(loaded, Prune(**fields), lambda: ids, 0, Silent()).loaded if fields["method"] != "dense" else loaded
    seconds = time.perf_counter() - start
    test = text.sequences("builtin:wikitext2/test", loaded.tokenizer, WINDOWS, TOKENS, None)
    return perplexity_of(loaded, test, Silent()), seconds


def measure() -> list[Figure]:
    found = {"dense": after({"method": "dense"})}
    for name, fields in (HALF | SPREAD | DEPTH | WIDTH).items():
        found[name] = after(fields)
        print(f"  {name}: {found[name][0]:.2f} ({found[name][1]:.0f} s)", flush=True)
    dense = found["dense"][0]
    rows = [
        Figure(name, f"{value:,.2f} ({value / dense:,.2f} x dense)" + (f", {seconds:.0f} s" if name != "dense" else ""))
        for name, (value, seconds) in found.items()
    ]
    best = found["Wanda 70 %, rate_distortion"][0]
    claims = (
        ("dense", "SparseGPT 50 %", "Wanda 50 %", "magnitude 50 %"),
        ("Wanda 50 %", "Wanda 4:8", "Wanda 2:4"),
        ("Wanda 70 %, owl", "Wanda 70 %, uniform"),
        ("20 % of the blocks, SLEB", "20 % of the blocks, block influence"),
    )
    for names in claims:
        values = [found[name][0] for name in names]
        rows.append(Figure(" < ".join(names), " < ".join(f"{value:,.1f}" for value in values), "holds", values == sorted(values)))
    others = {name: found[f"Wanda 70 %, {name}"][0] for name in ("uniform", "erk", "global")}
    said = f"{best:,.1f} against " + ", ".join(f"{name} {value:,.1f}" for name, value in others.items())
    rows.append(
        Figure("rate-distortion at least as good as uniform, ERK, global at 70 %", said, "holds", best <= min(others.values()))
    )
    return rows
