"""A cut tried on a copy of one block before the model is touched: no list of families can know every way in which heads are wired together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.model import blocks
from core.model.loading import LoadedModel
from core.model.measuring.counts import blank_image
from core.model.measuring.latency import fixed_ids
from core.model.units.groups import Group
from core.model.width.narrow import cut

_TOKENS = 8


def rehearse(loaded: LoadedModel, group: Group) -> None:
    """Cut one unit of this group out of a copy of its block, and see that the block then says what it says with zeros in the unit's place.

    Raises ModelError where it does not, or does not run at all; the model is as it was. Costs one forward of eight tokens and one block's memory.
    """
    block = loaded.anatomy.blocks[group.block]
    args, kwargs = block_arguments(loaded, loaded.module(block.path))
    keep = (torch.arange(group.steps) != group.steps // 2).repeat(group.alike)
    with stand_in(loaded, block.path) as copied, torch.no_grad():
        reader, ran = loaded.module(group.reader.path), []
        reader.register_forward_hook(lambda *_: ran.append(True))
        gone = group.reader.index[~keep].flatten().to(reader.weight.device)
        (reader.weight if isinstance(reader, nn.Linear) else reader.weight.T)[:, gone] = 0
        try:
            expected = first_output(copied(*args, **kwargs))
            cut(loaded.model, block, group, keep)
            found = first_output(copied(*args, **kwargs))
        except Exception as error:  # a family's own code may fail in any way once a number is not what it was built for
            raise _cannot(loaded, group, f"it fails with {type(error).__name__}") from error
    if not ran:  # attention to another model's output, in a decoder that stands alone
        raise _cannot(loaded, group, f"{group.reader.path} is never run")
    if differ(expected, found):
        raise _cannot(loaded, group, "what it says changes")


def rehearse_together(loaded: LoadedModel, groups: Sequence[Group]) -> None:
    """Cut one unit of every group out of a copy of the whole model, and see that it then says what it says with zeros in the units' places.

    Raises ModelError that names the first group that cannot do without; the model is as it was. Costs two forwards of an image and the model's memory.
    """
    groups = [group for group in groups if group.units > 1]
    if _together_fails(loaded, groups):
        for group in groups:
            if why := _together_fails(loaded, [group]):
                raise _cannot(loaded, group, why)
        raise _cannot(loaded, groups[0], "it is only together with others that what it says changes")


def _together_fails(loaded: LoadedModel, groups: Sequence[Group]) -> str:
    """Why one unit of each of these groups cannot go; empty where they can."""
    copied = replace(loaded, model=copy.deepcopy(loaded.model))
    keeps = [torch.arange(group.units) != group.units // 2 for group in groups]
    image = _image(loaded)
    with torch.no_grad():
        for group, keep in zip(groups, keeps, strict=True):
            for part in group.readers:
                copied.module(part.path).weight[:, part.index[~keep].flatten().to(loaded.device)] = 0
        try:
            expected = first_output(blocks.call(copied, image).to_tuple())
            for group, keep in zip(groups, keeps, strict=True):
                cut(copied.model, None, group, keep)
            found = first_output(blocks.call(copied, image).to_tuple())
        except Exception as error:  # a family's own code may fail in any way once a number is not what it was built for
            return f"it fails with {type(error).__name__}"
    return "what it says changes" if differ(expected, found) else ""


def differ(expected: Tensor, found: Tensor) -> bool:
    """Do two outputs differ by more than rounding?"""
    largest = float(expected.nan_to_num(0, 0, 0).abs().max())  # damaged weights are for the scores to find
    tolerance = max(1e-4, 4 * torch.finfo(expected.dtype).eps) * max(largest, 1e-3)
    return expected.shape != found.shape or not torch.allclose(expected, found, rtol=0, atol=tolerance, equal_nan=True)


def block_arguments(loaded: LoadedModel, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model hands this block on a short fixed input."""
    image = _image(loaded)
    inputs = fixed_ids(loaded, 1, _TOKENS) if image is None else image
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: found.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad():
            blocks.call(loaded, inputs)
    finally:
        handle.remove()
    args, kwargs = found[0]
    return args, {
        name: None if "past" in name else value for name, value in kwargs.items()
    }  # a cache would remember the first run


def _image(loaded: LoadedModel) -> Tensor | None:
    """One fixed image of noise; None for a model that takes none."""
    blank = blank_image(loaded)
    return None if blank is None else torch.rand(blank.shape, generator=torch.Generator().manual_seed(0)).to(blank)


@contextmanager
def stand_in(loaded: LoadedModel, path: str) -> Iterator[nn.Module]:
    """A copy of a module in its place, for as long as this lasts."""
    parent_path, _, name = path.rpartition(".")
    parent, original = loaded.module(parent_path), loaded.module(path)
    parent._modules[name] = copy.deepcopy(original)
    try:
        yield parent._modules[name]
    finally:
        parent._modules[name] = original


def first_output(output: Any) -> Tensor:
    return output[0] if isinstance(output, (tuple, list)) else output


def _cannot(loaded: LoadedModel, group: Group, why: str) -> ModelError:
    what = {"neurons": "one of its neurons", "heads": "one group of its heads", "query_heads": "a query head of each group",
            "channels": "one of its channels"}[group.structure]  # fmt: skip
    return ModelError(
        f"{group.name} of {type(loaded.model).__name__} cannot do without {what}: tried on a copy, {why}.",
        "Choose another structure for this model; how its parts belong together is not known here.",
    )
