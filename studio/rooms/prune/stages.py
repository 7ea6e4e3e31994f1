"""The stages of a run from its events: what is done and how long it took, what is under way and how long it will take, what is to come. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import catalogue
from core.recipe import Recipe

Event = dict[str, Any]
_KINDS = {"recover": "recovery", "reconstruct": "reconstruction"}


def expected(recipe: Recipe) -> list[tuple[str, str]]:
    """(words, how its events' stages begin), in order."""
    out = [("Load the model", "load"), ("Measure the dense model", "dense: ")]
    steps = [next(name for name, part in step if part is not None) for step in recipe.steps]
    for place, (kind, step) in enumerate(zip(steps, recipe.steps, strict=True)):
        method = getattr(step, kind).method
        out.append((f"{kind.capitalize()}: {_label(kind, method)}", kind))
        if place + 1 == len(steps) or (kind == "recover") != (steps[place + 1] == "recover"):
            out.append(("Measure what is left", "recovered: " if kind == "recover" else "pruned: "))
    return [*out, *([("Save the model", "save")] if recipe.save.model else [])]


def _label(kind: str, method: str) -> str:
    """As the menus call it."""
    kinds = catalogue.PRUNERS if kind == "prune" else (_KINDS[kind],)
    return next((card.label for card in catalogue.load() if card.name == method and card.kind in kinds), method)


def told(recipe: Recipe, events: Sequence[Event], ended: bool) -> list[tuple[str, str]]:
    """(stage, what there is to say of it). A stage is over once a later one has begun."""
    progress = [event for event in events if event.get("kind") == "progress"]
    wanted, began = expected(recipe), []
    at, before = 0, ""
    for _, start in wanted:
        again = began and began[-1] is not None and start == before  # two steps of one kind: the second begins anew at nothing
        found = next(
            (
                i
                for i in range(at + bool(again), len(progress))
                if str(progress[i]["stage"]).startswith(start) and (not again or not progress[i]["done"])
            ),
            None,
        )
        before = start
        began.append(found)
        at = found if found is not None else at
    finish = events[-1]["time_s"] if events else 0.0
    out = []
    for number, (words, _) in enumerate(wanted):
        first = began[number]
        following = next((i for i in began[number + 1 :] if i is not None), None)
        if first is None:
            out.append(
                (
                    words,
                    ("taken over" if recipe.resume else "passed by")
                    if following is not None
                    else "not reached"
                    if ended
                    else "to come",
                )
            )
        elif following is not None or ended:
            end = progress[following]["time_s"] if following is not None else finish
            out.append((words, f"{end - progress[first]['time_s']:.1f} s"))
        else:
            out.append((words, _under_way(progress[first:])))
    return out


def _under_way(progress: Sequence[Event]) -> str:
    """3 of 6, 4 s left: at the pace of the stage that is running now."""
    now = progress[-1]
    first = next(event for event in progress if event["stage"] == now["stage"])
    items, seconds = now["done"] - first["done"], now["time_s"] - first["time_s"]
    words = f"{now['done']} of {now['total']}" if now["total"] else "under way"
    if items > 0 and now["done"] < now["total"]:
        words += f", {max((now['total'] - now['done']) * seconds / items, 1):.0f} s left"
    return words
