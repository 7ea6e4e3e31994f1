"""Taking whole blocks out: a shallower model of the same class that loads natively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from core.errors import ModelError
from core.model.anatomy import read_anatomy
from core.model.depth.gone import KEY
from core.model.loading import LoadedModel
from core.model.width.widths import settle


def remove_blocks(loaded: LoadedModel, indices: Sequence[int]) -> LoadedModel:
    """Remove the blocks with these indices, in place, and say so in the config: layer numbers, their count, and lists with one entry a layer.

    Raises ModelError where the family's blocks cannot go, or none would be left.
    """
    if not indices:
        return loaded
    if "blocks" in loaded.anatomy.refused:
        raise ModelError(loaded.anatomy.refused["blocks"], "Choose a structure that this model has.")
    count = len(loaded.anatomy.blocks)
    if len(set(indices)) >= count:
        raise ModelError(f"All {count} blocks would go.", "Keep at least one.")
    stem, _, _ = loaded.anatomy.blocks[0].path.rpartition(".")
    parent_path, _, attribute = stem.rpartition(".")
    kept = [block.index for block in loaded.anatomy.blocks if block.index not in set(indices)]
    old = loaded.module(stem)
    setattr(loaded.module(parent_path) if parent_path else loaded.model, attribute, nn.ModuleList([old[i] for i in kept]))
    for new_index, block in enumerate(loaded.module(stem)):
        for module in block.modules():
            for name in ("layer_idx", "layer_id", "layer_index"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, new_index)
    _shorten_config(loaded.model, count, kept)
    if hasattr(loaded.model.config, KEY):  # what it says names modules by their place
        settle(loaded.model)
    return replace(loaded, anatomy=read_anatomy(loaded.model))


def _shorten_config(model: nn.Module, count: int, kept: Sequence[int]) -> None:
    """Cut every list of the config that has one entry a block, and set the number of blocks under whichever names the family uses."""
    config = model.config
    for name, value in list(vars(config).items()):
        if (
            isinstance(value, (list, tuple))
            and len(value) == count
            and name in ("layer_types", "mlp_layer_types", "no_rope_layers", "block_types")
        ):
            setattr(config, name, [value[i] for i in kept])
    for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
        name = config.attribute_map.get(name, name)
        if getattr(config, name, None) == count:
            setattr(config, name, len(kept))
