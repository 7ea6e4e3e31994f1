"""Mixtures of experts: which module of a block holds the experts, which one routes tokens to them, and taking experts out of both.

transformers keeps all experts of a block as parameters of one module, an expert a row: gate_up_proj (experts, 2 * inner, hidden), down_proj
(experts, hidden, inner), called as experts(inputs, chosen, gates). Found from shapes; names are read only for numbers that modules and configs hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.model.units.groups import Part

if TYPE_CHECKING:
    from core.model.anatomy import Block

COUNTS = re.compile(r"^(moe_)?(num|n)_(local_|routed_)?experts$")
PER_TOKEN = re.compile(r"^(top_k|(num_)?experts_per_tok(en)?|moe_(k|topk|top_k)|top_k_experts)$")
_ANOTHER = "Choose another structure for this model."


@dataclass(frozen=True)
class ExpertLayer:
    """The experts of one block. `name`: blocks.I.experts. `path`: the module that holds them; `parent`: the one that calls router and experts;
    `router`: the one whose matrix (experts, hidden) scores them. `count`: experts there are; `top_k`: those that a token visits."""

    name: str
    block: int
    path: str
    parent: str
    router: str
    count: int
    top_k: int
    parameters: int
    parts: tuple[Part, ...] = ()  # the router, where it is a layer that a mask of single weights may lie on

    @property
    def key(self) -> str:
        """What the mask file calls it."""
        return self.name

    @property
    def everything(self) -> tuple[Part, ...]:
        return self.parts


def expert_layers(model: nn.Module, blocks: Sequence[Block]) -> tuple[ExpertLayer, ...]:
    """The experts of every block that has some, in order. Raises ModelError, in a sentence, where there are none or they are not understood."""
    what = type(model).__name__
    layers = tuple(_layer(model, block, path) for block in blocks for path in _holders(model, block))
    if not layers:
        named = any("expert" in type(part).__name__.lower() or "moe" in type(part).__name__.lower() for part in model.modules())
        why = "does not keep the experts of a block in one module, and no other way is known here" if named else ""
        raise ModelError(f"{what} {why or 'is not a mixture of experts'}.", _ANOTHER)
    if len({layer.block for layer in layers}) < len(layers):
        raise ModelError(f"A block of {what} has two sets of experts, and what one does to the other is not known.", _ANOTHER)
    return layers


def why_not(model: nn.Module, blocks: Sequence[Block]) -> str:
    """The reason why these blocks have no experts to remove, a sentence; empty where they have."""
    try:
        layers = expert_layers(model, blocks)
    except ModelError as error:
        return error.problem
    return "" if any(layer.count > 1 for layer in layers) else f"Each block of {type(model).__name__} has one expert."


def _holders(model: nn.Module, block: Block) -> list[str]:
    """Modules of a block with two or more three-dimensional weights of their own, alike in their first dimension."""
    found = []
    for inner, module in model.get_submodule(block.path).named_modules(prefix=block.path):
        thick = [parameter for parameter in module.parameters(recurse=False) if parameter.dim() == 3]
        if len(thick) >= 2 and len({len(parameter) for parameter in thick}) == 1 and inner != block.path:
            found.append(inner)
    return found


def _layer(model: nn.Module, block: Block, path: str) -> ExpertLayer:
    experts, parent = model.get_submodule(path), path.rpartition(".")[0]
    count = next(len(parameter) for parameter in experts.parameters(recurse=False) if parameter.dim() == 3)
    if len(signature(experts.forward).parameters) != 3:
        raise ModelError(
            f"{path} of {type(model).__name__} is not handed inputs, choices and gates, so its routing is not known.", _ANOTHER
        )
    routers = [
        place for place, module in _beside(model, parent, path)
        for weight in module.parameters(recurse=False) if weight.dim() == 2 and len(weight) == count
    ]  # fmt: skip
    if len(routers) > 1:
        routers = [place for place in routers if re.search(r"gate|router", place.removeprefix(parent))]
    if len(routers) != 1:
        raise ModelError(f"The router of the experts at {path} of {type(model).__name__} was not found.", _ANOTHER)
    router = model.get_submodule(routers[0])
    parts = (Part(routers[0], 0, torch.arange(count)[:, None]),) if isinstance(router, nn.Linear) else ()
    parameters = sum(p.numel() for module in (experts, router) for p in module.parameters())
    top_k = _top_k(model, parent, routers[0])
    return ExpertLayer(f"{block.name}.experts", block.index, path, parent, routers[0], count, top_k, parameters, parts)


def _beside(model: nn.Module, parent: str, experts: str) -> Iterator[tuple[str, nn.Module]]:
    """(path, module) of everything in a mixture but its experts."""
    for path, module in model.get_submodule(parent).named_modules(prefix=parent):
        if not f"{path}.".startswith(f"{experts}."):
            yield path, module


def _top_k(model: nn.Module, parent: str, router: str) -> int:
    places = [router]
    while places[-1] != parent:
        places.append(places[-1].rpartition(".")[0])
    config = getattr(model, "config", None)
    holders = [model.get_submodule(path) for path in places] + ([config.get_text_config()] if config is not None else [])
    for holder in holders:
        for name, value in vars(holder).items():
            if PER_TOKEN.match(name) and _whole(value) and value > 0:
                return value
    raise ModelError(f"How many experts a token of {type(model).__name__} visits was not found.", _ANOTHER)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def cut_experts(model: nn.Module, layer: ExpertLayer, keep: Tensor) -> None:
    """Leave only the experts that `keep` (bool, one an expert) names: their weights, their rows in the router, and the numbers that tell of them."""
    experts, kept = model.get_submodule(layer.path), keep.cpu().nonzero().flatten()
    for name, parameter in list(experts.named_parameters(recurse=False)):
        if len(parameter) == layer.count:
            _shorten(experts, name, 0, kept)
    cut_router(model, layer, kept)


def cut_router(model: nn.Module, layer: ExpertLayer, kept: Tensor) -> None:
    """Leave the experts of these numbers to the router: its rows, what else has a number an expert (biases), and the counts."""
    for module, name, axis in rows(model, layer):
        _shorten(module, name, axis, kept)
    router = model.get_submodule(layer.router)
    if isinstance(router, nn.Linear):
        router.out_features = len(kept)
    tell(model.get_submodule(layer.parent), layer, len(kept))


def rows(model: nn.Module, layer: ExpertLayer) -> list[tuple[nn.Module, str, int]]:
    """(module, name, axis) of every tensor beside the experts that has an entry an expert: the router's matrix first, then biases."""
    found = []
    for path, module in _beside(model, layer.parent, layer.path):
        held = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for name, tensor in held.items():
            if path == layer.router and tensor.dim() == 2 and len(tensor) == layer.count:
                found.insert(0, (module, name, 0))
            elif tensor.numel() == layer.count and layer.count in tensor.shape:
                found.append((module, name, list(tensor.shape).index(layer.count)))
    return found


def _shorten(module: nn.Module, name: str, axis: int, kept: Tensor) -> None:
    old = getattr(module, name)
    new = old.detach().index_select(axis, kept.to(old.device))
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new)


def tell(module: nn.Module, layer: ExpertLayer, kept: int) -> None:
    """Set the numbers of experts that a module and those inside it hold."""
    for part in module.modules():
        tell_one(part, layer, kept)


def tell_one(holder: Any, layer: ExpertLayer, kept: int) -> None:
    """Set the numbers of experts that one module or configuration holds. A token visits fewer where fewer than its number are left."""
    for name, value in list(vars(holder).items()):
        if _whole(value) and value == layer.count and COUNTS.match(name):
            setattr(holder, name, kept)
        elif _whole(value) and value == layer.top_k and PER_TOKEN.match(name):
            setattr(holder, name, min(value, kept))
