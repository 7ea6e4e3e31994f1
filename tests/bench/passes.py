"""What observing and masking cost beside the two passes through the blocks that Wanda cannot do without."""

from __future__ import annotations

import time
from collections.abc import Callable

from core.events import Silent
from core.method import get
from core.model import blocks
from core.model.inputs import text
from core.model.loading import load
from core.model.masks import decide
from core.model.measuring.arithmetic import measured_speed
from core.model.observe import matrix, observe_block, stream
from tests.bench import Figure

MODEL = "builtin:smollm2-135m"
ABOUT = (
    "Wanda 50 % on SmolLM2-135M in float32, 32 x 512 tokens, without the head. For each block in turn: a plain dense pass (thrown away), then "
    "observing pass + masks + pruned pass. The ratio is of sums over the 30 blocks, taken in one run, so that the machine's mood cancels."
)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure() -> list[Figure]:
    loaded, watcher, wanda = load(MODEL), Silent(), get("score", "wanda")
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 32, 512, 0)
    spent = dict.fromkeys(("plain dense pass", "observing pass", "scores and masks", "pruned pass"), 0.0)
    for block, module, hidden, extra in stream(loaded, ids, watcher, "bench"):
        found: dict = {}

        def plain(module=module, hidden=hidden, extra=extra) -> None:
            for _ in blocks.through(module, hidden, extra, watcher):
                continue

        def observe(block=block, module=module, hidden=hidden, extra=extra, found=found) -> None:
            found |= observe_block(loaded, block, module, hidden, extra, ("input_norm",), watcher)[0]

        def mask(block=block, found=found) -> None:
            for layer in block.layers:
                weight = matrix(layer, loaded.module(layer.path).weight.data)
                scores = wanda({"weight": weight, **found[layer.name]})
                weight.masked_fill_(~decide(scores, "unstructured", 0.5, "row", layer.name), 0.0)

        spent["plain dense pass"] += seconds(plain)
        spent["observing pass"] += seconds(observe)
        spent["scores and masks"] += seconds(mask)
        spent["pruned pass"] += seconds(lambda m=module, h=hidden, e=extra: blocks.advance(m, h, e, watcher))
    needed = spent["plain dense pass"] + spent["pruned pass"]
    whole = spent["observing pass"] + spent["scores and masks"] + spent["pruned pass"]
    ratio = whole / needed
    return [Figure(name, f"{value:.1f} s") for name, value in spent.items()] + [
        Figure("bfloat16 products, times as fast as float32 (one thread)", f"{measured_speed():.1f} x"),
        Figure("observing + masking over the two passes", f"{ratio:.3f} x", "<= 1.15 x", ratio <= 1.15),
    ]
