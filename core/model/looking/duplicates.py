"""Units of a block that do the same: neurons, heads or experts whose weights point the same way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.errors import ModelError
from core.model.anatomy import Block
from core.model.loading import LoadedModel
from core.model.mixture.experts import expert_layers
from core.model.observe import matrix
from core.model.units.groups import STRUCTURES, unit_groups
from core.model.units.scoring import columns

_ROWS = 1024  # of the table of cosines in memory at once
MOST_UNITS = 20_000


@dataclass(frozen=True)
class Alike:
    """nearest: for each unit the cosine with the unit most like it, and `mate`, which one that is. clusters: members, largest first, of units joined by
    pairs whose cosine reaches the threshold."""

    nearest: Tensor
    mate: Tensor
    clusters: tuple[tuple[int, ...], ...]


def unit_vectors(loaded: LoadedModel, block: Block, structure: str) -> Tensor:
    """(units, numbers): all weights of each unit in one row, those in and those out each of length 1, so that both count alike.

    A neuron's scale can move from its way in to its way out, which this does not see: two neurons alike up to such a scale are alike.
    """
    with loaded.block(block.index):
        if structure == "experts":
            layer = expert_layers(loaded.model, [block])[0]
            thick = [w.detach().float().flatten(1) for w in loaded.module(layer.path).parameters(recurse=False) if w.dim() == 3]
            return torch.cat([normalize(part, dim=1) for part in thick], 1)
        if structure not in STRUCTURES:
            raise ModelError(f"{structure} are not compared with one another.", "Choose neurons, heads or experts.")
        group = unit_groups(loaded.model, [block], loaded.anatomy.family, structure)[0]
        layers, rows = loaded.anatomy.by_path, []
        for part in group.everything:
            layer = layers[part.path]
            weight = matrix(layer, loaded.module(part.path).weight.detach()).float()
            own = weight[part.index] if part.axis == 0 else weight.T[columns(layer, part)]
            rows.append(normalize(own.flatten(1), dim=1))
        return torch.cat(rows, 1)


def alike(vectors: Tensor, threshold: float) -> Alike:
    """Compare every two units by the cosine of their rows. Raises ModelError for one unit alone, too many, or what is not a number."""
    count = len(vectors)
    if count < 2:
        raise ModelError("There is one unit only, so nothing repeats.", "Look at another block, or at other units.")
    if count > MOST_UNITS:
        raise ModelError(f"{count:,} units are more than are compared here.", f"At most {MOST_UNITS:,} are.")
    if not torch.isfinite(vectors).all():
        raise ModelError("Some of these weights are NaN or infinite.", "The file is damaged; fetch the model again.")
    unit = normalize(vectors, dim=1)
    nearest, mate, cluster = [], [], torch.arange(count)
    for start in range(0, count, _ROWS):
        cosines = unit[start : start + _ROWS] @ unit.T
        here = torch.arange(len(cosines))
        cosines[here, here + start] = -2.0
        best = cosines.max(1)
        nearest.append(best.values)
        mate.append(best.indices)
        _join(cluster, cosines >= threshold, start)
    members: dict[int, list[int]] = {}
    for place, of in enumerate(cluster.tolist()):
        members.setdefault(of, []).append(place)
    clusters = sorted((tuple(found) for found in members.values() if len(found) > 1), key=lambda c: (-len(c), c))
    return Alike(torch.cat(nearest), torch.cat(mate), tuple(clusters))


def _join(cluster: Tensor, near: Tensor, start: int) -> None:
    """Join each unit of this stretch of the table to those it is near. near: bool (rows, units), row r being unit start + r; cluster: int64 (units,), the
    first member of each unit's cluster so far. A row at a time, so that units that are all alike, whose pairs are millions, need no list of pairs."""
    for row in near.any(1).nonzero()[:, 0].tolist():
        joined = torch.cat((cluster[near[row]], cluster[start + row, None])).unique()
        if len(joined) > 1:
            cluster[torch.isin(cluster, joined)] = joined[0]
