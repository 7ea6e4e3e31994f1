"""What a recipe may say about data that heals: recovery of a pruned model on chosen rows beside chance. Part of `core.recipe`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from core.recipe_steps import Count, Section, Share

HEALING_SHARES = (0.05, 0.2, 0.5)  # of the pool's tokens


class Heal(Section):
    """Prune the model once, as the recipe's one step says, then heal it again and again on parts of the recipe's data: rows that `select` chooses, random
    rows, and random rows with the dense model as teacher, each with the same number of tokens; and on all rows. Measured on rows that none saw.

    `method`, `params`, `learning_rate`: the recovery. `shares`: of the tokens that may be learned from. `epochs`: passes over them. `tokens`: of a
    sequence, and the most that are read of a row. `rows`: at most so many of the data take part. Distillation: (1 - alpha) CE + alpha T^2 KL to
    the dense model.
    """

    method: str = "lora"
    params: dict[str, Any] = Field({})
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    shares: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1, max_length=20)] = HEALING_SHARES
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    epochs: Annotated[int, Field(ge=1, le=100)] = 1
    batch: Count = 4
    tokens: Annotated[int, Field(ge=8, le=2048)] = 128
    rows: Annotated[int, Field(ge=20, le=50_000)] = 4000
    baselines: tuple[Literal["random", "distillation"], ...] = ("random", "distillation")
    alpha: Share = 0.5
    temperature: Annotated[float, Field(gt=0.0, le=20.0)] = 1.0
