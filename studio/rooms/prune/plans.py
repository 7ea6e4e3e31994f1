"""From the controls of the pruning room to a recipe, and from a recipe to one sentence. Pure: no screen in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core import catalogue
from core.cost import MASKS
from core.recipe import Prune, Recipe, n_of_m, tile_size
from studio import target

BY_HAND = "by_hand"
STRUCTURE_WORDS = {
    "unstructured": "single weights, anywhere",
    "tiles": "32 × 32 tiles",
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
IMAGES = ("builtin:mnist5k/train", "builtin:mnist5k/test", "builtin:digits")  # calibration sources that hold images, not text
PROMPT = "The city was founded in"


@dataclass(frozen=True)
class Order:
    """What the controls say. `cost`: what `sparsity` is a share of, or `limit` (in people's unit) the most that may be left of; `spread`: the allocator's
    parameters; `shares`: the budget made by hand; `recovery`: a method or "none"; `kind`: of the model, decides how quality is measured."""

    model: str
    kind: str = "decoder"
    name: str = ""
    seed: int = 0
    method: str = "wanda"
    params: dict[str, Any] = field(default_factory=dict)
    structure: str = "unstructured"
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
    recovery: str = "none"
    steps: int = 100
    measures: tuple[str, ...] = ("quality", "text")
    prompt: str = PROMPT
    save: bool = False


def structures(card: catalogue.MethodCard) -> list[tuple[str, str]]:
    """(words, value) for each structure that a method can remove; N:M as its usual patterns."""
    out: list[tuple[str, str]] = []
    inside = f" inside {card.inside}" if card.inside else ""
    for name in card.structures:
        out += (
            [(f"{p[0]} of each {p[2]} inputs kept ({p}){inside}", p) for p in PATTERNS]
            if name == "N:M"
            else [(STRUCTURE_WORDS[name] + inside, name)]
        )
    return out


def spreads(structure: str) -> list[tuple[str, str]]:
    """(words, value) for each way to spread the share over the parts of this structure, uniform first, by hand last."""
    kind = "N:M" if n_of_m(structure) else "tiles" if tile_size(structure) else structure
    cards = [
        card
        for card in catalogue.of_kind("allocator")
        if not card.problem and (kind in card.structures or card.name == "uniform")
    ]
    return [
        *sorted(((card.label, card.name) for card in cards), key=lambda way: way[1] != "uniform"),
        ("The budget by hand", BY_HAND),
    ]


def to_recipe(order: Order) -> dict[str, Any]:
    """The recipe as a plain mapping; `core.recipe.parse` says what is wrong with it, if anything."""
    steps: list[dict[str, Any]] = [{"prune": _prune(order)}]
    if order.recovery != "none":
        steps.append({"recover": {"method": order.recovery, "steps": order.steps}})
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
    if order.allocation == BY_HAND and order.structure not in WHOLE:
        amount = "by-hand"
    else:
        amount = f"{pattern[0]}of{pattern[1]}" if pattern else f"{100 * order.sparsity:.0f}"
        if order.cost != target.SHARE and not pattern:
            amount = f"{order.cost}-" + (f"to-{order.limit:g}" if order.limit else amount)
    healed = "" if order.recovery == "none" else f"-{order.recovery}"
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in model)
    return f"{kept.strip('._-') or 'model'}-{order.method}-{amount}{healed}"[:80]


def _prune(order: Order) -> dict[str, Any]:
    out: dict[str, Any] = {"method": order.method, "structure": order.structure}
    if order.allocation == BY_HAND and order.structure not in WHOLE:
        out["allocation"] = {"method": BY_HAND, "shares": {name: share for name, share in order.shares.items() if share > 0}}
    else:
        free = n_of_m(order.structure) is None
        if free and order.cost != target.SHARE:
            out["budget"] = target.budget(order.cost, order.sparsity, order.limit)
        elif free:
            out["sparsity"] = order.sparsity
        if order.allocation not in ("uniform", BY_HAND) and free and order.structure not in WHOLE:
            out["allocation"] = {"method": order.allocation, **({"params": order.spread} if order.spread else {})}
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


def sentence(recipe: Recipe, cards: tuple[catalogue.MethodCard, ...], kind: str = "decoder") -> str:
    """What a run of the recipe will do, in one sentence. kind: the model's, as its anatomy says."""
    labels = {(card.kind, card.name): card.label for card in cards}
    parts = []
    for step in recipe.steps:
        if step.prune:
            card = catalogue.pruner(cards, step.prune.method)
            model, inside = _short(recipe.model.source), f" inside the {card.inside}" if card.inside else ""
            formula = f" ({step.prune.params['expression']})" if "expression" in step.prune.params else ""
            how = f"by {card.label}{formula}{_against(step.prune, card)}{_seen(recipe, step.prune, cards, kind)}"
            if step.prune.budget:
                parts.append(f"{_what(step.prune, model)} {how}{_spread(step.prune, labels)}, {_until(step.prune)}")
            elif step.prune.allocation.method in ("uniform", BY_HAND) or n_of_m(step.prune.structure):
                parts.append(f"{_amount(step.prune)}{inside} of {model} {how}")
            else:
                parts.append(f"{_amount(step.prune)}{inside} of {model} {how}{_spread(step.prune, labels)}")
        elif step.recover:
            label = labels.get(("recovery", step.recover.method), step.recover.method)
            parts.append(f"train {label} for {step.recover.steps} steps to win quality back")
        elif step.reconstruct:
            parts.append(f"reconstruct the layers' outputs with {step.reconstruct.method}")
    if asked := _measured(recipe):
        parts.append(f"measure {asked} before and after")
    if recipe.save.model:
        structures = {step.prune.structure for step in recipe.steps if step.prune}
        how = " that transformers loads"
        if structures & {*UNITS, "sublayers", "mixed", "slices"}:  # whether it does is known once widths are
            how = " that Prunarium loads" if structures & {"sublayers", "mixed"} else ", with how to load it on its card"
        parts.append("save the model in a folder" + how)
    text = "; then ".join(parts)
    return text[:1].upper() + text[1:] + "."


def _amount(prune: Prune) -> str:
    pattern = n_of_m(prune.structure)
    if pattern:
        return f"keep {pattern[0]} of each {pattern[1]} consecutive inputs"
    if prune.allocation.method == BY_HAND:
        count = len(prune.allocation.shares)
        whole = all(name.count(".") == 1 for name in prune.allocation.shares)
        word = "block" if whole else "place"
        return f"remove what your budget says from {count} {word if count == 1 else word + 's'}"
    share = f"{100 * (prune.sparsity or 0):.3g} %"
    if prune.structure in WHOLE:
        return f"remove {share} of the {WHOLE[prune.structure]}"
    place = _place(prune.structure)
    what = "weights" if prune.structure == "unstructured" else _named(prune.structure)
    return f"remove {share} of " + (f"the {what} in every {place}" if prune.allocation.method == "uniform" else f"all {what}")


def _place(structure: str) -> str:
    return "block" if structure in (*UNITS[:-1], "experts") else "layer"


def _named(structure: str) -> str:
    """tiles:16 -> 16 × 16 tiles"""
    size = tile_size(structure)
    return f"{size} × {size} tiles" if size else WORDS.get(structure, structure)


def _against(prune: Prune, card: catalogue.MethodCard) -> str:
    """The second model that a method compares with."""
    named = [str(prune.params.get(param.name, "")) for param in card.params if param.grammar == "model"]
    return "".join(f" against {_short(source)}" for source in named if source)


def _what(prune: Prune, model: str) -> str:
    """remove neurons of tiny-llama"""
    if prune.structure == "unstructured":
        return f"set weights of {model} to zero"
    verb = f"set {_named(prune.structure)} of {model} to zero" if tile_size(prune.structure) else ""
    return verb or f"remove {WHOLE.get(prune.structure, _named(prune.structure))} of {model}"


def _spread(prune: Prune, labels: dict[tuple[str, str], str]) -> str:
    """How the share comes apart: evenly, or by the allocator, under the name that the menu gives it."""
    place, method = _place(prune.structure), prune.allocation.method
    if prune.structure in WHOLE:
        return ""
    if method == "uniform":
        return f", evenly from every {place}"
    return f", spread over the {place}s by {labels.get(('allocator', method), method)}"


def _until(prune: Prune) -> str:
    masked = prune.structure in MASKS or tile_size(prune.structure)
    words = target.words(prune.budget.cost, prune.budget.remove, prune.budget.at_most)
    return words + (", counting what is not zero" if masked else "")


def _seen(recipe: Recipe, prune: Prune, cards: tuple[catalogue.MethodCard, ...], kind: str) -> str:
    """What the method, or the allocator, reads besides the weights. (An allocator's "scores" are the method's own.)"""
    asked = [card for card in cards if card.kind in catalogue.PRUNERS and card.name == prune.method]
    asked += [card for card in cards if card.kind == "allocator" and card.name == prune.allocation.method]
    if not {need for card in asked for need in card.needs} - {"scores"} and asked[0].kind not in (
        "search",
        "transform",
        "learned",
    ):
        return ", which looks at the weights alone"
    at, source = recipe.calibration, recipe.calibration.source
    named = "its standard calibration text" if source == "auto" else _short(source)
    if kind == "image_classifier" or prune.structure == "channels" or source in IMAGES or recipe.measure.accuracy:
        return f", looking at {at.samples} images from {'its standard calibration set' if source == 'auto' else _short(source)}"
    other = f", weighed against {_short(prune.general.source)}" if prune.general else ""
    return f", looking at {at.samples} sequences of {at.tokens} tokens from {named}{other}"


def _measured(recipe: Recipe) -> str:
    asked = recipe.measure
    words = [
        "perplexity" if asked.perplexity else "",
        "accuracy" if asked.accuracy else "",
        "latency" if asked.latency else "",
        "sample text" if asked.generate else "",
        "accuracy on corrupted images" if asked.corruptions else "",
        "feature geometry" if asked.geometry else "",
    ]
    words = [word for word in words if word]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _short(source: str) -> str:
    return source.removeprefix("builtin:") if len(source) <= 48 else "…" + source[-46:]
