"""Which rows a selector keeps, as the page shows them: asked of the worker where that takes moments, else read from the run that has made the selection."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from core import catalogue, folder
from core.catalogue import MethodCard
from core.data.shares import read_shares
from core.errors import PrunariumError
from core.recipe import to_dict
from studio.bench import Bench
from studio.parts import facts
from studio.rooms.data import dataview
from studio.rooms.data.dataplan import Choice, found_selection, to_recipe
from studio.rooms.data.dataview import View

BY_HAND = "cluster_quotas"
USUAL = "selector:top"
_PREFIX = "selector:"


def selectors() -> list[tuple[str, str]]:
    """(label, key) of each selector; that of the bands first, then the quotas by hand."""
    found = [(card.label, _PREFIX + card.name) for card in catalogue.of_kind("selector") if not card.problem]
    return sorted(found, key=lambda one: (one[1] != USUAL, one[1] != _PREFIX + BY_HAND, one[0]))


def card_of(key: str) -> MethodCard | None:
    """The card of a selector; the quotas by hand have bars in the place of their line of text."""
    card = next((card for card in catalogue.of_kind("selector") if _PREFIX + card.name == key), None)
    if card is None or card.name != BY_HAND:
        return card
    return replace(card, params=tuple(param for param in card.params if param.name != "quotas"))


def with_selector(view: View, key: str, moved: Mapping[str, Mapping[str, Any]], quotas: Mapping[str, Any] | None) -> View:
    """The same rows and map with another selector. moved: {key: {parameter: value}}; quotas: {"of": whose clusters, "shares": {cluster: share}}."""
    name, card = key.removeprefix(_PREFIX), card_of(key)
    params = dict(moved.get(key, {}))
    if name == BY_HAND and quotas and quotas["of"] == clusters_of(view) and quotas["shares"]:
        params["quotas"] = ", ".join(f"{number}: {share:g}" for number, share in quotas["shares"].items())
    chosen = "" if key == USUAL and not params else name
    known = {param.name for one in catalogue.of_kind("selector") for param in one.params}
    scores = _score_params(view.choice.way)
    kept = [(at, value) for at, value in view.choice.params if at in scores or at not in known]
    if card is None:
        return view
    choice = replace(view.choice, selector=chosen, params=tuple(sorted([*kept, *params.items()])))
    return view if choice == view.choice else View(choice, view.facts, view.drawn)


def carried(choice: Choice, before: Choice) -> Choice:
    """This choice of the rows with the selector that chose among them before, and its parameters; quotas only where the clusters are the same."""
    mine = {param.name for card in catalogue.of_kind("selector") if card.name == before.selector for param in card.params}
    lost = {*_score_params(choice.way), *_score_params(before.way), *dict(choice.params)}
    if _clusters_of(choice) != _clusters_of(before):
        lost.add("quotas")
    kept = [(name, value) for name, value in before.params if name in mine - lost]
    return replace(choice, selector=before.selector, params=tuple(sorted([*choice.params, *kept])))


def clusters_of(view: View) -> str:
    """What the numbers of the clusters depend on."""
    return _clusters_of(view.choice)


def _clusters_of(choice: Choice) -> str:
    return repr(
        (choice.source, choice.text, choice.label, choice.skip, choice.embedding, choice.model, choice.clusters, choice.merged)
    )


def _score_params(way: str) -> set[str]:
    name = way.split(" ")[0]
    return {param.name for card in catalogue.of_kind("data_score") if card.name == name for param in card.params}


def decide(bench: Bench, view: View, keep: float) -> None:
    """Write into view.held which rows stay at this share: "stays" (bool a row, or None where rank tells it or nobody knows yet), "problem", "wait_s"."""
    if not view.choice.selector or (view.held.get("keep") == keep and view.held.get("stays") is not None):
        return
    view.held.update(keep=keep, **_decided(bench, view, keep))  # all of it at once: who reads meanwhile sees the share before


def _decided(bench: Bench, view: View, keep: float) -> dict[str, Any]:
    said: dict[str, Any] = {"stays": None, "problem": "", "wait_s": None, "ms": None}
    try:
        dataview.hold(bench, view.choice)
        found = bench.worker.ask("decide", timeout_s=60.0, recipe=to_dict(to_recipe(view.choice, keep / 100)))
    except PrunariumError as error:
        return {**said, "problem": _beyond_bars(view, keep) or str(error)}
    if found["ready"]:
        bits = np.frombuffer(base64.b64decode(found["mask"]), np.uint8)
        return {**said, "stays": np.unpackbits(bits, count=view.facts["rows"]).astype(bool), "ms": found["ms"]}
    run = found_selection(bench.runs, view.choice, keep / 100)
    if run is None:
        return {**said, "wait_s": found["seconds"]}
    made = pd.read_parquet(run / folder.SELECTION, columns=["row", "kept"])
    if len(made) != view.facts["rows"]:
        return {**said, "wait_s": found["seconds"]}  # of other rows than are open now
    return {**said, "stays": made["kept"].to_numpy()}


def _beyond_bars(view: View, keep: float) -> str:
    """Where the bars and the slider cannot both be followed, that in the page's words; else nothing. Counts as core/select/cluster_quotas.py does."""
    told = dict(view.choice.params).get("quotas", "") if view.choice.selector == BY_HAND else ""
    sizes = dict(enumerate(view.drawn["sizes"]))
    shares = {int(name): share for name, share in read_shares(told, "quotas", "").items() if name.isdigit()}
    fixed = sum(int(np.floor(sizes.get(at, 0) * share + 0.5)) for at, share in shares.items())
    rows, free = sum(sizes.values()), sum(size for at, size in sizes.items() if at not in shares)
    count = min(max(1, int(np.floor(rows * round(keep / 100, 4) + 0.5))), rows)
    if not shares or fixed <= count <= fixed + free:
        return ""
    if count < fixed:
        return "The bars keep more than the slider allows: lower a bar or raise the slider."
    return "The bars keep less than the slider asks for: raise a bar, let one go with the others, or lower the slider."


def undecided(view: View) -> bool:
    """Has the selector given no answer at this share, so that the order alone is shown?"""
    return bool(view.choice.selector) and view.held.get("stays") is None


def note(view: View | None) -> dict[str, Any] | None:
    """What should be known of the selector: why its rows are not shown, or nothing."""
    if view is None or not view.ready or not view.choice.selector:
        return None
    label = next((label for label, key in selectors() if key == _PREFIX + view.choice.selector), view.choice.selector)
    if view.held.get("problem"):
        return facts.said(
            f"{label} cannot choose here", f"{view.held['problem']} What is shown is the order of the scores alone."
        )
    if view.held.get("wait_s") is not None:
        words = f"It takes about {view.held['wait_s']:.0f} s: press Make selection, a run with progress and Stop. Until then the order of the scores is shown."
        return facts.said(f"{label} has not chosen yet", words, "not measured")
    return None
