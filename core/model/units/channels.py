"""Which channels of a convolutional network belong together: found by torch-pruning, which follows one image through the model.

A channel is a row of every layer that makes it and a column of every layer that reads it. Where blocks add to one stream, all that write it share
its channels. What a channel passes on its way must do without it exactly: a norm over channels (LayerNorm) would have another mean, so its
stream stays whole; so does what is concatenated with something else.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.model.loading import LoadedModel
from core.model.measuring.counts import blank_image
from core.model.units.groups import CHANNELS, Group, Part
from core.model.width.narrow import CONVOLUTIONS, NORMS, depthwise

_LAYERS = (*CONVOLUTIONS, nn.Linear)
_ANOTHER = "Choose another structure for this model."


def channel_groups(loaded: LoadedModel) -> tuple[Group, ...]:
    """The groups of channels that can go one by one, in the order of their layers. No weight changes. Raises ModelError where there is none."""
    paths = {module: path for path, module in loaded.model.named_modules()}
    found = [_group(loaded, items, paths) for items in _coupled(loaded)]
    groups = sorted(
        (group for group in found if group is not None), key=lambda group: list(paths.values()).index(group.parts[0].path)
    )
    if all(group.units == 1 for group in groups):
        raise ModelError(
            f"In {type(loaded.model).__name__} no channel goes only through layers and norms that can do without it.", _ANOTHER
        )
    streams = iter(range(len(groups)))
    return tuple(_named(loaded, group, streams) for group in groups)


def _coupled(loaded: LoadedModel) -> list[list[tuple[Any, Any, list[int], list[int]]]]:
    """Of each set of axes that go together: (module or parameter, is it its rows, indices on its axis, the channel of each)."""
    import torch_pruning

    image = blank_image(loaded)
    if image is None:
        raise ModelError(loaded.anatomy.refused[CHANNELS], _ANOTHER)
    with _traced(loaded.model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells which parameters it found outside layers; such groups are left out below
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(loaded.model, image, output_transform=_logits, verbose=False)
            groups = list(graph.get_all_groups(root_module_types=_LAYERS))
        except Exception as error:  # a model's own forward may do what the library cannot follow, and fail in any way
            why = f"torch-pruning fails with {type(error).__name__}"
            raise ModelError(
                f"How the channels of {type(loaded.model).__name__} belong together cannot be told: {why}.", _ANOTHER
            ) from error
    return [
        [
            (item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler), item.idxs, item.root_idxs)
            for item in group.items
        ]
        for group in groups
    ]


@contextmanager
def _traced(model: nn.Module) -> Iterator[None]:
    """The library follows gradients: for as long as this lasts all parameters have some."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


def _logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def _group(
    loaded: LoadedModel, items: Sequence[tuple[Any, Any, list[int], list[int]]], paths: dict[nn.Module, str]
) -> Group | None:
    """The group of these axes; None where a channel of it cannot go by itself, or nothing reads it."""
    units = len(items[0][2])
    sorted_in: dict[str, list[Part]] = {"made": [], "read": [], "norm": []}
    for module, rows, indices, roots in items:
        kind = _kind(module, rows)
        if kind == "passed":
            continue
        if kind not in sorted_in or module not in paths:
            return None
        index = _index(indices, roots, units, _size(module, rows))
        if index is None:
            return None
        sorted_in[kind].append(Part(paths[module], 0 if rows else 1, index))
    made, read, norms = ({part.path: part for part in found}.values() for found in sorted_in.values())
    if not read:
        return None
    order = list(paths.values())
    made, read = (sorted(parts, key=lambda part: order.index(part.path)) for parts in (made, read))
    return Group("", None, CHANNELS, units, tuple(made), read[0], tuple(read[1:]), tuple(norms))


def _kind(module: Any, rows: bool) -> str:
    """What a channel meets: made | read (a layer's rows, columns), norm, passed (something without weights), else what it cannot be taken from."""
    if isinstance(module, _LAYERS):
        if isinstance(module, CONVOLUTIONS) and module.groups > 1 and not depthwise(module):
            return "grouped"
        return "made" if rows or depthwise(module) else "read"
    if isinstance(module, NORMS):
        return "norm" if module.weight is not None else "bare norm"
    if isinstance(module, nn.Module) and not any(True for _ in module.parameters()) and not isinstance(module, nn.GroupNorm):
        return "passed"
    return "other"


def _size(module: nn.Module, rows: bool) -> int:
    """How long the axis is."""
    if isinstance(module, NORMS):
        return module.num_features
    return module.weight.shape[0 if rows else 1]


def _index(indices: list[int], roots: list[int], units: int, size: int) -> Tensor | None:
    """(units, entries): the indices of each unit, ascending. None where the units do not own the axis in equal parts."""
    counts = Counter(roots)
    if sorted(indices) != list(range(size)) or len(counts) != units or len(set(counts.values())) != 1:
        return None
    pairs = sorted(zip(roots, indices, strict=True))
    return torch.tensor([index for _, index in pairs]).reshape(units, -1)


def _named(loaded: LoadedModel, group: Group, streams: Iterator[int]) -> Group:
    """A group by the name of the layer that makes its channels; where several blocks do, as a stream."""
    layers = loaded.anatomy.by_path
    blocks = {layers[part.path].block for part in group.parts}
    alone = len(blocks) == 1 and (None not in blocks or len(group.parts) == 1)
    name = layers[group.parts[0].path].name if alone else f"stream.{next(streams)}"
    return Group(
        name, blocks.pop() if alone else None, CHANNELS, group.units, group.parts, group.reader, group.more_readers, group.beside
    )
