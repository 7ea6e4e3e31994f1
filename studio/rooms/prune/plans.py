"""From the controls of the pruning room to a recipe, and from a recipe to one sentence. Pure: no screen in here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from core import catalogue
from core.errors import RecipeError
from core.recipe import n_of_m, tile_size
from studio import target

BY_HAND = "by_hand"
STRUCTURE_WORDS = {
    "unstructured": "single weights, anywhere",
    "tiles": "square tiles of weights",
    "channels": "whole channels",
    "neurons": "whole neurons",
    "heads": "attention heads",
    "query_heads": "query heads inside their groups",
    "heads_and_neurons": "heads and neurons together",
    "blocks": "whole blocks",
    "sublayers": "attention or MLP parts of blocks",
    "experts": "experts",
    "mixed": "parts of blocks, then neurons, then heads",
    "width": "channels of the hidden width",
    "slices": "slices of the hidden width",
    "vocabulary": "rows of the vocabulary",
}
UNITS = ("neurons", "heads", "query_heads", "heads_and_neurons", "channels")
WORDS = {
    "query_heads": "query heads",
    "heads_and_neurons": "heads and neurons, counted in parameters,",
}  # where a structure's name is no word
# structures that go whole: a budget by hand has no meaning there
WHOLE = {
    "blocks": "blocks",
    "sublayers": "attentions and MLPs",
    "mixed": "parameters, as parts of blocks, neurons and heads",
    "width": "channels of the hidden width",
    "slices": "axes of the hidden width",
    "vocabulary": "rows of the vocabulary",
}
PATTERNS = ("2:4", "4:8", "1:4", "1:2")
ANY = "N:M"  # any other pattern: the person types N and M
TILE = 32  # weights a side of a tile where nobody says
IMAGES = ("builtin:mnist5k/train", "builtin:mnist5k/test", "builtin:digits")  # calibration sources that hold images, not text
PROMPT = "The city was founded in"


@dataclass(frozen=True)
class Order:
    """What the controls say. `pattern`: N and M where the structure is any N:M; `tile`: the side of tiles; `only`, `protect`: names or patterns of parts;
    `cost`: what `sparsity` is a share of, or `limit` (in people's unit) the most that may be left of; `spread`: the allocator's parameters; `shares`: the
    budget made by hand; `refit`, `recovery`: a method or "none", `mending`, `healing` their parameters; `kind`: of the model, decides what is measured."""

    model: str
    kind: str = "decoder"
    name: str = ""
    seed: int = 0
    method: str = "wanda"
    params: dict[str, Any] = field(default_factory=dict)
    structure: str = "unstructured"
    pattern: tuple[int | None, int | None] = (2, 4)
    tile: int | None = TILE
    only: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    cost: str = target.SHARE
    sparsity: float = 0.5
    limit: float | None = None
    allocation: str = "uniform"
    spread: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    source: str = "auto"
    general: str = "auto"
    samples: int = 128
    tokens: int = 512
    refit: str = "none"
    mending: dict[str, Any] = field(default_factory=dict)
    recovery: str = "none"
    steps: int = 100
    healing: dict[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ("quality", "text")
    prompt: str = PROMPT
    save: bool = False


def structures(card: catalogue.MethodCard) -> list[tuple[str, str]]:
    """(words, value) for each structure that a method can remove; N:M as its usual patterns."""
    out: list[tuple[str, str]] = []
    inside = f" inside {card.inside}" if card.inside else ""
    for name in card.structures:
        out += (
            [
                *((f"{p[0]} of each {p[2]} inputs kept ({p}){inside}", p) for p in PATTERNS),
                (f"N of each M inputs kept, any N and M{inside}", ANY),
            ]
            if name == ANY
            else [(STRUCTURE_WORDS[name] + inside, name)]
        )
    return out


def spreads(structure: str) -> list[tuple[str, str]]:
    """(words, value) for each way to spread the share over the parts of this structure, uniform first, by hand last."""
    kind = ANY if n_of_m(structure) else "tiles" if tile_size(structure) else structure
    cards = [
        card
        for card in catalogue.of_kind("allocator")
        if not card.problem and (kind in card.structures or card.name == "uniform")
    ]
    by_hand = [] if fixed(structure) else [("The budget by hand", BY_HAND)]
    return [*sorted(((card.label, card.name) for card in cards), key=lambda way: way[1] != "uniform"), *by_hand]


def fixed(structure: str) -> bool:
    """Does the structure itself say the share that goes?"""
    return structure == ANY or n_of_m(structure) is not None


def spoken(structure: str, pattern: tuple[int | None, int | None], tile: int | None) -> str:
    """The structure as recipes name it: N:M with its numbers, tiles with their side. Raises RecipeError where these make no sense."""
    if structure == "tiles":
        if not tile or not 1 <= tile <= 99_999:
            raise RecipeError(
                f"A tile cannot be {tile if tile is not None else 'of no'} weights wide.", "Type its side: 16, 32, 64 ..."
            )
        return "tiles" if tile == TILE else f"tiles:{tile}"
    if structure != ANY:
        return structure
    n, m = pattern
    if not n or not m or not 1 <= n < m:
        shown = f"{'nothing' if n is None else n} of each {'nothing' if m is None else m} inputs"
        raise RecipeError(f"{shown[:1].upper()}{shown[1:]} is no pattern to keep.", "N is 1 or more, and smaller than M: 2 of 4.")
    return f"{n}:{m}"


def to_recipe(order: Order) -> dict[str, Any]:
    """The recipe as a plain mapping; `core.recipe.parse` says what is wrong with it, if anything. Raises RecipeError on numbers that make no structure."""
    order = replace(order, structure=spoken(order.structure, order.pattern, order.tile))
    steps: list[dict[str, Any]] = [{"prune": _prune(order)}]
    if order.refit != "none":
        steps.append({"reconstruct": {"method": order.refit, **({"params": order.mending} if order.mending else {})}})
    if order.recovery != "none":
        healing = {"params": order.healing} if order.healing else {}
        steps.append({"recover": {"method": order.recovery, "steps": order.steps, **healing}})
    out: dict[str, Any] = {
        "recipe": 1,
        "name": order.name or suggested_name(order),
        "seed": order.seed,
        "model": {"source": order.model},
        "calibration": {"source": order.source, "samples": order.samples, "tokens": order.tokens},
        "steps": steps,
    }
    measure = _measure(order)
    if measure:
        out["measure"] = measure
    return {**out, "save": {"model": True}} if order.save else out


def suggested_name(order: Order) -> str:
    """A name that tells runs apart: tiny-llama-wanda-50."""
    model = order.model.removeprefix("builtin:").rstrip("/").split("/")[-1].split("@")[0].removesuffix(".gguf")[:40] or "model"
    pattern = n_of_m(order.structure)
    if _by_hand(order):
        amount = "by-hand"
    else:
        amount = f"{pattern[0]}of{pattern[1]}" if pattern else f"{100 * order.sparsity:.0f}"
        if order.cost != target.SHARE and not pattern:
            amount = f"{order.cost}-" + (f"to-{order.limit:g}" if order.limit else amount)
    healed = "".join(f"-{name}" for name in (order.refit, order.recovery) if name != "none")
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in model)
    return f"{kept.strip('._-') or 'model'}-{order.method}-{amount}{healed}"[:80]


def _by_hand(order: Order) -> bool:
    """The bars decide, unless what goes goes whole, or itself says how much."""
    return order.allocation == BY_HAND and order.structure not in WHOLE and not fixed(order.structure)


def _prune(order: Order) -> dict[str, Any]:
    out: dict[str, Any] = {"method": order.method, "structure": order.structure}
    if _by_hand(order):
        out["allocation"] = {"method": BY_HAND, "shares": {name: share for name, share in order.shares.items() if share > 0}}
    else:
        free = n_of_m(order.structure) is None
        if free and order.cost != target.SHARE:
            out["budget"] = target.budget(order.cost, order.sparsity, order.limit)
        elif free:
            out["sparsity"] = order.sparsity
        if order.allocation not in ("uniform", BY_HAND) and free and order.structure not in WHOLE:
            out["allocation"] = {"method": order.allocation, **({"params": order.spread} if order.spread else {})}
    out |= {key: list(names) for key, names in (("only", order.only), ("protect", order.protect)) if names}
    if order.general != "auto":
        out["general"] = {"source": order.general, "samples": order.samples, "tokens": order.tokens}
    return {**out, "params": order.params} if order.params else out


def _measure(order: Order) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if order.kind == "image_classifier":
        out |= {figure: {} for figure in ("corruptions", "geometry") if figure in order.measures}
    if "quality" in order.measures:
        out |= {"accuracy": {}} if order.kind == "image_classifier" else {"perplexity": {}} if order.kind == "decoder" else {}
    if "latency" in order.measures:
        out["latency"] = {}
    if "text" in order.measures and order.kind == "decoder" and order.prompt.strip():
        out["generate"] = [line for line in order.prompt.splitlines() if line.strip()]
    return out
