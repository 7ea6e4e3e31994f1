"""Channels of the residual stream out, the same everywhere: scored in the dense model by all that reads and writes them, one pass at most."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError, RecipeError
from core.model import blocks
from core.model.anatomy import read_anatomy
from core.model.gradients import gradient_statistics
from core.model.loading import LoadedModel
from core.model.masks import finite, nearest
from core.model.measuring.counts import blank_image, check_in_memory
from core.model.measuring.latency import fixed_ids
from core.model.observe import have, observe_block, of_kind, stream
from core.model.pruning.pruned import Pruned, UnitCut
from core.model.pruning.task import Task
from core.model.units.groups import Group
from core.model.units.scoring import by_weight, sum_over_weights
from core.model.width.stream_width import NAME, accepted, channel_axes, channel_group, narrowed
from core.recipe import Prune
from core.report import LayerRow
from kernels.masks import keep_highest

_EVEN = 16  # some products want rows of whole 16 or 32 bytes, such as the experts' of torch
Statistics = dict[str, dict[str, Tensor]]


def prune_width(task: Task) -> Pruned:
    """Carry out a step for the width: a new model of the family's own config, loaded by from_pretrained. The old one stays as it was.

    The width is the nearest to the share asked for that the family's config accepts (Llama's wants a multiple of its heads). Raises RecipeError
    or ModelError before anything is made.
    """
    loaded, step = task.loaded, task.step
    _check(step)
    check_in_memory(loaded)
    anatomy = loaded.anatomy
    axes = channel_axes(loaded.model, anatomy.blocks, anatomy.hidden)
    group = channel_group(axes, anatomy.layers, anatomy.hidden)
    width = _width(loaded, step)
    scores = finite(_scores(task, group, _statistics(task, group)).float(), "the stream's channels").cpu()
    keep = keep_highest(scores[None], anatomy.hidden - width)[0].cpu()
    model = loaded.model if keep.all() else narrowed(loaded.model, axes, keep)
    after = replace(loaded, model=model, anatomy=loaded.anatomy if keep.all() else read_anatomy(model))
    _check_runs(after)
    lost = {name: parameter.shape[axes[name]] for name, parameter in loaded.model.named_parameters() if name in axes}
    parameters = sum(loaded.model.get_parameter(name).numel() for name in lost)
    reached = 1 - width / anatomy.hidden
    row = LayerRow(NAME, None, (anatomy.hidden,), parameters, step.sparsity, reached, float(scores.mean()))
    said = {"width": width, "width_before": anatomy.hidden}
    return Pruned(after, rows=(row,), scores={group.key: scores}, said=said, cuts=(UnitCut(group, keep),))


def _check(step: Prune) -> None:
    """A channel goes everywhere or nowhere, so there is one share, and nothing to choose."""
    if step.allocation.method != "uniform":
        raise RecipeError("The stream has one width for all blocks, so there is nothing to allocate.", "Leave allocation out.")
    if step.only or step.protect:
        raise RecipeError(
            "A channel of the stream goes from every block, embedding and head, so no part can be chosen.",
            "Leave only and protect out.",
        )


def _width(loaded: LoadedModel, step: Prune) -> int:
    hidden = loaded.anatomy.hidden
    wanted = max(hidden - nearest(step.sparsity * hidden), 1)
    if wanted == hidden:
        return hidden
    width = accepted(loaded.model.config, hidden, wanted)
    if width is None:
        raise ModelError(f"The config of {type(loaded.model).__name__} accepts no width near {wanted}.", "Ask for another share.")
    return width


def _statistics(task: Task, group: Group) -> Statistics:
    """{layer name: {statistic: tensor}} of the dense model: of gradients, and of what the layers are given, in one pass."""
    loaded, watcher = task.loaded, task.watcher
    needs, touched = task.method.needed(task.step.params), {part.path for part in group.everything}
    layers = [layer for layer in loaded.anatomy.layers if layer.path in touched]
    found = {
        name: dict(known)
        for name, known in gradient_statistics(loaded, layers, of_kind(needs, "gradient"), task.inputs, watcher).items()
    }
    if names := of_kind(needs, "layer", "block"):
        for block, module, hidden, extra in stream(loaded, task.inputs(), watcher, "observe"):
            part = replace(block, layers=tuple(layer for layer in block.layers if layer.path in touched))
            for name, known in observe_block(loaded, part, module, hidden, extra, names, watcher, keep_outputs=True)[0].items():
                found.setdefault(name, {}).update(known)
    return found


def _scores(task: Task, group: Group, statistics: Statistics) -> Tensor:
    """Of single weights: the sum over all rows and columns of a channel. Else asked with what each place reads of it."""
    method, params, layers = task.method, task.step.params, task.loaded.anatomy.by_path
    if by_weight(method):
        return sum_over_weights(task.loaded, group, method, params, statistics, task.seed)
    given: dict[str, Any] = have(None, (group.units,), task.generator(NAME), {})
    readers = [layers[part.path].name for part in group.everything if part.axis == 1]
    for name in of_kind(method.needed(params), "layer"):
        given[name] = torch.stack(_each_once([statistics[reader][name] for reader in readers]), 1)
    return method(given, params)


def _each_once(found: list[Tensor]) -> list[Tensor]:
    """Layers that read the same tensor (query, key and value) tell of one place: the same numbers one after another count once."""
    return [value for place, value in enumerate(found) if not place or not torch.equal(value, found[place - 1])]


def _check_runs(loaded: LoadedModel) -> None:
    """Raise ModelError where the narrower model does not run: no list of families can know what else is as wide as the stream."""
    pixels = blank_image(loaded)
    given = fixed_ids(loaded, 1, 8) if pixels is None else pixels
    try:
        with torch.no_grad():
            blocks.call(loaded, given)
    except Exception as error:  # a family's own code may fail in any way once a number is not what it was built for
        raise ModelError(
            f"{type(loaded.model).__name__} does not run with a narrower stream: it fails with {type(error).__name__}.",
            f"Ask for a share that leaves a multiple of {_EVEN} channels, or choose another structure for this model.",
        ) from error
