"""The recipe: everything that decides a result, as data. Torch-free, so that the screen and the command line share it.

YAML is read as 1.2 (`2:4` is a string, `1e-4` a number). Unknown keys are refused by name, with the nearest known one as a remedy.
Method names and their parameters are checked against the catalogue (`core.catalogue.resolve`), not here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML

from core.errors import RecipeError
from core.recipe_heal import Heal
from core.recipe_link import ByLayer, Damage
from core.recipe_prove import Cross, Prove
from core.recipe_steps import (
    STRUCTURES,
    Allocation,
    Budget,
    Choose,
    Count,
    Model,
    Prune,
    Reconstruct,
    Recover,
    Section,
    Share,
    Step,
    Text,
    n_of_m,
    tile_size,
)
from core.recipe_words import said
from core.yaml_text import plain

__all__ = [
    "STRUCTURES", "VERSION", "Accuracy", "Allocation", "Budget", "ByLayer", "Choose", "Clusters", "Corruptions", "Cross", "Curves", "Damage", "Data",
    "Embedding", "Evolve", "Geometry", "Heal", "Latency", "Measure", "Model", "Observe", "Perplexity", "Projection", "Prove", "Prune", "Recipe", "Reconstruct",
    "Recover", "Save", "Section", "Select", "Step", "Text", "from_yaml", "n_of_m", "parse", "read", "tile_size", "to_dict", "to_yaml",
]  # fmt: skip
VERSION = 1


class Perplexity(Section):
    source: str = "builtin:wikitext2/test"
    samples: Count | None = 64
    tokens: Annotated[int, Field(ge=2)] = 512
    column: str | None = None


class Accuracy(Section):
    """Share of right answers of an image or text classifier on labelled rows."""

    source: str = "builtin:mnist5k/heldout"
    samples: Count | None = None


class Latency(Section):
    batch: Count = 1
    tokens: Count = 128
    repeats: Count = 10


class Corruptions(Section):
    """Accuracy on images that were made worse on purpose, each kind at each severity from 1 (hardly seen) to 5."""

    source: str = "builtin:mnist5k/heldout"
    samples: Count | None = 500
    kinds: Annotated[
        tuple[Literal["noise", "impulses", "blur", "contrast", "brightness", "occlusion"], ...], Field(min_length=1)
    ] = (
        "noise",
        "impulses",
        "blur",
        "contrast",
        "brightness",
        "occlusion",
    )
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 3, 5)


class Geometry(Section):
    """Where the features before the last layer lie: angle to their class's direction, norm, and margin to the nearest other class."""

    source: str = "builtin:mnist5k/heldout"
    samples: Count | None = 500


class Measure(Section):
    perplexity: Perplexity | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    generate: tuple[str, ...] = ()
    corruptions: Corruptions | None = None
    geometry: Geometry | None = None


class Curves(Section):
    """What predicts a budget's cost: every layer's local error, the quality that each block's attention and MLP alone leave at each of `levels`, and
    that of `together` budgets of the whole model. `structure`: neurons or heads for curves of whole ones, block by block."""

    method: str = "wanda"
    structure: str = "unstructured"
    levels: tuple[Share, ...] = (0.7,)
    together: Annotated[int, Field(ge=0, le=200)] = 6
    source: str = "builtin:wikitext2/valid"
    samples: Count = 12
    tokens: Annotated[int, Field(ge=2)] = 256


class Observe(Section):
    """What to learn about the model without changing it: importance of blocks and layers, block similarity, the loss without each block (`ablation`),
    cost curves."""

    scores: tuple[str, ...] = ("magnitude", "wanda", "block_influence")
    similarity: bool = True
    ablation: bool = False
    curves: Curves | None = None


class Evolve(Section):
    """A genetic search for a pruning formula, judged by the perplexity it leaves on windows of `source`, which may not be the text measured.

    `start`: formulas that are among the first generation. `resume`: the folder of an earlier search whose findings are used again.
    """

    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    structure: str = "unstructured"
    population: Annotated[int, Field(ge=4, le=200)] = 24
    generations: Annotated[int, Field(ge=1, le=200)] = 10
    start: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    source: str = "builtin:wikitext2/valid"
    samples: Count = 16
    tokens: Annotated[int, Field(ge=2)] = 128
    column: str | None = None
    resume: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Evolve:
        pattern = n_of_m(self.structure)
        if pattern is None and self.structure != "unstructured":
            raise ValueError(f"structure must be unstructured or N:M such as 2:4, not {self.structure!r}")
        implied = 1 - pattern[0] / pattern[1] if pattern else self.sparsity
        if abs(self.sparsity - implied) > 1e-9:
            raise ValueError(f"structure {self.structure} means a sparsity of {implied:g}, not {self.sparsity:g}")
        return self


class Save(Section):
    """`model`: into model/. `data`: the kept rows into data/, in these forms (ids: their numbers alone; datasets: a folder that `datasets` loads), with a
    manifest."""

    model: bool = False
    data: tuple[Literal["parquet", "csv", "jsonl", "ids", "datasets"], ...] = ()


class Data(Section):
    """builtin:NAME, a .csv, .tsv, .jsonl (or one of them .gz), .parquet or .arrow file, a folder of pictures or one saved by `datasets`, or a
    hub id. `text` and `label` default to columns of those names."""

    source: str
    text: str | None = None
    label: str | None = None
    skip_bad_rows: bool = False


class Embedding(Section):
    """pixels | tfidf | tabular | builtin:minilm | column:NAME | model@BLOCK (needs `model`)."""

    source: str = "pixels"
    params: dict[str, Any] = Field({})  # a plain {} would be flagged: ruff does not see that Section is pydantic's


class Clusters(Section):
    """`count` is for kmeans (spherical) and agglomerative; left out, the square root of half the rows, between 2 and 100. `linkage` is for
    agglomerative. `min_size` is for hdbscan, the rows that a cluster has at least; left out, half a per cent of the rows, at least 5."""

    method: Literal["kmeans", "hdbscan", "agglomerative"] = "kmeans"
    count: Annotated[int, Field(ge=2)] | None = None
    linkage: Literal["ward", "average"] = "ward"
    min_size: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Clusters:
        if self.method == "hdbscan" and self.count is not None:
            raise ValueError("hdbscan finds its own number of clusters, so it takes no count; say min_size, or use kmeans")
        if self.method != "hdbscan" and self.min_size is not None:
            raise ValueError(f"min_size is for hdbscan, and the method is {self.method}")
        if self.method != "agglomerative" and self.linkage != "ward":
            raise ValueError(f"linkage is for agglomerative, and the method is {self.method}")
        return self


class Projection(Section):
    """A map of the embedding in the plane. neighbours and min_dist are for umap, perplexity is for tsne. Beyond `most_rows` (left out: 30,000 for umap,
    10,000 for tsne) rows are drawn by strata, and the others lie where their nearest drawn ones lie."""

    method: Literal["pca", "umap", "tsne"] = "pca"
    neighbours: Annotated[int, Field(ge=2, le=200)] = 15
    min_dist: Share = 0.1
    perplexity: Annotated[float, Field(ge=2.0, le=100.0)] = 30.0
    most_rows: Annotated[int, Field(ge=10)] | None = None


class Select(Section):
    """`method: prototypes` is short for that score with its natural selector. `keep` is left out where the score decides by itself."""

    method: str | None = None
    score: str | None = None
    selector: str | None = None
    keep: Share | None = None
    params: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _named(self) -> Select:
        if (self.method is None) == (self.score is None and self.selector is None):
            raise ValueError("select needs either method, or score and selector")
        return self


class Recipe(Section):
    """`resume`: the folder of a stopped run of this very recipe; what it had finished is not done again."""

    recipe: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$")]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    model: Model | None = None
    calibration: Text = Text()
    steps: tuple[Step, ...] = ()
    resume: str | None = None
    observe: Observe | None = None
    evolve: Evolve | None = None
    measure: Measure = Measure()
    save: Save = Save()
    data: Data | None = None
    embedding: Embedding = Embedding()
    clusters: Clusters = Clusters()
    projection: Projection | None = None
    select: Select | None = None
    prove: Prove | None = None
    cross: Cross | None = None
    geometry: ByLayer | None = None
    damage: Damage | None = None
    heal: Heal | None = None

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        asks_model, asks_data = bool(self.steps or self.observe or self.evolve), bool(self.select or self.projection)
        if not (asks_model or asks_data or self.geometry or self.damage or self.heal or self.cross):
            raise ValueError(
                "a recipe needs model + steps (or observe, or evolve), or data + select (or projection), or all of it for geometry"
            )
        if self.geometry or self.damage or self.heal:
            self._linked()
        if asks_model and self.model is None:
            raise ValueError(
                "steps, observe and evolve need model: say which model to work on, such as model: {source: builtin:tiny-llama}"
            )
        if (asks_data or self.prove) and self.data is None:
            raise ValueError("select, projection and prove need data: say which rows, such as data: {source: builtin:digits}")
        if self.cross and (self.data is None or self.select is None):
            raise ValueError("cross needs data and select: say which rows are kept first, such as select: {method: random}")
        if self.cross and (self.prove or asks_model):
            raise ValueError("cross trains learners of its own: leave prove, steps, observe and evolve out")
        if self.save.data and self.select is None:
            raise ValueError(
                "save.data saves the rows that select keeps: say select, such as select: {method: random, keep: 0.3}"
            )
        if self.embedding.source.startswith("model@") and self.model is None:
            raise ValueError(f"embedding {self.embedding.source} needs model")
        if self.evolve and self.measure.perplexity and self.evolve.source == self.measure.perplexity.source:
            raise ValueError(
                f"evolve chooses formulas on {self.evolve.source}, so a perplexity on that text would prove nothing; "
                "measure on another, such as builtin:wikitext2/test"
            )
        return self

    def _linked(self) -> None:
        """Geometry, damage and healing are of data in a model: they need both."""
        what = "geometry" if self.geometry else "damage" if self.damage else "heal"
        if self.model is None:
            raise ValueError(f"{what} needs model: say which model reads the rows, such as model: {{source: builtin:tiny-llama}}")
        if self.data is None:
            raise ValueError(f"{what} needs data: say which rows, such as data: {{source: builtin:trec}}")
        if self.heal and self.select is None:
            raise ValueError("heal needs select: say how rows are chosen, such as select: {method: damage}")
        if self.heal and (len(self.steps) != 1 or self.steps[0].prune is None):
            raise ValueError("heal mends what one prune step did: say steps with one prune and nothing else")
        if self.heal and (self.prove or self.geometry or self.damage or self.save.model):
            raise ValueError("heal is a job of its own, which keeps no model: leave prove, geometry, damage and save.model out")
        if self.steps and self.damage:
            raise ValueError("damage prunes layers one by one and puts them back; leave steps out")
        if self.steps and self.geometry and self.geometry.against:
            raise ValueError("steps already give the model that geometry sets against the dense one; leave geometry.against out")


def parse(value: Any) -> Recipe:
    """A mapping as read from YAML -> Recipe. Raises RecipeError: one sentence that names the key."""
    if not isinstance(value, dict):
        raise RecipeError("A recipe is a mapping of keys to values.", "See assets/recipes for examples.")
    version = value.get("recipe")
    if version is None:
        raise RecipeError("The recipe does not say its version.", f"Add the line `recipe: {VERSION}`.")
    if version != VERSION:
        raise RecipeError(f"The recipe is of version {version!r}, this program reads version {VERSION}.", "Update Prunarium.")
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise said(error, Recipe) from None


def from_yaml(text: str) -> Recipe:
    """YAML 1.2 text -> Recipe. Raises RecipeError."""
    return parse(plain(text, "The recipe"))


def read(path: Path) -> Recipe:
    """A recipe file -> Recipe. Raises RecipeError."""
    try:
        return from_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe at {path}.", "Check the path; examples are in assets/recipes.") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError):
        raise RecipeError(f"{path} cannot be read as a text file.", "A recipe is a YAML file in UTF-8.") from None


def to_dict(recipe: Recipe, *, full: bool = False) -> dict[str, Any]:
    """Recipe -> plain mapping. `full` shows every default; else only what differs from the defaults."""
    return {"recipe": recipe.recipe, **_shown(recipe, full)}


def to_yaml(recipe: Recipe, *, full: bool = False) -> str:
    """Recipe -> YAML 1.2 text that reads back as the same recipe."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = None, 140
    yaml.sort_base_mapping_type_on_output = False
    out = io.StringIO()
    yaml.dump(to_dict(recipe, full=full), out)
    return out.getvalue()


def _shown(section: Section, full: bool) -> dict[str, Any]:
    """A section's fields; None only where that is not the default (perplexity's `samples: null` means all there are)."""
    out = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if value == field.default and (value is None or not full):
            continue
        if isinstance(value, Section):
            out[name] = _shown(value, full)
        elif isinstance(value, tuple):
            out[name] = [_shown(item, full) if isinstance(item, Section) else _plain(item) for item in value]
        else:
            out[name] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
