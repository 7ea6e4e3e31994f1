"""How well a model does with an allocation that is only tried: masks on the dense weights, the loss on some calibration text, all put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from core.events import Watcher
from core.model.anatomy import Layer
from core.model.blocks import BATCH_TOKENS
from core.model.depth.trials import NO_LOSS
from core.model.loading import LoadedModel
from core.model.masks import decide, nearest
from core.model.measuring.counts import check_in_memory
from core.model.measuring.likelihood import check_causal, mean_loss
from core.model.memory import check_fits
from core.model.observe import matrix
from core.model.units.groups import Group
from kernels.masks import keep_highest

SMALLER = "Choose fewer layers with `only`, or an allocation that tries nothing, such as owl or global."
Mask = tuple[
    nn.Module, Callable[[float], Tensor]
]  # a layer, and for a share: what of its stored weight stays, bool, broadcasting


class Fitness:
    """fitness(shares, sequences) -> mean negative log-likelihood in nats a token of the first so many calibration sequences; infinite where it is no
    number. A layer's mask is made anew only where its share changed since the last call."""

    def __init__(self, loaded: LoadedModel, masks: Mapping[str, Mask], ids: Tensor, watcher: Watcher) -> None:
        self.loaded, self.ids, self.watcher, self.sequences = loaded, ids, watcher, len(ids)
        self._masks, self._shares = masks, dict.fromkeys(masks, 0.0)
        self._dense = {name: layer.weight.detach().clone() for name, (layer, _) in masks.items()}

    def __call__(self, shares: Mapping[str, float], sequences: int) -> float:
        for name, share in shares.items():
            if share != self._shares[name]:
                self._set(name, share)
        batches = self.ids[:sequences].split(max(BATCH_TOKENS // self.ids.shape[1], 1))
        return mean_loss(self.loaded.model, batches, self.watcher)

    def _set(self, name: str, share: float) -> None:
        layer, keep = self._masks[name]
        with torch.no_grad():
            layer.weight.copy_(self._dense[name])
            if share > 0:
                layer.weight.masked_fill_(~keep(share).to(layer.weight.device), 0.0)
        self._shares[name] = share

    def restore(self) -> None:
        """The dense weights again."""
        for name in self._masks:
            self._set(name, 0.0)


@contextmanager
def trying(loaded: LoadedModel, masks: Mapping[str, Mask], ids: Tensor, watcher: Watcher) -> Iterator[Fitness]:
    """For the length of a `with`; the model is then as it was. Raises ModelError where it has no loss to try by."""
    check_in_memory(loaded)
    check_causal(loaded.model, NO_LOSS)
    if loaded.device.type == "cpu":
        size = sum(layer.weight.numel() * layer.weight.itemsize for layer, _ in masks.values())
        check_fits(size, "Trying out budgets, which keeps a copy of the weights that it masks,", SMALLER)
    fitness = Fitness(loaded, masks, ids, watcher)
    try:
        yield fitness
    finally:
        fitness.restore()


def weight_masks(loaded: LoadedModel, layers: Sequence[Layer], scores: Mapping[str, Tensor], compare: str) -> dict[str, Mask]:
    """Masks of single weights, as the step would make them from these scores (flat, of the dense model)."""

    def mask(layer: Layer) -> Mask:
        module = loaded.module(layer.path)
        shape = matrix(layer, module.weight.detach()).shape

        def keep(share: float) -> Tensor:
            kept = decide(scores[layer.name].reshape(shape), "unstructured", share, compare, layer.name)
            return kept.T if layer.kind == "conv1d" else kept.reshape(layer.shape)

        return module, keep

    return {layer.name: mask(layer) for layer in layers}


def unit_masks(loaded: LoadedModel, groups: Sequence[Group], scores: Mapping[str, Tensor]) -> dict[str, Mask]:
    """Neurons or heads that nothing reads: the reading layer's columns become zero, which is what cutting them out does to the output."""

    def mask(group: Group) -> Mask:
        module = loaded.module(group.reader.path)
        layer = next(layer for layer in loaded.anatomy.blocks[group.block].layers if layer.path == group.reader.path)

        def keep(share: float) -> Tensor:
            kept = keep_highest(scores[group.name][None], min(nearest(share * group.units), group.units - 1))[0]
            columns = torch.ones(layer.shape[1], dtype=torch.bool)
            columns[group.reader.index[~kept].flatten()] = False
            return columns[:, None] if layer.kind == "conv1d" else columns[None]

        return module, keep

    return {group.name: mask(group) for group in groups}
