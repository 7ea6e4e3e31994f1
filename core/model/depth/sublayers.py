"""Attention and MLP as units of their own: which modules of a block are one, found by what the block gives without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.model import blocks
from core.model.anatomy import Block, Layer, read_anatomy
from core.model.depth.bypass import Unit, answering
from core.model.depth.gone import Gone, gone_from, take_out
from core.model.loading import LoadedModel
from core.model.measuring.counts import blank_image, check_in_memory
from core.model.measuring.latency import fixed_ids
from core.model.width.widths import settle

PARTS = {"attention": (("query", "key", "value", "qkv"), "output"), "mlp": (("gate", "up", "mlp"), "down")}
_TOKENS = 8
_States = tuple[Tensor, blocks.Arguments]


def sublayer_units(loaded: LoadedModel) -> dict[str, Unit]:
    """All sub-layers by name (blocks.3.attention, blocks.3.mlp), in order. Raises ModelError where a block's cannot be told apart."""
    check_in_memory(loaded)
    states, there = _states(loaded), gone_from(loaded.model)
    units = {}
    for block, state in zip(loaded.anatomy.blocks, states, strict=True):
        for part in PARTS:
            if _was_there(loaded, block, part, there):
                name = f"{block.name}.{part}"
                gone = _modules_of(loaded, block, part, state)
                size = sum(parameter.numel() for path in gone for parameter in loaded.module(path).parameters())
                units[name] = Unit(name, block.index, block.path, size, gone)
    return units


def remove_sublayers(loaded: LoadedModel, units: Sequence[Unit]) -> LoadedModel:
    """Take sub-layers out for good, with the norms that nothing else reads, and say so in the config. Blocks stay, and keep their numbers."""
    states = _states(loaded)
    for block, state in zip(loaded.anatomy.blocks, states, strict=True):
        gone = {path: kind for unit in units if unit.block == block.index for path, kind in unit.gone.items()}
        take_out(loaded.model, _with_norms(loaded, block, gone, state) if gone else {})
    settle(loaded.model)
    return replace(loaded, anatomy=read_anatomy(loaded.model))


def _was_there(loaded: LoadedModel, block: Block, part: str, gone: Mapping[str, str]) -> bool:
    """False for a sub-layer that an earlier step took out. Raises ModelError for one that has no layers and was not."""
    into, out_of = _layers(block, part)
    if into and len(out_of) == 1:
        return True
    if not into and not out_of and any(path.startswith(f"{block.path}.") for path in gone):
        return False
    raise _untold(loaded, block, part)


def _layers(block: Block, part: str) -> tuple[list[Layer], list[Layer]]:
    """The layers that lead into a sub-layer, and those that lead out of it."""
    into, out_of = PARTS[part]
    return [layer for layer in block.layers if layer.role in into], [layer for layer in block.layers if layer.role == out_of]


def _untold(loaded: LoadedModel, block: Block, part: str) -> ModelError:
    return ModelError(
        f"The {part} of {block.name} of {type(loaded.model).__name__} is not a part that can be taken out by itself.",
        "Choose structure: blocks for this model.",
    )


def _modules_of(loaded: LoadedModel, block: Block, part: str, state: _States) -> dict[str, str]:
    """{module path: kind of stand-in} that takes a sub-layer out: the block then gives what it gives when the layer out of it gives zeros."""
    into, (out,) = _layers(block, part)
    expected = _without(loaded, block, {out.path: "zeros"}, state)
    whole, inner = _common([*into, out]), _common(into)
    kinds = _kinds(loaded, block, (whole, inner), state)
    ways = []
    if whole != block.path:
        ways.append({whole: kinds.get(whole)})
    if part == "mlp":  # layers that lie in the block itself (OPT), or beside a norm of the sum (BERT)
        ways.append({layer.path: "zeros" for layer in (*into, out)})
    elif inner not in (block.path, whole) and inner not in {layer.path for layer in into}:
        ways.append({inner: kinds.get(inner), out.path: "zeros"})
    for way in ways:
        if all(way.values()):
            found = _without(loaded, block, way, state)
            if found is not None and torch.equal(found, expected):
                return _with_norms(loaded, block, way, state)
    raise _untold(loaded, block, part)


def _with_norms(loaded: LoadedModel, block: Block, gone: Mapping[str, str], state: _States) -> dict[str, str]:
    """The same, and the norms whose answer the block does not need any more."""
    gone = dict(gone)
    expected = _without(loaded, block, gone, state)
    for path in block.norms:
        if path in gone or any(path.startswith(f"{other}.") for other in gone):
            continue
        found = _without(loaded, block, {**gone, path: "identity"}, state)
        if found is not None and torch.equal(found, expected):
            gone[path] = "identity"
    return gone


def _common(layers: Sequence[Layer]) -> str:
    """The path of the smallest module that holds these layers; of one layer, its own."""
    steps = [layer.path.split(".") for layer in layers]
    shared = next((at for at, names in enumerate(zip(*steps, strict=False)) if len(set(names)) > 1), min(map(len, steps)))
    return ".".join(steps[0][:shared])


def _kinds(loaded: LoadedModel, block: Block, paths: Sequence[str], state: _States) -> dict[str, str]:
    """{module path: the stand-in that answers as it does}, from one forward: a tensor, or a tensor and something that nobody needs."""
    seen: dict[str, str] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen[path] = "zeros"
            elif isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
                seen[path] = "attention"

        return hook

    handles = [loaded.module(path).register_forward_hook(note(path)) for path in set(paths)]
    try:
        _without(loaded, block, {}, state)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _without(loaded: LoadedModel, block: Block, gone: Mapping[str, str], state: _States) -> Tensor | None:
    """What the block gives without these modules; None where it cannot run without them."""
    hidden, (args, kwargs) = state
    modules = {path: loaded.module(path) for path in gone}
    with answering({module: Gone(gone[path], module).forward for path, module in modules.items()}), torch.no_grad():
        try:
            after = loaded.module(block.path)(hidden, *args, **kwargs)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return None  # this family's block asks more of that module than an answer
    return after[0] if isinstance(after, tuple) else after


def _states(loaded: LoadedModel) -> list[_States]:
    """The hidden state of one short input at each block's entrance, and what else the block is handed."""
    pixels = blank_image(loaded)
    if pixels is None:
        given = fixed_ids(loaded, 1, _TOKENS)
    else:
        given = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)).to(pixels)
    extras, hidden = blocks.arguments(loaded, given), blocks.enter(loaded, given)
    states = []
    for block, extra in zip(loaded.anatomy.blocks, extras, strict=True):
        states.append((hidden[0].clone(), extra))
        with torch.no_grad():
            after = loaded.module(block.path)(hidden[0], *extra[0], **extra[1])
        hidden = [after[0] if isinstance(after, tuple) else after]
    return states
