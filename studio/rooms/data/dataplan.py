"""From the controls of the Data room to a recipe, and the finished runs that such a recipe has had. Pure but for reading run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from core import catalogue, folder
from core.catalogue import MethodCard
from core.errors import PrunariumError
from core.recipe import Recipe, parse
from studio import jobs, known

DIGITS = "builtin:digits"
_LOOKED_AT = 60  # the newest runs among which a finished map or proof is sought


@dataclass(frozen=True)
class Choice:
    """What the controls say. `way`: a key of `ways()`; `clusters` None = as many as suit; `model`: for the embedding model@BLOCK, and for
    scores that read with a model. `params`: (name, value) of the controls of score and selector that were moved, where the way says nothing of them.
    `selector` empty: the score's own. `merged`: the clusters are those of the tree, cut at `clusters`."""

    source: str = DIGITS
    text: str | None = None
    label: str | None = None
    skip: bool = False
    embedding: str = "pixels"
    way: str = "prototypes prefer=hard"
    clusters: int | None = None
    model: str | None = None
    params: tuple[tuple[str, Any], ...] = ()
    selector: str = ""
    merged: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Choice:
        """What `to_dict` gave, after a way through the page. Raises PrunariumError where it is something else."""
        try:
            return cls(**{**told, "params": tuple((str(name), value) for name, value in told["params"])})
        except (TypeError, ValueError, KeyError):
            raise PrunariumError("The page asks about rows that it does not name rightly.", "Reload the page.") from None


def ways() -> list[tuple[str, str]]:
    """(label, key) of each way to order rows: a data score, once for each value of its word-valued parameter."""
    out = []
    for card in catalogue.of_kind("data_score"):
        words = next((param for param in card.params if param.choices), None)
        if card.problem or "damaged" in card.needs:  # what rows lose by pruning is known only to a recipe that heals
            continue
        if words is None:
            out.append((card.label, card.name))
        else:
            out += [(f"{card.label} ({choice})", f"{card.name} {words.name}={choice}") for choice in words.choices]
    return sorted(out, key=lambda one: (one[1] == "random", not one[1].startswith("prototypes"), one[1] != Choice.way, one[1]))


def second_sources(way: str) -> set[str]:
    """The parameters of this way that name a second data set: what is typed there is looked at as a source is."""
    card = score_card(way)
    return {param.name for param in card.params if param.grammar == "data"} if card else set()


def score_card(way: str) -> MethodCard | None:
    """The card of a way to order rows, without the parameter that the way already says."""
    name, _, said = way.partition(" ")
    card = next((card for card in catalogue.of_kind("data_score") if card.name == name), None)
    return card and replace(card, params=tuple(param for param in card.params if param.name != said.split("=")[0]))


def needs_model(choice: Choice) -> bool:
    """Is the opened model read for this choice: by its embedding, or by its score?"""
    card = score_card(choice.way)
    return choice.embedding.startswith("model@") or bool(card and "loaded" in card.needs)


def way_label(way: str) -> str:
    return next((label for label, key in ways() if key == way), way)


def to_recipe(choice: Choice, share: float = 0.3, projection: str = "pca", prove: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a map, a selection, or (with `prove`, that section) its proof. Raises RecipeError, as core.recipe.parse and core.catalogue.resolve."""
    method, _, param = choice.way.partition(" ")
    how = {"score": method, "selector": choice.selector} if choice.selector else {"method": method}
    select: dict[str, Any] = {**how, "keep": round(share, 4)}
    params = dict(choice.params) | (dict([param.split("=", 1)]) if param else {})
    if params:
        select["params"] = params
    data = {"source": choice.source, "text": choice.text, "label": choice.label, "skip_bad_rows": choice.skip}
    whole: dict[str, Any] = {
        "recipe": 1,
        "name": _name(choice, share, bool(prove)),
        "data": {key: value for key, value in data.items() if value},
        "embedding": {"source": choice.embedding},
        "projection": {"method": projection},
        "select": select,
    }
    if choice.clusters:
        whole["clusters"] = {**({"method": "agglomerative"} if choice.merged else {}), "count": choice.clusters}
    if needs_model(choice) and choice.model:
        whole["model"] = {"source": choice.model}
    if prove:
        whole["prove"] = dict(prove)
    return parse(whole)


def _name(choice: Choice, share: float, prove: bool) -> str:
    base = choice.source.removeprefix("builtin:").rstrip("/").split("@")[0]
    base = base if choice.source.startswith("builtin:") else Path(base).stem
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in base)[:40].strip("._-") or "data"
    return f"{kept}-{choice.way.split()[0]}-{100 * share:.0f}{'-proof' if prove else ''}"


def found_map(runs: Path, choice: Choice) -> Path | None:
    """points.parquet of the newest finished UMAP run on the same rows and embedding."""
    wanted = _key(to_recipe(choice), "map")
    for path, recipe in _finished(runs):
        if (
            recipe.projection
            and recipe.projection.method == "umap"
            and _key(recipe, "map") == wanted
            and (path / folder.POINTS).exists()
        ):
            return path / folder.POINTS
    return None


@dataclass(frozen=True)
class Proof:
    """A finished proof: its lines, what they say (core.proof.told; empty in old reports), and how they were taken."""

    lines: list[dict[str, Any]]
    told: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""
    learner: str = "linear"


def found_proof(runs: Path, choice: Choice) -> Proof | None:
    """The newest finished proof of the same way to choose."""
    wanted = _key(to_recipe(choice), "choice")
    for path, recipe in _finished(runs):
        if recipe.prove and recipe.select and _key(recipe, "choice") == wanted:
            report = jobs.report(path) or {}
            if report.get("prove"):
                data = report.get("data") or {}
                return Proof(list(report["prove"]), data.get("proof") or {}, data.get("protocol") or "", recipe.prove.learner)
    return None


def found_crossing(runs: Path, choice: Choice) -> dict[str, Any] | None:
    """What the newest finished job on rows and weights together found, of the same way to choose."""
    wanted = _key(to_recipe(choice), "choice")
    for path, recipe in _finished(runs):
        if recipe.cross and recipe.select and _key(recipe, "choice") == wanted:
            found = (jobs.report(path) or {}).get("cross")
            if found:
                return dict(found)
    return None


def found_selection(runs: Path, choice: Choice, share: float) -> Path | None:
    """The folder of the newest finished run that kept exactly this share of the same rows in the same way."""
    wanted = _key(to_recipe(choice, share), "selection")
    for path, recipe in _finished(runs):
        made = path / folder.SELECTION
        if recipe.select and _key(recipe, "selection") == wanted and made.exists() and unchanged(choice.source, made):
            return path
    return None


def unchanged(source: str, made: Path) -> bool:
    """Is a file of rows still what it was when `made` was written? Built-ins and hub data sets do not change."""
    file = Path(source)
    return not file.exists() or file.stat().st_mtime <= made.stat().st_mtime


def _finished(runs: Path) -> list[tuple[Path, Recipe]]:
    """Finished data runs, newest first."""
    out = []
    for path in folder.runs(runs)[:_LOOKED_AT]:
        report, asked = path / folder.REPORT, path / folder.RECIPE
        if report.exists() and asked.exists():
            recipe = known.asked_of(asked)
            if recipe is not None and recipe.data is not None:
                out.append((path, recipe))
    return out


def _key(recipe: Recipe, depth: str) -> tuple[Any, ...]:
    """What two recipes must share for one's map, way to choose, or selection to be the other's."""
    whole = catalogue.resolve(recipe)
    key: tuple[Any, ...] = (whole.data, whole.embedding.source, sorted(whole.embedding.params.items()), whole.seed)
    if whole.embedding.source.startswith("model@"):
        key += (whole.model,)
    if depth == "map" or whole.select is None:
        return key
    key += (whole.clusters, whole.select.score, whole.select.selector, sorted(whole.select.params.items()))
    return key if depth == "choice" else (*key, whole.select.keep)
