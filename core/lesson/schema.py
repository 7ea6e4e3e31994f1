"""What a lesson file may say, as pydantic sections: unknown keys are refused by name. Part of `core.lesson`. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from core.recipe_steps import Section, Share

ROOMS = ("model", "xray", "budget", "prune", "compare", "formula", "data", "geometry", "runs", "learn")
EVERYTHING = "all"  # in a step's budget: every block
BARS = "bars"  # in a recipe's shares by hand: what the person's own bars say
Line = Annotated[str, Field(min_length=1, max_length=2000)]


class Reading(Section):
    """The paper that a lesson ends with."""

    authors: Line
    year: Annotated[int, Field(ge=1900, le=2100)]
    title: Line
    arxiv: Annotated[str, Field(pattern=r"^(\d{4}\.\d{4,5})?$")] = ""


class Head(Section):
    """What a lesson is. `recipes`: {name: steps, calibration and measure of a run}; the model is the lesson's own. `order`:
    of its card among the others, lowest first."""

    lesson: Literal[1]
    title: Line
    about: Line
    minutes: Annotated[int, Field(ge=1, le=600)]
    order: int = 100
    model: Line
    paper: Reading
    recipes: dict[str, dict[str, Any]] = Field({})


class Ask(Section):
    """What the person answers: a number, or one of several."""

    number: Line | None = None
    unit: str = ""
    choose: Line | None = None
    among: Literal["blocks"] | Annotated[tuple[Line, ...], Field(min_length=2, max_length=12)] = "blocks"

    @model_validator(mode="after")
    def _one(self) -> Ask:
        if (self.number is None) == (self.choose is None):
            raise ValueError("ask needs either number or choose, with the question as its text")
        return self


class Doing(Section):
    """A step's block. `check`: {name: parameters}, one check."""

    room: str | None = None
    budget: dict[str, Share] | None = None
    recipe: str | None = None
    ask: Ask | None = None
    check: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1, max_length=1)] | None = None
    hint: str = ""
    right: str = ""
    not_yet: str = ""
