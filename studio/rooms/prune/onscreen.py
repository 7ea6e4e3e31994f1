"""What the plan on screen was read from: another window may open another model or move bars before *Prune* is pressed here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import ResourceError
from core.recipe import Recipe


def of(recipe: Recipe) -> list[Any]:
    """[model, {layer: share} of each pruning step]: what a plan takes from the workspace."""
    shares = [dict(step.prune.allocation.shares) for step in recipe.steps if step.prune]
    return [recipe.model.source if recipe.model else "", shares]


def same(shown: Sequence[Any] | None, recipe: Recipe) -> None:
    """Raises ResourceError where `recipe` would prune something else than the plan that was shown (None: no plan was)."""
    if shown is None:
        return
    (model, shares), (now, shares_now) = shown, of(recipe)
    if model != now:
        raise ResourceError(
            f"Another window has opened {now} meanwhile, and the plan here was for {model}: nothing was pruned.",
            "The plan now says what would go; press Prune again if you want that.",
        )
    if shares != shares_now:
        raise ResourceError(
            "Another window has moved the bars of the budget meanwhile: nothing was pruned.",
            "The plan now says what would go; press Prune again if you want that.",
        )
