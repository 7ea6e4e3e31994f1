"""Principal axes of a decoder's residual stream, as its norms see it, from one calibration pass of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Watcher
from core.model import blocks, observe
from core.model.loading import LoadedModel
from core.model.width.sliced import Stream, residual_stream

_DAMP = 0.01  # of the mean variance, on the diagonal
Basis = tuple[
    Tensor, Tensor
]  # (orthogonal matrix, float32 (hidden, hidden), by falling variance; share of the variance that each column has)


def find_bases(loaded: LoadedModel, ids: Tensor, group: Callable[[int], int], watcher: Watcher) -> list[Basis]:
    """Principal axes of what the norms make of the dense model's stream, a basis for each norm.

    Norm 2 i is before block i's attention, 2 i + 1 before its MLP, the last one before the head. Norms of one group share a basis, and their
    axes come from all that these norms see; groups are numbered from 0 and rise.
    """
    stream = residual_stream(loaded.model)
    norms = [*(part.norm for part in stream.parts), stream.norm]
    gram, number, bases = None, 0, []
    for place, hidden in _signals(loaded, stream, ids, watcher):
        if group(place) != number:
            bases.append(_basis(gram))
            gram, number = None, group(place)
        flat = hidden.double().flatten(0, -2)
        flat = flat * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + norms[place].variance_epsilon)
        gram = flat.T @ flat if gram is None else gram.addmm_(flat.T, flat)
    bases.append(_basis(gram))
    return [bases[group(place)] for place in range(len(norms))]


def _signals(loaded: LoadedModel, stream: Stream, ids: Tensor, watcher: Watcher) -> Iterator[tuple[int, Tensor]]:
    """(number of the norm, stream before it), batch by batch, in the order of the forward."""
    for block, module, hidden, extra in observe.stream(loaded, ids, watcher, "observe"):
        for batch in hidden:
            yield 2 * block.index, batch
        caught: list[Tensor] = []
        norm = stream.parts[2 * block.index + 1].norm
        handle = norm.register_forward_pre_hook(lambda _, args, caught=caught: caught.append(args[0]))
        try:
            for number, after in blocks.through(module, hidden, extra, watcher):
                yield 2 * block.index + 1, caught.pop()
                blocks.replace(hidden, number, after)
        finally:
            handle.remove()
    for batch in hidden:
        yield len(stream.parts), batch


def _basis(gram: Tensor) -> Basis:
    if not torch.isfinite(gram).all():
        raise ModelError("What the blocks hand on is not all numbers.", "Check the model's weights, or compute in float32.")
    damp = _DAMP * gram.diagonal().mean()
    gram.diagonal().add_(damp)
    values, vectors = torch.linalg.eigh(gram)
    shares = (values.flip(0) - damp).clamp_min(0)
    return vectors.flip(1).float(), (shares / shares.sum()).cpu()
