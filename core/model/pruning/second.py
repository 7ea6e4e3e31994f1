"""A second model beside the one that is pruned: what a method's parameter of the grammar "model" names (the base before fine-tuning, say)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.errors import ModelError, PrunariumError
from core.method import Method
from core.model.loading import LoadedModel, load
from core.model.mixture.experts import expert_layers

_ALIKE = "Name the model that this one was made from, or another of the same shapes, and put this step before those that change shapes."


def second_models(loaded: LoadedModel, method: Method, params: Mapping[str, Any]) -> dict[str, LoadedModel]:
    """{parameter: model} for each parameter with which this method names a second model. Its blocks are alike those of `loaded`, class, names and shapes.

    Its weights are left in the file until `block` or `outside` asks for them. Raises PrunariumError where there is no such model, or it is not alike.
    """
    named = {param.name: params.get(param.name, param.default) for param in method.card.params if param.grammar == "model"}
    return {name: _opened(loaded, name, str(source).strip()) for name, source in named.items()}


def _opened(loaded: LoadedModel, name: str, source: str) -> LoadedModel:
    try:
        second = load(source, device=str(loaded.device), lazy=True)
    except PrunariumError as error:
        problem = f"The second model ({name}) cannot be opened: {error.problem[:1].lower()}{error.problem[1:]}"
        raise type(error)(problem, error.remedy) from None
    mine, its = type(loaded.model).__name__, type(second.model).__name__
    if mine != its:
        raise ModelError(f"The second model ({name}), {source}, is a {its}, and {loaded.name} is a {mine}.", _ALIKE)
    if why := _unlike(loaded, second):
        raise ModelError(f"The second model ({name}), {source}, is not alike: {why}.", _ALIKE)
    return replace(second, name=source)


def _unlike(loaded: LoadedModel, second: LoadedModel) -> str:
    """How the blocks of two models differ in number, experts, names or shapes; empty where they do not. Embeddings may differ, as vocabularies do."""
    blocks, others = loaded.anatomy.blocks, second.anatomy.blocks
    if len(blocks) != len(others):
        return f"it has {len(others)} blocks, and {loaded.name} has {len(blocks)}"
    if "experts" not in {*loaded.anatomy.refused, *second.anatomy.refused}:
        here, there = (expert_layers(each.model, each.anatomy.blocks)[0].count for each in (loaded, second))
        if here != there:
            return f"a block has {there} experts, and {here} in {loaded.name}"
    mine, its = _shapes(loaded), _shapes(second)
    for key in (*mine, *its):
        if mine.get(key) != its.get(key):
            there, here = (" by ".join(map(str, shape)) if shape else "not there" for shape in (its.get(key), mine.get(key)))
            return f"{key} is {there}, and {here} in {loaded.name}"
    return ""


def _shapes(loaded: LoadedModel) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all parameters in blocks."""
    return {
        f"{block.path}.{name}": tuple(parameter.shape)
        for block in loaded.anatomy.blocks
        for name, parameter in loaded.module(block.path).named_parameters()
    }
