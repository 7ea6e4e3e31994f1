"""One streaming calibration pass: statistics of a block's layers, and of the block itself, while its inputs move through it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Progress, Watcher, follow
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Block, Layer
from core.model.loading import LoadedModel
from core.model.memory import give_back

Statistics = dict[str, Tensor]
NO_STATISTIC = frozenset(
    {"scores", "curves", "fitness"}
)  # needs of allocators that are made from statistics, and are none themselves


def observe_block(
    loaded: LoadedModel, block: Block, module: nn.Module, hidden: blocks.Hidden, extra: blocks.Arguments, names: Sequence[str],
    watcher: Watcher, keep_outputs: bool = False, also: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[dict[str, Statistics], Statistics]:  # fmt: skip
    """Collect statistics while all batches pass a block: ({layer name: {statistic: tensor}}, {statistic of the block: tensor}).

    names: statistics to collect. keep_outputs: the hidden states become the block's outputs, in place; else they stay as they are.
    also(batch, before, after) sees each batch.
    """
    wanted = [get("statistic", name) for name in names]
    of_layer = [method for method in wanted if method.extra["of"] == "layer"]
    of_block = [method for method in wanted if method.extra["of"] == "block"]
    sequences = sum(len(batch) for batch in hidden)
    states: dict[str, Any] = {}
    if not (of_block or also or keep_outputs):
        return _inputs_only(loaded, block, module, hidden, extra, of_layer, sequences, watcher), {}
    with _collecting(loaded, block.layers, of_layer) as collected:
        for number, after in blocks.through(module, hidden, extra, watcher):
            before = hidden[number]
            for method in of_block:
                if before.shape != after.shape:
                    raise ModelError(f"{block.name} changes the shape of its input, so {method.card.label.lower()} is not defined for it.",
                                     "Choose a criterion for single weights, or allocation uniform.")  # fmt: skip
                states[method.card.name] = method.function(states.get(method.card.name), before.float(), after.float())
            if also:
                also(number, before, after)
            if keep_outputs:
                blocks.replace(hidden, number, after)
    return _finished(loaded, collected, of_layer, sequences), {
        m.card.name: m.extra["finish"](states[m.card.name], sequences) for m in of_block
    }


def _finished(
    loaded: LoadedModel, collected: Mapping[str, dict[str, Any]], methods: Sequence[Method], sequences: int
) -> dict[str, Statistics]:
    if unseen := [name for name, state in collected.items() if methods and not state]:
        place, _, last = unseen[0].rpartition(".")
        whole = all(
            name in unseen for name in collected if name.startswith(f"{place}.")
        )  # an attention to another model's output, say
        raise ModelError(
            f"{type(loaded.model).__name__} does not run {unseen[0]}, or reads its weight without running it, so what it is given is not seen.",
            f"Protect it (*.{place.rpartition('.')[2] + '.*' if whole else last}), or use magnitude or random.",
        )
    return {
        name: {m.card.name: m.extra["finish"](state[m.card.name], sequences) for m in methods}
        for name, state in collected.items()
    }


def observe_whole(
    loaded: LoadedModel, layers: Sequence[Layer], inputs: Tensor, names: Sequence[str], watcher: Watcher, stage: str
) -> dict[str, Statistics]:
    """{layer name: {statistic: tensor}} of any layers, while all inputs go through the whole model, a batch of images at a time.

    A grouped convolution's inputs are those of all its groups.
    """
    methods = [get("statistic", name) for name in names]
    batches = inputs.split(blocks.BATCH_IMAGES)
    with _collecting(loaded, layers, methods, grouped=True) as collected, torch.no_grad():
        for part in follow(batches, stage, watcher, len(batches)):
            blocks.call(loaded, part)
    return _finished(loaded, collected, methods, len(inputs))


class _Enough(Exception):
    """Every layer has seen its input."""


def _inputs_only(
    loaded: LoadedModel, block: Block, module: nn.Module, hidden: blocks.Hidden, extra: blocks.Arguments, methods: Sequence[Method],
    sequences: int, watcher: Watcher,
) -> dict[str, Statistics]:  # fmt: skip
    """Statistics of the layers' inputs alone: once the last layer has seen its input, its own product (a quarter of a Llama block) is not needed.

    The first batch runs through and says how many inputs there are; later ones end at the last.
    """
    seen: list[int] = []
    with _collecting(loaded, block.layers, methods) as collected:
        places = [loaded.module(layer.path) for layer in block.layers] if methods else []
        handles = [place.register_forward_pre_hook(_ending(seen)) for place in places]
        try:
            for before in hidden:
                watcher.check()
                seen.append(0)
                with torch.no_grad(), suppress(_Enough):
                    module(before, *extra[0], **extra[1])
        finally:
            for handle in handles:
                handle.remove()
    return _finished(loaded, collected, methods, sequences)


def _ending(seen: list[int]) -> Callable[[nn.Module, Any], None]:
    """Counts the inputs of a forward in seen[-1]; ends a later one where it has seen as many as the first."""

    def count(module: nn.Module, args: Any) -> None:
        seen[-1] += 1
        if len(seen) > 1 and seen[-1] == seen[0]:
            raise _Enough

    return count


def stream(
    loaded: LoadedModel, inputs: Tensor, watcher: Watcher, stage: str
) -> Iterator[tuple[Block, nn.Module, blocks.Hidden, blocks.Arguments]]:
    """Visit the blocks in order with the hidden states at their entrance. The visitor must move the hidden states on."""
    watcher.check()
    watcher.say(Progress(stage, 0, len(loaded.anatomy.blocks)))
    extras = blocks.arguments(loaded, inputs)
    hidden = blocks.enter(loaded, inputs, blocks.batch_for(extras))
    give_back()
    for block, extra in zip(loaded.anatomy.blocks, extras, strict=True):
        with loaded.block(block.index) as module:
            yield block, module, hidden, extra
        give_back()
        watcher.say(Progress(stage, block.index + 1, len(loaded.anatomy.blocks)))
        watcher.check()


def each_changed(
    loaded: LoadedModel, inputs: Tensor, watcher: Watcher, stage: str, places: Collection[int]
) -> Iterator[tuple[Block, nn.Module, blocks.Hidden, blocks.Arguments]]:
    """Visit these blocks, by index, in order, for a visitor that changes them and leaves the hidden states: each block, as it then is, feeds the next.
    What comes after the last of them is not run."""
    last = max(places)
    for block, module, hidden, extra in stream(loaded, inputs, watcher, stage):
        if block.index in places:
            yield block, module, hidden, extra
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)


@contextmanager
def _collecting(
    loaded: LoadedModel, layers: Sequence[Layer], methods: Sequence[Method], grouped: bool = False
) -> Iterator[dict[str, dict[str, Any]]]:
    """Hook the layers and fold their inputs into states. Layers that read the same tensor (query, key, value) share one computation."""
    collected: dict[str, dict[str, Any]] = {layer.name: {} for layer in layers}
    latest: dict[str, Any] = {}
    twin_of: dict[str, str | None] = {}

    def hook(layer: Layer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def fold(module: nn.Module, args: tuple[Any, ...]) -> None:
            if layer.name not in twin_of:
                twin_of[layer.name] = latest["name"] if latest.get("input") is args[0] and layer.kind != "conv" else None
                if twin_of[layer.name]:
                    collected[layer.name] = collected[latest["name"]]
            if twin_of[layer.name]:
                return
            latest.update(input=args[0], name=layer.name)
            inputs = layer_inputs(layer, module, args[0], grouped).float()
            state = collected[layer.name]
            for method in methods:
                state[method.card.name] = method.function(state.get(method.card.name), inputs)

        return fold

    handles = [loaded.module(layer.path).register_forward_pre_hook(hook(layer)) for layer in layers] if methods else []
    try:
        yield collected if methods else {layer.name: {} for layer in layers}
    finally:
        for handle in handles:
            handle.remove()


def layer_inputs(layer: Layer, module: nn.Module, inputs: Tensor, grouped: bool = False) -> Tensor:
    """A layer's input as (sequences, positions, features); a convolution's as the patches that its kernel sees.

    Raises ModelError for a convolution whose patches are not to be had: a grouped one (unless `grouped`: then those of all groups).
    """
    if layer.kind != "conv":
        return (
            inputs
            if inputs.dim() == 3
            else inputs.reshape(1, -1, inputs.shape[-1])
            if inputs.dim() == 2
            else inputs.flatten(1, -2)
        )
    check_collectable(layer, module, grouped)
    patches = torch.nn.functional.unfold(inputs, module.kernel_size, module.dilation, module.padding, module.stride)
    return patches.transpose(1, 2)


def check_collectable(layer: Layer, module: nn.Module, grouped: bool = False) -> None:
    """Raise ModelError for a layer whose inputs `layer_inputs` cannot give."""
    if layer.kind == "conv" and ((module.groups != 1 and not grouped) or isinstance(module.padding, str)):
        raise ModelError(
            f"{layer.name} is a grouped convolution, whose inputs are not collected yet.", "Use magnitude there, or protect it."
        )


def matrix(layer: Layer, weight: Tensor) -> Tensor:
    """A layer's weight as (out, in): convolutions flattened, GPT-2's transposed layers turned. A view: writing to it writes the weight."""
    if layer.kind == "conv1d":
        return weight.T
    return weight.flatten(1) if layer.kind == "conv" else weight


def statistics_of(scores: Sequence[Method]) -> tuple[str, ...]:
    """The statistics of layers and blocks that these methods need (with default parameters), each once."""
    return of_kind({name for method in scores for name in method.needed()}, "layer", "block")


def of_kind(needs: Iterable[str], *kinds: str) -> tuple[str, ...]:
    """Those of the needs that are statistics of these kinds ("layer", "block", "gradient"), sorted."""
    return tuple(sorted(name for name in needs if name not in NO_STATISTIC and get("statistic", name).extra["of"] in kinds))


def have(
    weight: Tensor | None, shape: tuple[int, ...], generator: torch.Generator, statistics: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What a score function may ask for by name."""
    return {"weight": weight, "shape": shape, "generator": generator, "statistics": statistics, **statistics}
