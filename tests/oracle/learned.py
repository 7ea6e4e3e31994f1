"""How tests of learned masks run them: on a tiny Llama and sixteen tokens a sequence."""

from __future__ import annotations

import copy

import torch

from core.events import Silent
from core.model.inputs.texts import NO_TEXTS
from core.model.learned.course import Course
from core.model.loading import from_module
from core.model.pruning.step import prune, pruner
from core.model.pruning.task import Task
from core.model.units.groups import unit_groups
from core.recipe import Prune

IDS = torch.randint(0, 300, (9, 16), generator=torch.Generator().manual_seed(3))
HEAD = 8


def run(model, watcher=None, ids=IDS, seed=0, texts=NO_TEXTS, **fields):
    return prune(from_module(model, "tiny"), Prune(**fields), lambda: ids, seed, watcher or Silent(), texts)


def course(model, method="movement", ids=IDS, structure="unstructured", sparsity=0.5, **fields) -> Course:
    loaded = from_module(model, "tiny")
    places = loaded.anatomy.layers
    if structure in ("neurons", "heads"):
        places = unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)
    step = Prune(method=method, structure=structure, sparsity=sparsity, **fields)
    return Course(Task(loaded, step, pruner(method), lambda: ids, 0, Silent()), tuple(places))


def plain_loss(model, rows=None) -> torch.Tensor:
    """transformers' own, of all these sequences together: all are of one length."""
    ids = IDS if rows is None else IDS[rows]
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def masked(model, masks):
    """A copy with its weights multiplied: of layers entry by entry, of units the columns that read them."""
    model = copy.deepcopy(model)
    for name, mask in masks.items():
        index, part = int(name.split(".")[1]), model.model.layers[int(name.split(".")[1])]
        if name == f"blocks.{index}.mlp":
            part.mlp.down_proj.weight.data *= mask
        elif name == f"blocks.{index}.attention":
            part.self_attn.o_proj.weight.data *= mask.repeat_interleave(2 * HEAD)
        else:
            part.get_submodule(name.split(".", 2)[2]).weight.data *= mask
    return model


def some_masks(one: Course) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.rand(shape, generator=generator).round() for name, shape in one.shapes.items()}
