"""What a step of a recipe may say: prune, reconstruct, recover. Part of `core.recipe`, which hands its names on. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
STRUCTURES = (
    "unstructured",
    "N:M",
    "tiles",
    "channels",
    "neurons",
    "heads",
    "blocks",
    "sublayers",
    "experts",
    "mixed",
    "width",
    "slices",
    "vocabulary",
)
SUPER_WEIGHTS = "super_weights"  # in `protect`: the few single weights that the super-weight finder names
_TILES = re.compile(r"^tiles(?::([1-9]\d{0,4}))?$")
_N_OF_M = re.compile(r"^([1-9]\d*):([1-9]\d*)$")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Model(Section):
    """What to prune: builtin:NAME, a folder, a .gguf file, or a hub id with @revision. dtype: what it computes in; auto is float32, or bfloat16 where this
    machine's processor is measured to multiply it at least four times as fast."""

    source: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"


class Text(Section):
    """Sequences of exactly `tokens` tokens cut from a text source: builtin:wikitext2/train, a .txt, .csv, .jsonl or .parquet file.

    `auto` is builtin:wikitext2/train for language models and builtin:mnist5k/train for image classifiers (where `tokens` means nothing).
    """

    source: str = "auto"
    samples: Count = 128
    tokens: Annotated[int, Field(ge=2)] = 512
    column: str | None = None


class Allocation(Section):
    """How a total sparsity becomes one share for each layer. `shares` is for by_hand: layer or block name -> share to remove."""

    method: str = "uniform"
    params: dict[str, Any] = {}
    shares: dict[str, Share] = {}


class Budget(Section):
    """What the step shall bring the model down by, in the place of a sparsity: a share (`remove`) of what the whole model costs before it, or a figure
    (`at_most`, in parameters, bytes, operations, or milliseconds) that it may cost afterwards.

    `tokens`: in the key-value cache, seen by attention (flops), or read (latency); left out, 512 (latency: 128). `batch`: sequences at once, of
    kv_bytes and latency. `repeats`: timed passes of latency.
    """

    cost: Literal["parameters", "bytes", "flops", "kv_bytes", "latency"]
    remove: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    at_most: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    tokens: Count | None = None
    batch: Count = 1
    repeats: Annotated[int, Field(ge=3, le=1000)] = 10

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.remove is None) == (self.at_most is None):
            raise ValueError(
                "a budget needs either remove, a share of the whole model's cost such as 0.2, or at_most, what may be left"
            )
        return self


class Prune(Section):
    method: str
    structure: str = "unstructured"
    sparsity: Share | None = None
    budget: Budget | None = None
    allocation: Allocation = Allocation()
    params: dict[str, Any] = {}
    only: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    general: Text | None = None  # a second text, for methods that set it against the calibration text

    @model_validator(mode="before")
    @classmethod
    def _short_allocation(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("allocation"), str):
            return {**value, "allocation": {"method": value["allocation"]}}
        return value

    @model_validator(mode="after")
    def _agree(self) -> Prune:
        pattern = n_of_m(self.structure)
        if SUPER_WEIGHTS in self.protect and not (
            pattern or tile_size(self.structure) or self.structure in ("unstructured", "N:M")
        ):
            raise ValueError(
                f"protect: {SUPER_WEIGHTS} names single weights, and {self.structure} go whole: leave it out, or name the blocks or layers that stay"
            )
        if self.budget is not None and (self.sparsity is not None or self.allocation.method == "by_hand"):
            other = "sparsity" if self.sparsity is not None else "an allocation by hand"
            raise ValueError(f"budget and {other} both say how much goes: leave one of them out")
        known = pattern is not None or tile_size(self.structure) is not None or self.structure in STRUCTURES
        if not known or self.structure == "N:M":
            raise ValueError(
                f"structure must be one of {', '.join(STRUCTURES)} (N:M as numbers, such as 2:4; tiles of another size as tiles:16), "
                f"not {self.structure!r}"
            )
        if pattern is not None:
            implied = 1 - pattern[0] / pattern[1]
            if self.sparsity is None and self.budget is None:
                object.__setattr__(self, "sparsity", implied)
            elif self.budget is None and abs(self.sparsity - implied) > 1e-9:
                raise ValueError(
                    f"structure {self.structure} means a sparsity of {implied:g}, not {self.sparsity:g}; leave sparsity out"
                )
        elif self.sparsity is None and self.budget is None and self.allocation.method != "by_hand":
            raise ValueError("sparsity is missing: say what share to remove, such as 0.5")
        if self.allocation.method == "by_hand" and not self.allocation.shares:
            raise ValueError("allocation by_hand needs shares: a layer or block name with the share to remove")
        return self


class Reconstruct(Section):
    method: str
    params: dict[str, Any] = {}


class Recover(Section):
    """Training after pruning. Draws `batch` sequences of `tokens` tokens a step from the whole calibration source, or from `data`."""

    method: str
    steps: Count = 100
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    batch: Count = 4
    tokens: Annotated[int, Field(ge=2)] = 256
    data: Text | None = None
    params: dict[str, Any] = {}


class Step(Section):
    """Exactly one of prune, reconstruct, recover."""

    prune: Prune | None = None
    reconstruct: Reconstruct | None = None
    recover: Recover | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if sum(part is not None for part in (self.prune, self.reconstruct, self.recover)) != 1:
            raise ValueError("a step is exactly one of prune, reconstruct, recover")
        return self


def tile_size(structure: str) -> int | None:
    """Weights a side of the tiles that a structure names: `tiles` is 32, `tiles:16` is 16; None for other structures."""
    match = _TILES.match(structure)
    return int(match[1] or 32) if match else None


def n_of_m(structure: str) -> tuple[int, int] | None:
    """("2:4") -> (2, 4): keep N of each M consecutive inputs. None where the structure is not N:M."""
    match = _N_OF_M.match(structure)
    if match is None:
        return None
    n, m = int(match[1]), int(match[2])
    return (n, m) if n < m else None
