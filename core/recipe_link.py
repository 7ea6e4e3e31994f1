"""What a recipe may ask of a data set as a model sees it: its geometry block by block, and where pruning damages it. Part of `core.recipe`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.recipe_steps import Section, Share, n_of_m


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


class Damage(Section):
    """Which rows a model gives up when single layers are pruned: for each cluster of the recipe's data, each layer and each level, how the loss rises, how far
    the answers move and how far the final representation does, that layer alone being pruned; and the same for all of them together.

    `shares`: the budget by layer or block; with it, `levels` are left out and each layer is pruned by its own share. `rows`: at most so many, drawn class by
    class in proportion. `by`: rows are grouped by clusters of the recipe's embedding, or by label.
    """

    method: str = "wanda"
    structure: str = "unstructured"
    levels: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(max_length=6)] = (0.5,)
    shares: dict[str, Share] = Field({})
    rows: Annotated[int, Field(ge=8, le=5000)] = 120
    tokens: Annotated[int, Field(ge=4, le=1024)] = 64
    by: Literal["clusters", "labels"] = "clusters"

    @model_validator(mode="after")
    def _fits(self) -> Damage:
        pattern = n_of_m(self.structure)
        if pattern is None and self.structure != "unstructured":
            raise ValueError(f"structure must be unstructured or N:M such as 2:4, not {self.structure!r}")
        implied = 1 - pattern[0] / pattern[1] if pattern else None
        if implied is not None and (self.shares or any(abs(level - implied) > 1e-9 for level in self.levels)):
            raise ValueError(
                f"structure {self.structure} means the one level {implied:g}: say levels: [{implied:g}] and no shares"
            )
        if not self.levels and not self.shares:
            raise ValueError("damage needs levels, such as [0.5], or shares")
        return self
