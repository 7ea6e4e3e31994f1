"""What a formula does to one small language model: its masks, the perplexity that they leave, its mean score in each layer.

Everything a formula may name is collected once, from the dense model, and used for every formula after; weights are put back after each. A prune step
collects the inputs anew behind the blocks that are pruned already, so its perplexity differs a little: `core.model.looking.evolving` measures that too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Silent, Watcher
from core.formula import Node
from core.method import get, load_methods
from core.model.anatomy import Layer
from core.model.blocks import BATCH_TOKENS
from core.model.gradients import gradient_statistics
from core.model.loading import LoadedModel
from core.model.masks import decide, generator
from core.model.measuring.counts import check_in_memory
from core.model.measuring.likelihood import check_causal, mean_loss
from core.model.observe import Statistics, have, matrix, observe_block, stream
from core.model.pruning.choosing import chosen_layers
from core.prune.formula import rehearsed, values_of

REFERENCES = ("magnitude", "wanda")  # what a formula is compared with, by their own masks
Masks = dict[str, Tensor]


@dataclass
class Lab:
    """One model with its statistics, at the entrance of any formula.

    calibration: ids (sequences, tokens) that X and G are of; windows: ids that perplexity is taken on. `by_masks`: perplexities found so far, by
    which weights stay; formulas that keep the same weights are measured once.
    """

    loaded: LoadedModel
    calibration: Tensor
    windows: Tensor
    watcher: Watcher = field(default_factory=Silent)
    by_masks: dict[bytes, float] = field(default_factory=dict)

    @cached_property
    def layers(self) -> list[Layer]:
        return chosen_layers(self.loaded.anatomy, (), ())

    @cached_property
    def dense(self) -> dict[str, Tensor]:
        """The weights as they are, (out, in), in the model's own dtype."""
        return {layer.name: self._weight(layer).clone() for layer in self.layers}

    @cached_property
    def inputs(self) -> dict[str, Statistics]:
        found: dict[str, Statistics] = {}
        for block, module, hidden, extra in stream(self.loaded, self.calibration, self.watcher, "observe"):
            found |= observe_block(self.loaded, block, module, hidden, extra, ("input_norm",), self.watcher, keep_outputs=True)[0]
        return found

    @cached_property
    def gradients(self) -> dict[str, Statistics]:
        return gradient_statistics(self.loaded, self.layers, ("gradient_norm",), lambda: self.calibration, self.watcher)

    def scores(self, node: Node) -> dict[str, Tensor]:
        """Each layer's scores, (out, in). Raises ModelError where a layer's are no numbers, or all alike."""
        names, out = node.names(), {}
        for layer in self.layers:
            self.watcher.check()
            statistics = (self.inputs[layer.name] if "X" in names else {}) | (self.gradients[layer.name] if "G" in names else {})
            found = rehearsed(node, values_of({"weight": self.dense[layer.name].float(), **statistics}))
            low, high = found.aminmax(dim=1)
            if found.shape[1] > 1 and torch.equal(low, high):
                raise ModelError(
                    f"The formula {node.text!r} scores all weights of a row alike in {layer.name}, so it cannot say which go.",
                    "Let it depend on W, X or G there.",
                )
            out[layer.name] = found
        return out

    def masks(self, scores: Mapping[str, Tensor], structure: str, share: float) -> Masks:
        """What stays of each layer by these scores, compared within a row."""
        return {name: decide(found, structure, share, "row", name) for name, found in scores.items()}

    def masks_of(self, method: str, structure: str, share: float) -> Masks:
        """What stays by a method of our own, with its default parameters."""
        found, out = get("score", method), {}
        for layer in self.layers:
            weight = self.dense[layer.name].float()
            given = have(weight, tuple(weight.shape), generator(0, layer.name), self.inputs[layer.name])
            out[layer.name] = decide(found(given), structure, share, found.card.compare, layer.name)
        return out

    def perplexity(self, masks: Masks) -> float:
        """exp of the mean negative log-likelihood a token of the windows with only these weights; infinite where that is no number."""
        key = hashlib.blake2b(b"".join(np.packbits(keep.cpu().numpy()).tobytes() for keep in masks.values())).digest()
        if key not in self.by_masks:
            self.by_masks[key] = self.perplexity_on(self.windows, masks)
        return self.by_masks[key]

    def perplexity_on(self, windows: Tensor, masks: Masks) -> float:
        """`perplexity` on other windows, measured now."""
        dense = self.dense  # taken before anything changes
        try:
            for layer in self.layers if masks else ():
                self._weight(layer).copy_(dense[layer.name] * masks[layer.name].to(dense[layer.name].device))
            return self.perplexity_now(windows)
        finally:
            self.put_back()

    def perplexity_now(self, windows: Tensor) -> float:
        """exp of the mean negative log-likelihood a token of the model as it stands, each window read alone; infinite where that is no number."""
        mean = mean_loss(self.loaded.model, windows.split(max(BATCH_TOKENS // windows.shape[1], 1)), self.watcher)
        return math.exp(mean) if mean < 700 else math.inf  # not a number compares as false

    def fitness(self, node: Node, structure: str, share: float) -> float:
        """The perplexity that pruning by a formula leaves; infinite for one that fails."""
        try:
            masks = self.masks(self.scores(node), structure, share)
        except ModelError:
            return math.inf
        return self.perplexity(masks)

    def put_back(self) -> None:
        """Every weight as it was."""
        for layer in self.layers:
            self._weight(layer).copy_(self.dense[layer.name])

    def _weight(self, layer: Layer) -> Tensor:
        return matrix(layer, self.loaded.module(layer.path).weight.data)


def open_lab(loaded: LoadedModel, calibration: Tensor, windows: Tensor, watcher: Watcher | None = None) -> Lab:
    """A lab on a model in memory. Raises ModelError where it predicts no next token, or its own perplexity is no number."""
    load_methods()
    check_in_memory(loaded)
    check_causal(loaded.model, "has no perplexity to judge formulas by")
    lab = Lab(loaded, calibration, windows, watcher or Silent())
    if not math.isfinite(lab.perplexity({})):
        raise ModelError("The perplexity of the whole model is not a number.", "Check its weights, or compute in float32.")
    return lab


def seen(lab: Lab, node: Node, structure: str, share: float) -> dict[str, Any]:
    """A formula's picture: a row a layer, and the perplexities to compare. Raises ModelError where the formula fails.

    A layer's `scores`: mean score; share_kept, were all layers' weights compared with each other; agreement, the share of Wanda's kept weights that it
    keeps too. `perplexity`: dense, formula, and the REFERENCES; null where one is no number.
    """
    scores = lab.scores(node)
    masks, wanda = lab.masks(scores, structure, share), lab.masks_of("wanda", structure, share)
    every = torch.cat([found.flatten() for found in scores.values()])
    drop = min(max(round(share * every.numel()), 1), every.numel())
    cut = every.kthvalue(drop).values if share else every.min() - 1
    block = {place.index: place.name for place in lab.loaded.anatomy.blocks}
    rows = []
    for layer in lab.layers:
        found, both = scores[layer.name], masks[layer.name] & wanda[layer.name]
        figures = {
            "mean_score": float(found.double().mean()),
            "share_kept": float((found > cut).double().mean()),
            "agreement": float(both.sum()) / max(int(wanda[layer.name].sum()), 1),
        }
        rows.append({"name": layer.name, "block": block.get(layer.block, ""), "parameters": layer.parameters, "scores": figures})
    perplexities = {"dense": lab.perplexity({}), "formula": lab.perplexity(masks)}
    for name in REFERENCES:
        perplexities[name] = lab.perplexity(wanda if name == "wanda" else lab.masks_of(name, structure, share))
    return {"layers": rows, "blocks": [{"name": place.name, "index": place.index} for place in lab.loaded.anatomy.blocks],
            "perplexity": perplexities}  # fmt: skip
