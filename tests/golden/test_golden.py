"""Seeded runs on the built-in tiny-llama give what they gave when they were written down: `python -m tests.golden.test_golden` writes them anew.

A golden mask changes only with a version bump of its method and a line in CHANGELOG.md. Criteria that read the weights alone must match to the
bit; those that read activations may differ where another processor adds in another order, in one weight of a thousand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.events import Silent
from core.model.inputs import text
from core.model.loading import load
from core.model.pruning.step import prune, pruner
from core.recipe import Prune

HERE = Path(__file__).resolve().parent
FACTS, MASKS = HERE / "golden.json", HERE / "golden.safetensors"
LAYER = "model.layers.2.mlp.up_proj"
STEPS = {
    "magnitude": ({"method": "magnitude", "sparsity": 0.5}, 1.0),
    "magnitude-global": ({"method": "magnitude", "sparsity": 0.5, "allocation": {"method": "global"}}, 1.0),
    "random": ({"method": "random", "sparsity": 0.3}, 1.0),
    "wanda": ({"method": "wanda", "sparsity": 0.5}, 0.999),
    "wanda-2-4": ({"method": "wanda", "structure": "2:4"}, 0.999),
    "sparsegpt": ({"method": "sparsegpt", "sparsity": 0.5}, 0.99),
    "block-influence": ({"method": "block_influence", "structure": "blocks", "sparsity": 0.34}, 1.0),
}


def outcome(name: str) -> tuple[dict, torch.Tensor | None]:
    """(facts, mask of one layer) of one golden step."""
    fields, _ = STEPS[name]
    loaded = load("builtin:tiny-llama")
    ids = text.sequences("builtin:wikitext2/valid", loaded.tokenizer, 8, 64, 0)
    done = prune(loaded, Prune(**fields), lambda: ids, 0, Silent())
    facts = {"version": pruner(fields["method"]).card.version, "removed": list(done.removed)}
    if done.rows and not done.removed:
        facts["zeros"] = {row.name: round(row.sparsity, 4) for row in done.rows[14:21]}
    return facts, done.masks[LAYER].unpack() if LAYER in done.masks else None


@pytest.mark.parametrize("name", STEPS)
def test_a_seeded_run_gives_what_it_gave(name):
    golden, (facts, mask) = json.loads(FACTS.read_text())[name], outcome(name)
    assert facts["version"] == golden["version"], (
        "the method's version was bumped: write the golden file anew, with a line in CHANGELOG.md"
    )
    assert facts == golden
    if mask is not None:
        agree = float((load_file(MASKS)[name] == mask).float().mean())
        assert agree >= STEPS[name][1], f"{agree:.5f} of the mask agrees: bump the method's version, or mend what changed"


def write() -> None:
    found = {name: outcome(name) for name in STEPS}
    FACTS.write_text(json.dumps({name: facts for name, (facts, _) in found.items()}, indent=1) + "\n")
    save_file({name: mask.contiguous() for name, (_, mask) in found.items() if mask is not None}, MASKS)


if __name__ == "__main__":
    sys.exit(write())
