"""A recipe in one sentence, as the plan on the screen says it. Pure: no screen in here."""

from __future__ import annotations

from collections.abc import Sequence

from core import catalogue
from core.cost import MASKS
from core.recipe import Prune, Recipe, n_of_m, tile_size
from core.recipe_steps import SUPER_WEIGHTS
from studio import target
from studio.rooms.prune.plans import BY_HAND, IMAGES, UNITS, WHOLE, WORDS


def sentence(recipe: Recipe, cards: tuple[catalogue.MethodCard, ...], kind: str = "decoder") -> str:
    """What a run of the recipe will do, in one sentence. kind: the model's, as its anatomy says."""
    labels = {(card.kind, card.name): card.label for card in cards}
    parts = []
    for step in recipe.steps:
        if step.prune:
            card = catalogue.pruner(cards, step.prune.method)
            model, inside = _short(recipe.model.source), f" inside the {card.inside}" if card.inside else ""
            formula = f" ({step.prune.params['expression']})" if "expression" in step.prune.params else ""
            how = f"by {card.label}{formula}{_against(step.prune, card)}{_seen(recipe, step.prune, cards, kind)}{_where(step.prune)}"
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
            label = labels.get(("reconstruction", step.reconstruct.method), step.reconstruct.method)
            parts.append(f"put the layers right by {label} on the calibration text, without training")
    if asked := _measured(recipe):
        parts.append(f"measure {asked} before and after")
    if recipe.save.model:
        structures = {step.prune.structure for step in recipe.steps if step.prune}
        how = " that transformers loads"
        biased = any(
            step.reconstruct and not catalogue.find(cards, "reconstruction", step.reconstruct.method).structures
            for step in recipe.steps
        )
        if biased or structures & {*UNITS, "sublayers", "mixed", "slices"}:  # whether it does is known once widths are
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


def _where(prune: Prune) -> str:
    """, only in blocks.0 and *.mlp.*, sparing the super weights"""
    names = [name for name in prune.protect if name != SUPER_WEIGHTS]
    spared = ["the super weights"] * (SUPER_WEIGHTS in prune.protect) + _few(names)
    only = f", only in {_and(_few(prune.only))}" if prune.only else ""
    return only + (f", sparing {_and(spared)}" if spared else "")


def _few(names: Sequence[str], most: int = 4) -> list[str]:
    told = [_short(name) for name in names]
    return told if len(told) <= most else [*told[: most - 1], f"{len(told) - most + 1} others"]


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


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
    return _and([word for word in words if word])


def _short(source: str) -> str:
    return source.removeprefix("builtin:") if len(source) <= 48 else "…" + source[-46:]
