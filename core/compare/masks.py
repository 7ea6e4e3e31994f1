"""The masks of finished runs laid over each other: what two of them prune alike, where they differ, and head by head. Torch-free: read as they lie on disk."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from core import folder
from core.compare import Side

CHUNK = 1 << 23  # places looked at together: what is held in memory of a mask of any size


def masks(path: Path) -> dict[str, np.ndarray]:
    """{name: bool array, True = kept}, read from the disk as they are looked at. Empty where the run left none, or it is damaged."""
    file = path / folder.MASK
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= file.stat().st_size - 8:
                return {}
            header = json.loads(stream.read(length))
        data = np.memmap(file, dtype=np.bool_, mode="r", offset=8 + length)
        return {
            name: data[slice(*at["data_offsets"])].reshape(at["shape"])
            for name, at in header.items()
            if name != "__metadata__" and at["dtype"] == "BOOL"
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def overlap(one: np.ndarray, two: np.ndarray) -> dict[str, float] | None:
    """jaccard: of the pruned sets, |both| / |either| (1 where neither prunes); chance: what two random sets of these sizes would have; agree: share of places
    on which the two masks agree. None where the shapes differ."""
    if one.shape != two.shape:
        return None
    size, a, b = one.size, int(one.size - np.count_nonzero(one)), int(two.size - np.count_nonzero(two))
    flat = one.reshape(-1), two.reshape(-1)  # views: a mask lies in one piece on the disk
    chunks = (slice(start, start + CHUNK) for start in range(0, size, CHUNK))
    either = size - sum(int(np.count_nonzero(flat[0][part] & flat[1][part])) for part in chunks)
    both = a + b - either
    by_chance = a * b / size if size else 0.0
    chance = by_chance / (a + b - by_chance) if a + b - by_chance > 0 else 1.0
    return {"jaccard": both / either if either else 1.0, "chance": chance, "agree": 1 - (either - both) / size if size else 1.0}


def overlaps(one: Side, two: Side) -> list[dict[str, Any]]:
    """`overlap` for each mask that both runs have, with its `name`."""
    first, second = masks(one.path), masks(two.path)
    out = []
    for name in first:
        if name in second and (found := overlap(first[name], second[name])):
            out.append({"name": name, **found})
    return sorted(out, key=lambda row: natural(row["name"]))


def difference_map(one: np.ndarray, two: np.ndarray, cells: int = 96) -> np.ndarray | None:
    """Where two masks of a matrix differ, as at most cells x cells tiles: -1 = only the first prunes there, +1 = only the second, 0 = alike (on balance)."""
    if one.shape != two.shape or one.ndim < 1:
        return None
    first, second = (np.asarray(mask).reshape(len(mask), -1) for mask in (one, two))
    rows, columns = (np.unique(np.linspace(0, size, min(size, cells) + 1).astype(int)) for size in first.shape)

    def kept(mask: np.ndarray) -> np.ndarray:
        """How many of each tile are kept, counted where they lie: the experts of a mixture in one mask are more than should be copied."""
        tiles = [[mask[a:b, c:d] for c, d in itertools.pairwise(columns)] for a, b in itertools.pairwise(rows)]
        return np.array([[np.count_nonzero(tile) for tile in line] for line in tiles])

    return (kept(first) - kept(second)) / np.outer(np.diff(rows), np.diff(columns))


def heads(at: Side) -> dict[str, list[float]]:
    """{block: share removed of each attention head}: of its weights where weights were pruned, 0 or 1 where whole heads went."""
    found, kept = (at.report.get("protocol") or {}).get("heads") or {}, masks(at.path)
    out: dict[str, list[float]] = {}
    for name, mask in kept.items():
        if name.endswith(".heads") and mask.ndim == 1:
            out[".".join(name.split(".")[:2])] = [float(not one) for one in mask]
    for block, told in found.items():
        parts = [
            (kept[name], axis) for name, axis in told["weights"] if name in kept and kept[name].shape[axis] % told["count"] == 0
        ]
        if parts and block not in out:
            shares = [1 - np.stack([np.mean(half) for half in np.split(mask, told["count"], axis)]) for mask, axis in parts]
            out[block] = [float(share) for share in np.mean(shares, axis=0)]
    return dict(sorted(out.items(), key=lambda item: natural(item[0])))


def label(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blocks.3.mlp.up_proj, as layers are called elsewhere; other names as they are."""
    parts = name.removesuffix(".weight").split(".")
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return name if at is None or parts[0] == "blocks" else ".".join(["blocks", *parts[at:]])


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that puts blocks.10 after blocks.9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def by_block(name: str) -> list[tuple[int, int, str]]:
    """A key that orders by block alone, so that layers of a block keep the model's own order."""
    return natural(".".join(name.split(".")[:2])) if name.startswith("blocks.") else []
