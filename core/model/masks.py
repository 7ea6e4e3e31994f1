"""From scores to a mask: which weights of a layer stay. Masks are kept packed, one bit a weight."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import ModelError, RecipeError
from core.folder import write_chunks
from core.recipe import n_of_m, tile_size
from kernels.masks import keep_highest, keep_highest_per_row, keep_n_of_m, keep_tiles


@dataclass(frozen=True)
class PackedMask:
    """A bool mask of a weight, True = kept, eight weights a byte."""

    bits: np.ndarray
    shape: tuple[int, ...]

    @staticmethod
    def of(keep: Tensor) -> PackedMask:
        return PackedMask(np.packbits(keep.cpu().numpy()), tuple(keep.shape))

    def unpack(self) -> Tensor:
        count = int(np.prod(self.shape))
        return torch.from_numpy(np.unpackbits(self.bits, count=count).astype(bool)).reshape(self.shape)


def narrowed(mask: PackedMask, stored_axis: int, kept: Tensor) -> PackedMask:
    """The mask of a layer of which only these rows or columns are left."""
    return PackedMask.of(mask.unpack().index_select(stored_axis, kept))


def weight_under(model: nn.Module, path: str) -> tuple[str, nn.Parameter] | None:
    """The weight that a mask lies on, and its name: a mask goes by its layer, or by a parameter that holds the matrices of all experts. None where
    it is not there any more."""
    for name in (f"{path}.weight", path):
        try:
            return name, model.get_parameter(name.lstrip("."))
        except AttributeError:
            continue
    return None


Entries = tuple[Tensor, Tensor]  # (rows, columns)


def finite(scores: Tensor, name: str) -> Tensor:
    """The same scores. Raises ModelError, which names their layer or units, where one is no number or infinite: ranked, it would say nothing."""
    if scores.numel():
        low, high = scores.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            what = "not all numbers" if torch.isnan(low) or torch.isnan(high) else "not all finite"
            raise ModelError(
                f"The scores of {name} are {what}.",
                "Check the model's weights and the calibration data, compute in float32, or protect it.",
            )
    return scores


def decide(
    scores: Tensor,
    structure: str,
    share: float,
    compare: str,
    name: str,
    spared: Entries | None = None,
    gone: Tensor | None = None,
) -> Tensor:
    """Scores (out, in) and a share to remove -> bool (out, in), True = kept.

    compare "row": each row loses round(share * columns); "layer": the matrix loses round(share * weights). N:M keeps N of each M consecutive
    inputs of a row; tiles go whole, as many as come nearest to the share of weights. spared: entries that stay whatever their score, others in their
    place. gone (bool, out, in): weights that are zero already; they go first, so that a share counts what earlier steps took (of tiles, their
    scores say so). Raises ModelError on scores that are not finite numbers, RecipeError where M does not divide the inputs.
    """
    finite(scores, name)
    if gone is not None and not tile_size(structure):
        scores = scores.masked_fill(gone.to(scores.device), -torch.inf)
    if spared is None:
        return _kept(scores, structure, share, compare, name)
    rows, columns = (places.to(scores.device) for places in spared)
    keep = _kept(scores.index_put((rows, columns), scores.new_tensor(torch.inf)), structure, share, compare, name)
    return keep.index_put((rows, columns), keep.new_tensor(True))  # where all were to go, too


def _kept(scores: Tensor, structure: str, share: float, compare: str, name: str) -> Tensor:
    pattern = n_of_m(structure)
    if pattern is not None:
        n, m = pattern
        if scores.shape[1] % m:
            raise RecipeError(
                f"{structure} needs a multiple of {m} inputs; {name} has {scores.shape[1]}.",
                "Protect that layer, or choose another N:M.",
            )
        return keep_n_of_m(scores, n, m)
    if size := tile_size(structure):
        return keep_tiles(scores, size, nearest(share * scores.numel()))
    if compare == "row":
        return keep_highest_per_row(scores, nearest(share * scores.shape[1]))
    return keep_highest(scores, nearest(share * scores.numel()))


def nearest(value: float) -> int:
    """The nearest whole number, halves up (Python's round goes to even, which would make 0.5 of 5 and of 7 differ in direction)."""
    return int(np.floor(value + 0.5 + 1e-9))


def generator(seed: int, name: str) -> torch.Generator:
    """A random stream of its own for each layer, so that which other layers are pruned does not matter."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sparsity_of(masks: Mapping[str, PackedMask]) -> float:
    """Share of zeros over all masked weights."""
    total = sum(int(np.prod(mask.shape)) for mask in masks.values())
    kept = sum(int(np.unpackbits(mask.bits, count=int(np.prod(mask.shape))).sum()) for mask in masks.values())
    return 1 - kept / total if total else 0.0


def write_masks(path: Path, masks: Mapping[str, PackedMask | Tensor]) -> None:
    """A safetensors file of bool tensors, sorted by name, without metadata: equal masks are equal files. One is unpacked at a time."""
    header, offset = {}, 0
    for name in sorted(masks):
        size = math.prod(masks[name].shape)
        header[name] = {"dtype": "BOOL", "shape": list(masks[name].shape), "data_offsets": [offset, offset + size]}
        offset += size
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)

    def chunks() -> Iterator[bytes]:
        yield struct.pack("<Q", len(said)) + said
        for name in sorted(masks):
            mask = masks[name]
            yield (mask.unpack() if isinstance(mask, PackedMask) else mask).contiguous().numpy().tobytes()

    write_chunks(path, chunks())
