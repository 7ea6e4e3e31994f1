"""A closer look at a model in memory: scores of one block's units and of one layer's weights, from a short calibration text read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Silent
from core.method import Method
from core.model import blocks
from core.model.anatomy import Block, Layer
from core.model.gradients import gradient_statistics
from core.model.loading import LoadedModel
from core.model.masks import generator
from core.model.mixture.experts import ExpertLayer, expert_layers
from core.model.mixture.search import Visit, observed
from core.model.observe import Statistics, have, layer_inputs, observe_block, of_kind, stream
from core.model.pruning.scoring import layer_scores
from core.model.steps import calibration_inputs
from core.model.units.groups import STRUCTURES, unit_groups
from core.model.units.scoring import unit_scores
from core.recipe import Text

SAMPLES, TOKENS, IMAGES = 16, 128, 128
GRADIENT_SAMPLES = 8
EXPERTS = "experts"
_LEFT = frozenset({"general_gradient", "general_gradient_square", "scores", "curves", "fitness", "routed_input_norm"})


@dataclass
class Lens:
    """What the worker keeps between two looks. inputs: token ids or pixels. seen: statistics of layers' inputs by layer; gradients: those of the last
    block that was asked about."""

    loaded: LoadedModel
    inputs: Tensor
    seen: dict[str, Statistics] = field(default_factory=dict)
    gradients: tuple[int, dict[str, Statistics]] = (-1, {})

    @property
    def protocol(self) -> str:
        shape = " × ".join(map(str, self.inputs.shape[:2] if self.inputs.dim() == 2 else self.inputs.shape[:1]))
        return f"{shape} {'tokens' if self.inputs.dim() == 2 else 'images'} of the standard calibration data"


def open_lens(loaded: LoadedModel) -> Lens:
    """Ready to look. Raises ModelError where the model reads neither text nor images here."""
    images = loaded.anatomy.kind == "image_classifier"
    source = "builtin:mnist5k/train" if images else "builtin:wikitext2/train"
    return Lens(loaded, calibration_inputs(loaded, Text(source=source, samples=IMAGES if images else SAMPLES, tokens=TOKENS), 0))


def usable(method: Method, structure: str) -> bool:
    """Can this score be shown for the units of a structure, or for single weights, without being told more?"""
    card = method.card
    return (
        structure in card.structures
        and not card.inside
        and not card.problem
        and not any(param.grammar for param in card.params)
        and not method.needed() & _LEFT
        and card.name not in ("router_norm_change", "llm_pruner")  # another model; all layers of a block at once
    )


def block_of(loaded: LoadedModel, name: str) -> Block:
    """A block by its name. Raises ModelError."""
    found = next((block for block in loaded.anatomy.blocks if block.name == name), None)
    if found is None:
        raise ModelError(f"This model has no block called {name}.", f"It has {len(loaded.anatomy.blocks)}, from blocks.0 on.")
    return found


def scores_of_units(lens: Lens, block: Block, structure: str, method: Method) -> Tensor:
    """A score for each neuron, head (group of heads) or expert of one block. Raises ModelError, in a sentence, where it has none."""
    if structure == EXPERTS:
        return _of_experts(lens, block, method)
    if structure not in STRUCTURES:
        raise ModelError(f"{structure} are not looked at one by one.", f"Choose {', '.join((*STRUCTURES, EXPERTS))}.")
    loaded = lens.loaded
    group = unit_groups(loaded.model, [block], loaded.anatomy.family, structure)[0]
    known = _known(lens, block, block.layers, method)
    with loaded.block(block.index):
        return finite(group.name, unit_scores(loaded, group, method, {}, known, 0))


def finite(name: str, scores: Tensor) -> Tensor:
    """The same scores. Raises ModelError where one is NaN or infinite: no picture has room for it."""
    if not torch.isfinite(scores).all():
        raise ModelError(
            f"The scores of {name} are not all numbers.",
            "Check the model's weights for NaN and for infinite ones, or choose another score.",
        )
    return scores


def scores_of_weights(lens: Lens, layer: Layer, method: Method) -> Tensor:
    """A score for each weight of a layer, (out, in). Raises ModelError where one is not finite."""
    block = next((block for block in lens.loaded.anatomy.blocks if block.index == layer.block), None)
    known = _known(lens, block, [layer], method).get(layer.name, {}) if method.needed() else {}
    return finite(layer.name, layer_scores(lens.loaded, layer, method, {}, known, 0).float())


def _known(lens: Lens, block: Block | None, layers: Sequence[Layer], method: Method) -> dict[str, Statistics]:
    of_inputs, of_gradients = of_kind(method.needed(), "layer"), of_kind(method.needed(), "gradient")
    if (of_inputs or of_gradients) and block is None:
        raise ModelError(f"{layers[0].name} lies in no block, so what it is given is not collected.", "Choose magnitude.")
    known: dict[str, Statistics] = {layer.name: {} for layer in layers}
    if of_inputs:
        if any(name not in lens.seen.get(layers[0].name, {}) for name in of_inputs):
            _look(lens)
        known = {name: dict(lens.seen[name]) for name in known}
    if of_gradients:
        if lens.gradients[0] != block.index or any(name not in next(iter(lens.gradients[1].values())) for name in of_gradients):
            text = lens.inputs[:GRADIENT_SAMPLES]
            lens.gradients = block.index, gradient_statistics(lens.loaded, block.layers, of_gradients, lambda: text, Silent())
        for name in known:
            known[name] |= lens.gradients[1][name]
    return known


def _look(lens: Lens) -> None:
    """One pass for all statistics of layers' inputs that are a number a feature: they are small, so all blocks' are kept."""
    names = ("input_norm", "input_mean", "input_variance", "input_mean_size")
    for block, module, hidden, extra in stream(lens.loaded, lens.inputs, Silent(), "look"):
        lens.seen |= observe_block(lens.loaded, block, module, hidden, extra, names, Silent(), keep_outputs=True)[0]


def visit(lens: Lens, block: Block, inputs: Tensor | None = None) -> tuple[ExpertLayer, Visit]:
    """A block's experts with hidden states at its entrance. Raises ModelError where it has none."""
    loaded = lens.loaded
    layer = expert_layers(loaded.model, [block])[0]
    for at, module, hidden, extra in stream(loaded, lens.inputs if inputs is None else inputs, Silent(), "look"):
        if at.index == block.index:
            return layer, Visit(loaded.model, layer, module, hidden, extra, Silent())
        blocks.advance(module, hidden, extra, Silent())
    raise AssertionError(block.name)


def _of_experts(lens: Lens, block: Block, method: Method) -> Tensor:
    needs = of_kind(method.needed(), "experts")
    if needs:
        layer, at = visit(lens, block)
        given: dict[str, Any] = have(None, (layer.count,), generator(0, layer.name), observed(at, needs))
        return finite(layer.name, method(given).float())
    layer = expert_layers(lens.loaded.model, [block])[0]
    thick = [weight.detach() for weight in lens.loaded.module(layer.path).parameters(recurse=False) if weight.dim() == 3]
    totals = [
        sum(method(have(w[e].float(), tuple(w[e].shape), generator(0, layer.name), {})).double().sum() for w in thick)
        for e in range(layer.count)
    ]
    return finite(layer.name, torch.stack(totals).float())


def inputs_of(lens: Lens, layer: Layer) -> dict[str, Any]:
    """What a layer is given: a histogram of the values of a part of the calibration data, and its loudest features, by root mean square."""
    block = next((block for block in lens.loaded.anatomy.blocks if block.index == layer.block), None)
    if block is None:
        raise ModelError(f"{layer.name} lies in no block, so what it is given is not collected.", "Choose a layer of a block.")
    heard: list[Tensor] = []

    def hear(module: nn.Module, args: tuple[Any, ...]) -> None:
        heard.append(layer_inputs(layer, module, args[0]).flatten(0, -2).float().cpu())

    for at, module, hidden, extra in stream(lens.loaded, lens.inputs[:GRADIENT_SAMPLES], Silent(), "look"):
        handle = lens.loaded.module(layer.path).register_forward_pre_hook(hear) if at.index == block.index else None
        try:
            blocks.advance(module, hidden, extra, Silent())
        finally:
            if handle:
                handle.remove()
        if at.index == block.index:
            break
    rows = torch.cat(heard)
    reach = float(rows.abs().max()) or 1.0
    counts, edges = torch.histogram(rows.flatten(), bins=61, range=(-reach, reach))
    sizes = rows.square().mean(0).sqrt()
    order = sizes.argsort(descending=True)[:10]
    return {
        "histogram": {"edges": edges.tolist(), "counts": [int(count) for count in counts.tolist()]},
        "features": len(sizes), "median": float(sizes.median()), "largest": reach,
        "loudest": [[int(place), float(sizes[place])] for place in order],
    }  # fmt: skip
