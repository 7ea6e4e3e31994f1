"""Masks learned from the model's own loss: lay them over the model -> learn scores -> allocate -> decide -> apply, as for any score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from core.errors import ModelError, RecipeError
from core.method import get
from core.model.anatomy import Layer, read_anatomy
from core.model.budgets.allocating import check_structure
from core.model.budgets.asked import knows_prices
from core.model.learned.course import Course, Scores
from core.model.loading import LoadedModel
from core.model.masks import PackedMask
from core.model.measuring.likelihood import check_causal
from core.model.observe import matrix, of_kind
from core.model.pruning.choosing import check_spared, chosen_groups, chosen_layers
from core.model.pruning.pruned import Pruned, UnitCut
from core.model.pruning.task import Task
from core.model.training import only_trains
from core.model.units.groups import STRUCTURES as UNITS
from core.model.units.groups import Group, unit_groups
from core.model.width.narrow import cut
from core.model.width.rehearse import rehearse
from core.model.width.widths import settle
from core.recipe import Prune
from core.report import LayerRow

_NO_LOSS = "gives no loss to learn masks by"
_ANOTHER = "Use a criterion that needs no loss, such as magnitude."


def check_learnable(loaded: LoadedModel) -> None:
    """Raise ModelError for a model that has no loss on text, or is not in memory whole."""
    if loaded.lazy is not None:
        raise ModelError(
            "Masks are learned on the whole model, and this one is read a block at a time.", "Use wanda or magnitude."
        )
    if loaded.anatomy.kind != "decoder":
        raise ModelError(f"{type(loaded.model).__name__} predicts no next token, so it {_NO_LOSS}.", _ANOTHER)
    check_causal(loaded.model, _NO_LOSS)


def check_allocator(step: Prune) -> None:
    """Raise RecipeError for an allocator that asks what is not there before masks are learned."""
    if step.allocation.method == "by_hand":
        return
    allocator = get("allocator", step.allocation.method)
    if step.structure in UNITS and of_kind(allocator.needs, "block"):
        raise RecipeError(
            f"{allocator.card.label} goes through the blocks first, which is not done for units whose masks are learned.",
            "Spread the share uniformly, by hand, or with allocation global.",
        )
    if "fitness" in allocator.needs or knows_prices(allocator):
        raise RecipeError(
            f"{allocator.card.label} tries out budgets on scores that are there from the start, and masks that are learned have none yet.",
            "Spread the share uniformly, by hand, or with allocation global.",
        )


def prune_learned(task: Task) -> Pruned:
    """Carry out a step whose masks are learned. Whatever is raised, a stop too, leaves the model as it was."""
    loaded, step = task.loaded, task.step
    check_learnable(loaded)
    check_allocator(step)
    places = _groups(loaded, step) if step.structure in UNITS else _layers(loaded, step)
    course = Course(task, places)
    course.check_memory()
    try:
        with only_trains(loaded.model, ()), torch.enable_grad():
            before, scores = _learned(course)
            keep = course.decide(scores)
            after = course.loss({name: kept.float() for name, kept in keep.items()})
    except BaseException:
        course.put_back()
        raise
    finally:
        course.close()
    shares = course.final_shares(scores)
    done = (_cut_out if step.structure in UNITS else _set_to_zero)(loaded, places, shares, scores, keep)
    return replace(done, said={"loss_before": before, "loss_after": after, "losses": [round(loss, 5) for loss in course.losses]})


def _groups(loaded: LoadedModel, step: Prune) -> tuple[Group, ...]:
    """The groups whose units may go, a cut tried on one block of each class."""
    anatomy = loaded.anatomy
    groups = chosen_groups(unit_groups(loaded.model, anatomy.blocks, anatomy.family, step.structure), anatomy, step)
    kinds = {type(loaded.module(anatomy.blocks[group.block].path)): group for group in groups if group.units > 1}
    for group in kinds.values():
        rehearse(loaded, group)
    return tuple(groups)


def _layers(loaded: LoadedModel, step: Prune) -> tuple[Layer, ...]:
    check_spared(step, "learned")
    layers = chosen_layers(loaded.anatomy, step.only, step.protect)
    check_structure(step, layers)
    return tuple(layers)


def _learned(course: Course) -> tuple[float, Scores]:
    """(the loss before, what the method gives each mask), checked: of every shape asked for, and all of it numbers."""
    course.shares  # noqa: B018 - a budget that does not fit is refused before the first forward
    task, method, before = course.task, course.task.method, course.loss({})
    if before == float("inf"):
        raise ModelError(
            "The loss of the whole model on the calibration text is not a number.", "Check its weights, or compute in float32."
        )
    given = {
        "shapes": course.shapes, "targets": course.targets, "ids": course.ids, "loss": course.loss, "backward": course.backward,
        "weights": course.weights, "draw": course.draw, "scores": course.scores, "activity": course.activity, "decide": course.decide, "note": course.note,
        "generator": task.generator(method.card.name), "watcher": task.watcher,
    }  # fmt: skip
    scores = {name: value.detach().float() for name, value in method(given, task.step.params).items()}
    for name, shape in course.shapes.items():
        if tuple(scores[name].shape) != shape or not torch.isfinite(scores[name]).all():
            raise ModelError(
                f"The scores that {method.card.label} learned for {name} are not all numbers.",
                "Use a lower learning rate, or check the model's weights and the calibration text for NaN.",
            )
    return before, scores


def _cut_out(loaded: LoadedModel, groups: Sequence[Group], shares: Mapping[str, float], scores: Scores, keep: Scores) -> Pruned:
    """Units really go, and the config says so."""
    rows, cuts, summary = [], [], {}
    for group in groups:
        block, kept = loaded.anatomy.blocks[group.block], keep[group.name].cpu()
        paths = {part.path for part in group.everything}
        parameters = sum(layer.parameters for layer in block.layers if layer.path in paths)
        if not kept.all():
            cut(loaded.model, block, group, kept)
        summary[group.key] = scores[group.name].cpu()
        reached = int((~kept).sum()) / group.units
        mean = float(summary[group.key].mean())
        rows.append(LayerRow(group.name, group.block, (group.units,), parameters, shares[group.name], reached, mean))
        cuts.append(UnitCut(group, kept))
    settle(loaded.model)
    return Pruned(replace(loaded, anatomy=read_anatomy(loaded.model)), rows=tuple(rows), scores=summary, cuts=tuple(cuts))


def _set_to_zero(
    loaded: LoadedModel, layers: Sequence[Layer], shares: Mapping[str, float], scores: Scores, keep: Scores
) -> Pruned:
    rows, masks, summary = [], {}, {}
    for layer in layers:
        flat, kept = matrix(layer, loaded.module(layer.path).weight.data), keep[layer.name]
        flat.masked_fill_(~kept.to(flat.device), 0.0)
        shaped = kept.T if layer.kind == "conv1d" else kept.reshape(layer.shape)
        masks[layer.path] = PackedMask.of(shaped.contiguous())
        summary[f"{layer.name}.rows"], summary[f"{layer.name}.columns"] = scores[layer.name].mean(1), scores[layer.name].mean(0)
        reached, mean = 1 - float(kept.float().mean()), float(scores[layer.name].mean())
        rows.append(LayerRow(layer.name, layer.block, layer.shape, layer.parameters, shares[layer.name], reached, mean))
    return Pruned(loaded, masks, (), tuple(rows), summary)
