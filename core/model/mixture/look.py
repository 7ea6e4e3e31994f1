"""Experts beside one another: how alike their weights and their answers are, and which of them each kind of text visits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from core import builtins
from core.errors import PrunariumError
from core.model.anatomy import Block
from core.model.blocks import known_ids
from core.model.inputs import text
from core.model.looking.duplicates import unit_vectors
from core.model.looking.lens import Lens, visit
from core.model.mixture.routing import Routed, output_of
from core.model.mixture.search import passing

KINDS = {"encyclopaedia": "wikitext2/test", "Python manual": "python-docs", "questions": "trec/test", "tweets": "disaster-tweets",
         "film reviews": "rotten-tomatoes"}  # fmt: skip
_SAMPLES, _TOKENS = 8, 128
_ASKED = 256  # tokens that every expert is asked about


def experts_alike(lens: Lens, block: Block) -> dict[str, Any]:
    """`weights`, `answers`: experts x experts mean cosines, of all their weights, and of what they say to the same tokens of the calibration text."""
    vectors = normalize(unit_vectors(lens.loaded, block, "experts"), dim=1)
    layer, at = visit(lens, block)
    heard: list[Tensor] = []

    def keep(routed: Routed) -> None:
        if not heard:
            heard.append(routed.inputs[:_ASKED])

    passing(at, keep)
    experts = lens.loaded.module(layer.path)
    with torch.no_grad():
        said = [normalize(output_of(experts, expert, heard[0]).float(), dim=-1) for expert in range(layer.count)]
    answers = [[float((a * b).sum(-1).mean()) for b in said] for a in said]
    return {"block": block.name, "count": layer.count, "top_k": layer.top_k, "tokens": len(heard[0]),
            "weights": (vectors @ vectors.T).tolist(), "answers": answers}  # fmt: skip


def visits_by_kind(lens: Lens, block: Block) -> dict[str, Any]:
    """{kind of text: each expert's share of the visits}; `left_out`: kinds whose text is not on this machine."""
    shares, left_out = {}, []
    for kind, name in KINDS.items():
        if not builtins.present(name.partition("/")[0]):
            left_out.append(kind)
            continue
        try:
            layer, at = visit(lens, block, known_ids(lens.loaded, _windows(lens, name)))
        except PrunariumError:
            left_out.append(kind)
            continue
        visits = torch.zeros(layer.count, dtype=torch.float64)

        def count(routed: Routed, visits: Tensor = visits) -> None:
            visits.add_(routed.per_expert(torch.ones_like(routed.gates)).cpu())

        passing(at, count)
        shares[kind] = (visits / visits.sum()).tolist()
    return {"block": block.name, "tokens": _SAMPLES * _TOKENS, "shares": shares, "left_out": left_out}


def _windows(lens: Lens, name: str) -> Tensor:
    """The first windows of a text; rows of a table are joined by line ends."""
    if builtins.find(name)[0].kind == "text":
        return text.sequences(f"builtin:{name}", lens.loaded.tokenizer, _SAMPLES, _TOKENS, None)
    rows = [row for row in builtins.read_table(name).frame["text"] if row.strip()][: _SAMPLES * _TOKENS]
    ids = lens.loaded.tokenizer("\n".join(rows))["input_ids"]
    return torch.tensor(ids[: _SAMPLES * _TOKENS]).view(_SAMPLES, _TOKENS)
