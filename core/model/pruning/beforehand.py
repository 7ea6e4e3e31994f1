"""What can be said of a prune step before anything is measured: do its names, its pattern and its allocation fit the model as it stands?"""

from __future__ import annotations

from core.method import Method
from core.model.budgets.allocating import check_structure
from core.model.depth.bypass import block_units
from core.model.depth.sublayers import sublayer_units
from core.model.learned.pruning import check_allocator, check_learnable
from core.model.loading import LoadedModel
from core.model.mixture.experts import expert_layers
from core.model.pruning.choosing import (
    by_hand,
    check_spared,
    chosen_groups,
    chosen_layers,
    chosen_units,
    removed_by_hand,
    units_by_hand,
)
from core.model.units.groups import STRUCTURES as UNITS
from core.model.units.groups import unit_groups
from core.recipe import Prune, n_of_m, tile_size
from core.recipe_steps import SUPER_WEIGHTS


def check_step(loaded: LoadedModel, step: Prune, method: Method) -> None:
    """Raise RecipeError or ModelError, as the step itself would, only sooner. Where groups are costly to find (channels), nothing is said yet."""
    if method.card.kind == "learned":
        check_learnable(loaded)
        check_allocator(step)
    if step.structure in ("blocks", "sublayers"):
        _check_depth(loaded, step)
    elif step.structure in UNITS:
        anatomy = loaded.anatomy
        groups = chosen_groups(unit_groups(loaded.model, anatomy.blocks, anatomy.family, step.structure), anatomy, step)
        units_by_hand(step.allocation.shares, anatomy, groups)
    elif step.structure == "experts" or method.card.inside:
        layers = chosen_groups(expert_layers(loaded.model, loaded.anatomy.blocks), loaded.anatomy, step)
        units_by_hand(step.allocation.shares, loaded.anatomy, layers)
    elif step.structure == "unstructured" or n_of_m(step.structure) or tile_size(step.structure):
        _check_weights(loaded, step, method)


def _check_depth(loaded: LoadedModel, step: Prune) -> None:
    units = block_units(loaded) if step.structure == "blocks" else sublayer_units(loaded)
    paths = {name: next(iter(unit.gone), unit.path) for name, unit in units.items()}
    chosen_units(paths, "block" if step.structure == "blocks" else "sub-layer", step.only, step.protect)
    removed_by_hand(step.allocation.shares, {name: unit.block for name, unit in units.items()})


def _check_weights(loaded: LoadedModel, step: Prune, method: Method) -> None:
    check_spared(step, method.card.kind)
    layers = chosen_layers(loaded.anatomy, step.only, [name for name in step.protect if name != SUPER_WEIGHTS])
    check_structure(step, layers)
    by_hand(step.allocation.shares, loaded.anatomy, layers)
