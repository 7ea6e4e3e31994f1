"""How far the Budget room's prediction is off: random budgets predicted from the curves, then pruned and measured as a run would."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from statistics import median, quantiles

import torch

from core.budget import CostCurves, estimate, redistribute
from core.events import Silent
from core.model.inputs import text
from core.model.loading import LoadedModel, load
from core.model.looking import curves, unit_curves
from core.model.measuring.measure import perplexity
from core.model.pruning.step import prune
from core.model.units.groups import STRUCTURES
from core.recipe import Allocation, Curves, Prune
from tests.bench import Figure

BUDGETS, LOW, HIGH, AROUND = 30, 0.2, 0.6, 0.2
UNIT_BUDGETS, UNIT_LEVELS = 16, (0.3, 0.6)
MODELS = (  # source; windows of 256 tokens that the curves see, and that each pruning sees; test windows, and their tokens
    ("builtin:tiny-llama", 16, 32, 64, 256),
    ("builtin:smollm2-135m", 16, 8, 16, 256),
)
ABOUT = (
    f"{BUDGETS} random budgets, totals drawn evenly between {100 * LOW:.0f} and {100 * HIGH:.0f} %, half of them with a share for each block and half for "
    f"each layer, drawn within {100 * AROUND:.0f} % of the total. Predicted by one run of curves with the Budget room's settings (quality on WikiText-2 "
    "valid, 12 windows of 256), then each pruned by Wanda block by block and measured on WikiText-2 test: another text, another seed, and activations "
    "that are already pruned. The error is that of the increase of the log-perplexity, relative to the measured one. Whole neurons and heads: "
    f"{UNIT_BUDGETS} budgets of 10 to 50 % of the units."
)  # fmt: skip


def draw(layers, seed: int = 1) -> list[dict[str, float]]:
    """The budgets, none of which the curves' own run has seen."""
    chance, sizes = random.Random(f"bench {seed}"), {layer.name: layer.parameters for layer in layers}
    out = []
    for number in range(BUDGETS):
        total = chance.uniform(LOW, HIGH)
        unit = {layer.name: layer.block if number % 2 else layer.name for layer in layers}
        drawn = {name: chance.uniform(-AROUND, AROUND) for name in dict.fromkeys(unit.values())}
        out.append(redistribute({name: min(max(total + drawn[unit[name]], 0.0), 0.9) for name in sizes}, sizes, total))
    return out


def measured(loaded: LoadedModel, budgets: list[dict[str, float]], calibration: torch.Tensor, test: torch.Tensor) -> list[float]:
    """Log increase of each budget as a run measures it."""
    layers = loaded.anatomy.layers
    dense = {layer.path: loaded.module(layer.path).weight.detach().clone() for layer in layers}
    before, found = perplexity(loaded, test, Silent()), []
    for shares in budgets:
        prune(
            loaded,
            Prune(method="wanda", allocation=Allocation(method="by_hand", shares=shares)),
            lambda: calibration,
            0,
            Silent(),
        )
        found.append(math.log(perplexity(loaded, test, Silent()) / before))
        for path, weight in dense.items():
            loaded.module(path).weight.data.copy_(weight)
        print(f"  {len(found)} of {len(budgets)}", flush=True)
    return found


def measure() -> list[Figure]:
    weights = [figure for source, *protocol in MODELS for figure in _of(source, *protocol)]
    return weights + [figure for structure in STRUCTURES for figure in of_units("builtin:tiny-llama", structure)]


def of_units(source: str, structure: str) -> list[Figure]:
    """The same for whole neurons or heads: each budget cut out of a model of its own, as a run would."""
    loaded = load(source)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 16, 256, 0)
    start = time.monotonic()
    found = curves.measured_anew(loaded, Curves(structure=structure, levels=UNIT_LEVELS), ids, 0, Silent())
    took = time.monotonic() - start
    budgets = unit_curves.draw_budgets(found["measured"]["units"], UNIT_BUDGETS, "bench")
    calibration = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 32, 256, 1)
    test = text.sequences("builtin:wikitext2/test", loaded.tokenizer, 64, 256, 1)
    before, true = perplexity(loaded, test, Silent()), []
    for shares in budgets:
        by_hand = Allocation(method="by_hand", shares={block: share for block, share in shares.items() if share})
        step = Prune(method="wanda", structure=structure, allocation=by_hand)
        done = prune(load(source), step, lambda: calibration, 0, Silent()).loaded
        true.append(math.log(perplexity(done, test, Silent()) / before))
    off, inside = errors(found, budgets, true)
    name = f"{source.removeprefix('builtin:')}, whole {structure}"
    return [
        Figure(f"{name}: median relative error of the predicted increase", f"{100 * median(off):.1f} %", "<= 15 %", median(off) <= 0.15),
        Figure(f"{name}: measured values inside the interval shown", f"{inside} of {len(off)}"),
        Figure(f"{name}: the curves' run", f"{took:.0f} s"),
    ]  # fmt: skip


def _of(source: str, seen: int, windows: int, tests: int, tokens: int) -> list[Figure]:
    loaded = load(source)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, seen, 256, 0)
    start = time.monotonic()
    found = curves.measured_anew(loaded, Curves(), ids, 0, Silent())
    took = time.monotonic() - start
    budgets = draw(loaded.anatomy.layers)
    calibration = text.sequences("builtin:wikitext2/train", loaded.tokenizer, windows, 256, 1)
    test = text.sequences("builtin:wikitext2/test", loaded.tokenizer, tests, tokens, 1)
    true = measured(loaded, budgets, calibration, test)
    if keep := os.environ.get("PRUNARIUM_BENCH_KEEP"):  # to fit anew without the model
        name = source.removeprefix("builtin:")
        Path(keep, f"{name}.json").write_text(json.dumps({"curves": found, "budgets": budgets, "true": true, "took": took}))
    name = source.removeprefix("builtin:")
    off, inside = errors(found, budgets, true)
    alone, _ = errors(found | {"scale": 1.0, "power": 1.0}, budgets, true)
    return [
        Figure(f"{name}: median relative error of the predicted increase", f"{100 * median(off):.1f} %", "<= 15 %", median(off) <= 0.15),
        Figure(f"{name}: nine in ten of the errors are below", f"{100 * quantiles(off, n=10)[8]:.1f} %"),
        Figure(f"{name}: measured values inside the interval shown (nine in ten, it says)", f"{inside} of {len(off)}"),
        Figure(f"{name}: the same without the fitted scale and power", f"{100 * median(alone):.1f} %"),
        Figure(f"{name}: the curves' run", f"{took:.0f} s", "<= 180 s", took <= 180),
    ]  # fmt: skip


def errors(found: dict, budgets: list[dict[str, float]], true: list[float]) -> tuple[list[float], int]:
    """(relative error of each prediction, how many measured values lie in the predicted range)."""
    cost = {layer: tuple(values) for layer, values in found["cost"].items()}
    known = CostCurves(
        tuple(found["levels"]),
        cost,
        found["dense"],
        found["metric"],
        found["scale"],
        found["power"],
        found["within"],
        found["floor"],
    )
    sizes = dict.fromkeys(cost, 1)
    off, inside = [], 0
    for shares, increase in zip(budgets, true, strict=True):
        said = estimate(known, sizes, shares)
        low, middle, high = (math.log(value / known.dense) for value in (said.low, said.quality, said.high))
        off.append(abs(middle / increase - 1))
        inside += low <= increase <= high
    return off, inside
