"""Which parts of the model a plan may take from: the names on offer, the controls for them, and whether what was chosen fits the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import RecipeError
from core.recipe import Prune, Recipe, n_of_m, tile_size
from core.recipe_steps import SUPER_WEIGHTS
from studio.rooms.prune.plans import ANY

_MOST_NAMED = 400  # layers on offer by name; a larger model's are typed, or chosen by block and by kind
_NO_PARTS = ("width", "slices", "vocabulary", "mixed")  # taken from the whole model at once
Described = Mapping[str, Any]


def controls() -> tuple[gr.Accordion, gr.Dropdown, gr.Dropdown, gr.Checkbox]:
    """The fold, only, protect, super weights. Their choices come with the model."""
    with gr.Accordion("Which parts of the model", open=False, elem_id="scope") as fold:
        kind: dict[str, Any] = {"multiselect": True, "allow_custom_value": True, "value": []}
        only = gr.Dropdown([], **kind, label="Only from", elem_id="only",
                           info="Blocks, kinds of layers, single layers; or type a pattern: blocks.[0-3].mlp.*  Empty: from all")  # fmt: skip
        protect = gr.Dropdown([], **kind, label="Never from", elem_id="protect", info="What is named here stays as it is")
        spare = gr.Checkbox(
            False,
            label="Spare the super weights",
            elem_id="spare-super",
            info="The few single weights without which the model speaks nonsense, found before the step",
        )
    return fold, only, protect, spare


def names(described: Described) -> list[tuple[str, str]]:
    """(words, name or pattern) of the parts that can be chosen: blocks, kinds of layers in every block, then each layer."""
    blocks = [str(block["name"]) for block in described.get("blocks") or ()]
    layers = [str(layer["name"]) for layer in described.get("layers") or ()]
    tails = dict.fromkeys(name.split(".", 2)[2] for name in layers if name.startswith("blocks.") and name.count(".") > 1)
    folds = dict.fromkeys(tail.rpartition(".")[0] for tail in tails if "." in tail)
    kinds = [(f"every {tail}", f"blocks.*.{tail}") for tail in tails] if len(tails) <= 40 else []
    whole = [(f"all of {part}", f"blocks.*.{part}.*") for part in folds] if len(folds) <= 20 else []
    single = [(name, name) for name in layers] if len(layers) <= _MOST_NAMED else []
    return [*whole, *kinds, *((name, name) for name in blocks[:_MOST_NAMED]), *single]


def parts(card: catalogue.MethodCard, structure: str) -> bool:
    """Can parts be chosen or spared at all?"""
    return structure not in _NO_PARTS and (card.kind != "transform" or structure == "blocks")


def spares(card: catalogue.MethodCard, structure: str) -> bool:
    """Can single weights be spared? Only where single weights go, by their scores."""
    masked = structure in ("unstructured", ANY) or n_of_m(structure) or tile_size(structure)
    return bool(masked) and card.kind == "score" and not card.inside


def asked(
    only: Sequence[str] | None, protect: Sequence[str] | None, spare: bool, card: catalogue.MethodCard, structure: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The recipe's `only` and `protect`; nothing where the controls are not shown."""
    if not parts(card, structure):
        return (), ()
    first, second = (dict.fromkeys(name.strip() for name in chosen or () if name.strip()) for chosen in (only, protect))
    return tuple(first), (*second, *([SUPER_WEIGHTS] if spare and spares(card, structure) else []))


def fits(name: str, pattern: str) -> bool:
    """As the engine reads it: a name, a pattern with * ? [ ], or what the part lies in."""
    return fnmatchcase(name, pattern) or name.startswith(pattern + ".")


def touched(prune: Prune, layers: Sequence[Described]) -> list[Described]:
    """The layers that a step of single weights takes from. Raises RecipeError on a name that fits nothing, and where nothing is left."""
    patterns = [name for name in prune.protect if name != SUPER_WEIGHTS]
    for pattern in (*prune.only, *patterns):
        if not any(_fits(layer, pattern) for layer in layers):
            shown = ", ".join(str(layer["name"]) for layer in layers[:3])
            raise RecipeError(f"No layer of this model fits {pattern!r}.", f"Layers are called {shown}, ...")
    left = [layer for layer in layers if not prune.only or any(_fits(layer, one) for one in prune.only)]
    left = [layer for layer in left if not any(_fits(layer, one) for one in patterns)]
    if not left:
        raise RecipeError(
            "No layer is left to prune: all are protected.", "Name fewer under Never from, or more under Only from."
        )
    return left


def _fits(layer: Described, pattern: str) -> bool:
    return any(fits(str(layer[key]), pattern) for key in ("name", "path") if layer.get(key))


def check(recipe: Recipe, described: Described) -> None:
    """What the model's description alone can say against a plan. Raises RecipeError. Groups of units have names of their own: the run looks at those."""
    layers = described.get("layers") or ()
    for prune in (step.prune for step in recipe.steps if step.prune):
        pattern = n_of_m(prune.structure)
        masked = prune.structure == "unstructured" or pattern or tile_size(prune.structure)
        if not layers or not masked or catalogue.pruner(catalogue.load(), prune.method).inside:
            continue
        for layer in touched(prune, layers):
            inputs = int(layer["parameters"]) // max(int(layer["shape"][0]), 1)
            if pattern and inputs % pattern[1]:
                raise RecipeError(
                    f"{prune.structure} needs a multiple of {pattern[1]} inputs; {layer['name']} has {inputs}.",
                    "Choose another N and M, or name that layer under Never from.",
                )


def offered(described: Described | None, card: catalogue.MethodCard, structure: str) -> tuple[Any, ...]:
    """The fold and its three controls as they fit this model, method and structure; what was chosen stays."""
    choices = names(described or {})
    chosen = gr.Dropdown(choices=choices)
    return gr.Accordion(visible=parts(card, structure)), chosen, chosen, gr.Checkbox(visible=spares(card, structure))
