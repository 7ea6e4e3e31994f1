"""A mixture of experts and the calibration text at its entrance: statistics of its experts, and what is lost without some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from core.errors import ModelError
from core.events import Watcher
from core.method import Method, get
from core.model import blocks
from core.model.mixture.experts import ExpertLayer
from core.model.mixture.routing import Routed, listening, mixed, output_of, router_without

_TOKENS = 256  # of which the outputs of all experts, chosen or not, are in memory at once


@dataclass(frozen=True)
class Visit:
    """One block's experts with the hidden states at the block's entrance, which stay as they are."""

    model: nn.Module
    layer: ExpertLayer
    block: nn.Module
    hidden: blocks.Hidden
    extra: blocks.Arguments
    watcher: Watcher


def observed(visit: Visit, names: Sequence[str]) -> dict[str, Tensor]:
    """{statistic of experts: tensor} while all batches pass the block."""
    methods = [get("statistic", name) for name in names]
    states: dict[str, Any] = {}

    def fold(routed: Routed) -> None:
        for method in methods:
            states[method.card.name] = method.function(states.get(method.card.name), routed)

    passing(visit, fold)
    sequences = sum(len(batch) for batch in visit.hidden)
    return {method.card.name: method.extra["finish"](states[method.card.name], sequences) for method in methods}


def passing(visit: Visit, fold: Callable[[Routed], None]) -> None:
    """Run all batches through the block, and hand what reaches its experts to `fold`. The hidden states stay as they are."""
    with torch.no_grad(), listening(visit.model, visit.layer, fold):
        for _ in blocks.through(visit.block, visit.hidden, visit.extra, visit.watcher):
            pass


def searched(visit: Visit, method: Method, params: Mapping[str, Any], count: int, draw: Generator) -> tuple[Tensor, float | None]:
    """What a search leaves of a block's experts (bool, one an expert), and what the mixture's output loses by that."""
    units = tuple(str(expert) for expert in range(visit.layer.count))
    if not count:
        return torch.ones(len(units), dtype=torch.bool), 0.0
    known: dict[frozenset[str], float] = {}

    def errors(sets: Sequence[Any]) -> list[float]:
        fresh = list(dict.fromkeys(frozenset(each) for each in sets if frozenset(each) not in known))
        if fresh:
            known.update(zip(fresh, _errors(visit, [_kept(units, gone) for gone in fresh]), strict=True))
        return [known[frozenset(each)] for each in sets]

    given = {"units": units, "count": count, "errors": errors, "generator": draw, "watcher": visit.watcher}
    gone = frozenset(method(given, params))
    if len(gone) != count or not gone < set(units):
        raise ModelError(f"{method.card.label} did not name {count} of {visit.layer.name}.", "Use another method.")
    return _kept(units, gone), known.get(gone)


def _kept(units: Sequence[str], gone: frozenset[str]) -> Tensor:
    return torch.tensor([unit not in gone for unit in units])


def _errors(visit: Visit, kept: Sequence[Tensor]) -> list[float]:
    """How much of the experts' joint output is lost, |whole - rest|^2 / |whole|^2, with each of these sets left: one pass for all of them."""
    layer, asked = visit.layer, {}
    routes = [router_without(visit.model, layer, keep) for keep in kept]
    lost, whole = torch.zeros(len(kept), dtype=torch.float64), 0.0

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asked["by"] = (args, kwargs)

    def fold(routed: Routed) -> None:
        nonlocal whole
        dense = mixed(routed.experts, routed).float()
        whole += float(dense.double().square().sum())
        args, kwargs = asked["by"]
        chosen = [route(*args, **kwargs) for route in routes]
        for tokens in torch.arange(len(dense)).split(_TOKENS):
            said = torch.stack([output_of(routed.experts, e, routed.inputs[tokens]).float() for e in range(layer.count)], 1)
            for place, (experts, gates) in enumerate(chosen):
                visit.watcher.check()
                where = experts[tokens][..., None].expand(-1, -1, said.shape[-1])
                rest = said.gather(1, where).mul_(gates[tokens][..., None].float()).sum(1)
                lost[place] += float((dense[tokens] - rest).double().square().sum())

    handle = visit.model.get_submodule(layer.parent).register_forward_pre_hook(note, with_kwargs=True)
    try:
        passing(visit, fold)
    finally:
        handle.remove()
    return (lost / whole).tolist() if whole > 0 else [0.0] * len(kept)
