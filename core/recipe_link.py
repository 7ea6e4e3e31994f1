"""What a recipe may ask of a data set as a model sees it: its geometry block by block, and where pruning damages it. Part of `core.recipe`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.recipe_steps import Section


class ByLayer(Section):
    """The geometry of the recipe's data in every block of its model: one pass collects what each block puts out, pooled over a row's tokens (or places), then
    all measures are taken block by block.

    `rows`: at most so many, drawn class by class in proportion. `pool`: the mean over tokens, or the last token (text only). `neighbours`: how many each
    row's neighbourhood has. `against`: what to set beside it: another model (builtin:NAME, a folder, a hub id) or the folder of a finished run of this model;
    with `steps` in the recipe it is the model that comes out of them.
    """

    pool: Literal["mean", "last"] = "mean"
    tokens: Annotated[int, Field(ge=2, le=2048)] = 128
    rows: Annotated[int, Field(ge=20, le=20_000)] = 2000
    neighbours: Annotated[int, Field(ge=2, le=100)] = 10
    against: str | None = None
