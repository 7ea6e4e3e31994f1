"""What a recipe may say about the proof of a selection. Part of `core.recipe`, which hands its name on. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from core.recipe_steps import Count, Section, Share

SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)  # where a recipe names none; the one nearest to the selection's own gives way to it
BASELINES = ("random", "rs2", "distillation", "opposite")
EPOCHS = {"mlp": 20, "cnn": 20, "tiny-llama": 5}  # the linear probe is solved, not descended: it has none
LEARNERS = ("linear", *EPOCHS)


class Prove(Section):
    """Train `learner` on the kept share and beside it on the `baselines` at the same share; random is always among them.

    learner: linear (on the vectors), mlp (on the vectors), cnn (on images), tiny-llama (a language model from scratch, on texts: perplexity
    instead of accuracy). shares left out: five, the selection's own among them. epochs left out: the learner's own. match: every share sees as
    many passes over its rows (shares cost what they are), or as many steps as all rows do (shares cost alike, small ones are repeated).
    baselines left out: all that apply: random; rs2 (a new random subset every epoch); distillation (random rows, and a teacher trained on
    all: (1 - alpha) CE + alpha KL at `temperature`); opposite (the other end of the same score).
    """

    learner: Literal["linear", "mlp", "cnn", "tiny-llama"] = "linear"
    shares: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(max_length=20)] = ()
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    match: Literal["passes", "steps"] = "passes"
    baselines: tuple[Literal["random", "rs2", "distillation", "opposite"], ...] = ()
    batch: Count = 32
    alpha: Share = 0.5
    temperature: Annotated[float, Field(gt=0.0, le=20.0)] = 2.0
    device: str = "auto"

    @model_validator(mode="after")
    def _fits(self) -> Prove:
        if self.learner == "linear" and "rs2" in self.baselines:
            raise ValueError(
                "rs2 draws new rows every epoch, and the linear probe has no epochs; choose mlp or cnn, or leave rs2 out"
            )
        if self.learner == "linear" and self.epochs is not None:
            raise ValueError(
                "epochs say nothing to the linear probe, which is solved to its optimum; choose mlp or cnn, or leave them out"
            )
        return self


class Cross(Section):
    """Two axes at once: train `learner` on each share of the recipe's data that `select` keeps, then keep each share of its weights by `method` and train what
    is left once more on the same rows, `retrain` epochs. Every cell with every seed, on the same held-out rows.

    `rows`, `weights`: shares kept, 1 for all; both always have 1 among them. `method`: magnitude or random, over each layer's weights but not the last layer's.
    """

    learner: Literal["mlp", "cnn"] = "mlp"
    rows: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1, max_length=12)] = (
        0.1,
        0.2,
        0.5,
        1.0,
    )
    weights: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1, max_length=12)] = (
        0.02,
        0.05,
        0.1,
        0.3,
        1.0,
    )
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20
    retrain: Annotated[int, Field(ge=0, le=1000)] = 5
    method: Literal["magnitude", "random"] = "magnitude"
    match: Literal["passes", "steps"] = "passes"
    batch: Count = 32
    device: str = "auto"

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """All rows and all weights are always there: what the others are set against."""
        if not isinstance(value, dict):
            return value
        more = {name: sorted({*value[name], 1.0}) for name in ("rows", "weights") if isinstance(value.get(name), (list, tuple))}
        return {**value, **more}


def shares_of(prove: Prove, keep: float | None) -> tuple[float, ...]:
    """The shares to prove, rising."""
    if prove.shares:
        return tuple(sorted(set(prove.shares)))
    if not keep:
        return SHARES
    nearest = min(SHARES, key=lambda share: abs(share - keep))
    return tuple(sorted({keep if share == nearest else share for share in SHARES}))
