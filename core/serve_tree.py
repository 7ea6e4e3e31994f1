"""The treemap of the open rows: which clusters are visible below a node, what they hold, and two of them side by side. See core/serve_data.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.catalogue import resolve
from core.data.clusters import Clusters, distinctive_words, unit
from core.data.clusters.merging import whole_tree
from core.data.dataset import Dataset
from core.data.draws import generator
from core.data.methods import cards
from core.data.mistakes import mistaken
from core.data.treemap import Hierarchy, cells, hierarchy
from core.errors import DataError
from core.events import Silent
from core.recipe import Recipe, parse
from core.serve_choice import chosen, ready, scores_of
from core.serve_data import LONGEST_WAIT_S, OpenData, opened_of, picture

COLOURS = ("label", "error", "score", "kept")
MOST_CELLS = 60
_THUMB, _STEP, _HEADER, _MOST_PICTURES = 28, 31, 24, 600  # pixels on the page
_MOST_READ = 20_000  # texts that words are taken from
_TEXT_SHOWN = 140
_CLASSES_SHOWN = 3


@dataclass
class Grown:
    """The tree of the rows that are open, and what has been worked out of each row: error, by name of the colour."""

    opened: OpenData
    key: str
    tree: Hierarchy
    points: np.ndarray
    values: dict[str, np.ndarray] = field(default_factory=dict)


def treemap(
    session: Any,
    recipe: dict[str, Any],
    node: int | None = None,
    count: int = 12,
    width: float = 900,
    height: float = 520,
    colour: str = "label",
) -> dict[str, Any]:
    """The branch of `node` (left out: all rows) as `count` clusters in a picture of width x height pixels.

    {"ready": True, "node", "rows", "most": clusters it can be cut into, "path": [{node, rows}] from the root, "span": [least, most] of the colour's values
    over all rows, "direct": is every row a leaf, "cells": largest group first, each what `_told` says}, or {"ready": False, "seconds"}.
    """
    opened, whole = opened_of(session), resolve(parse(recipe), cards())
    vectors, clusters, wait_s = ready(session, opened, whole)
    if vectors is None or (wait_s > LONGEST_WAIT_S and colour in ("score", "kept")):
        return {"ready": False, "seconds": wait_s}
    grown = _grown(session, opened, whole, vectors)
    tree, values = grown.tree, _values(session, grown, whole, vectors, clusters, colour)
    node = tree.root if node is None else _known(tree, node)
    laid = cells(tree, node, min(max(count, 1), MOST_CELLS), max(width, 1) / max(height, 1))
    rows = [tree.rows(one.node) for one in laid]
    words = _words(opened.dataset, rows, whole.seed)
    fits = _fitting([(one.box[2] * width, one.box[3] * height) for one in laid], [len(mine) for mine in rows])
    told = [
        _told(grown, one.node, mine, values, fit) | {"group": one.group, "box": list(one.box), "words": list(said)}
        for one, mine, fit, said in zip(laid, rows, fits, words, strict=True)
    ]
    return {
        "ready": True,
        "node": node,
        "rows": tree.size(node),
        "most": min(MOST_CELLS, _leaves(tree, node)),
        "path": _path(tree, node),
        "span": _span(values, colour),
        "direct": tree.leaves == len(vectors),
        "cells": told,
    }


def compare_clusters(session: Any, recipe: dict[str, Any], nodes: list[int], colour: str = "label") -> dict[str, Any]:
    """Two clusters side by side: of each what `_told` says with 24 rows, all its classes, and words that tell it from the other."""
    opened, whole = opened_of(session), resolve(parse(recipe), cards())
    vectors, clusters, wait_s = ready(session, opened, whole)
    if vectors is None or (wait_s > LONGEST_WAIT_S and colour in ("score", "kept")):
        return {"ready": False, "seconds": wait_s}
    grown = _grown(session, opened, whole, vectors)
    if len(nodes) != 2:
        raise DataError("Two clusters are compared.", "Choose two.")
    one, other = (_known(grown.tree, node) for node in nodes)
    rows = [grown.tree.rows(one), grown.tree.rows(other)]
    if len(np.intersect1d(*rows)):
        raise DataError("One of the two clusters holds the other.", "Choose two that lie side by side.")
    values = _values(session, grown, whole, vectors, clusters, colour)
    words = _words(opened.dataset, rows, whole.seed, 8)
    centres = [unit(grown.points[mine].mean(axis=0, keepdims=True))[0] for mine in rows]
    return {
        "ready": True,
        "cosine": float(centres[0] @ centres[1]),
        "sides": [
            _told(grown, node, mine, values, 24, texts=6, classes=len(opened.dataset.label_names)) | {"words": list(said)}
            for node, mine, said in zip((one, other), rows, words, strict=True)
        ],
    }


def _grown(session: Any, opened: OpenData, whole: Recipe, vectors: np.ndarray) -> Grown:
    """The tree of these vectors, grown once."""
    key = opened.last.split(" ")[0] + f" {whole.seed}"
    held = session.parts.get("tree")
    if held is None or held.opened is not opened or held.key != key:
        held = Grown(opened, key, hierarchy(whole_tree(vectors, whole.seed, Silent())), unit(vectors))
        session.parts["tree"] = held
    return held


def _known(tree: Hierarchy, node: int) -> int:
    if not 0 <= node <= tree.root:
        raise DataError(f"There is no cluster {node}.", "Go back to all rows.")
    return int(node)


def _values(session: Any, grown: Grown, whole: Recipe, vectors: np.ndarray, clusters: Clusters, colour: str) -> np.ndarray | None:
    """What the colour shows the mean of, a number a row; None for the classes."""
    if colour == "score":
        return scores_of(session, grown.opened, whole, vectors, clusters)
    if colour == "kept":
        return chosen(session, grown.opened, whole, vectors, clusters)
    if colour == "error" and "error" not in grown.values:
        labels = grown.opened.dataset.labels
        if labels is None:
            raise DataError("These rows have no labels, so no answer about them is wrong.", "Colour by score.")
        grown.values["error"] = mistaken(vectors, labels, whole.seed)
    return grown.values.get(colour)


def _span(values: np.ndarray | None, colour: str) -> list[float] | None:
    """Least and most that the colours stand for: the middle 96 % of scores; all of a share."""
    if values is None or not np.isfinite(values).any():
        return None
    if colour == "score":
        return [float(at) for at in np.nanpercentile(values.astype(np.float64), [2, 98])]
    return [0.0, 1.0]


def _told(
    grown: Grown, node: int, rows: np.ndarray, values: np.ndarray | None, fit: int, texts: int = 1, classes: int = _CLASSES_SHOWN
) -> dict[str, Any]:
    """A cluster in words and pictures: node, sibling, rows, whether it splits, classes ([number, rows], most rows first), mean of the colour's value,
    texts of its most typical rows, or pictures ({row, picture}): its medoid, then rows spread over the distance from its centre."""
    dataset = grown.opened.dataset
    near = grown.points[rows] @ grown.points[rows].mean(axis=0)
    order = rows[np.lexsort((rows, -near))]
    counts = np.bincount(dataset.labels[rows]) if dataset.labels is not None else np.empty(0, int)
    most = [int(at) for at in np.lexsort((np.arange(len(counts)), -counts)) if counts[at]][:classes]
    some = order[np.unique(np.linspace(0, len(order) - 1, max(min(fit, len(order)), 1)).round().astype(int))]
    pictures = (
        [{"row": int(dataset.row[at]), "picture": picture(dataset.images[at], _THUMB)} for at in some[:fit]]
        if dataset.images is not None
        else []
    )
    return {
        "node": node,
        "sibling": grown.tree.sibling(node),
        "rows": len(rows),
        "splits": grown.tree.children(node) is not None,
        "classes": [[at, int(counts[at])] for at in most],
        "value": None if values is None else float(np.mean(values[rows], dtype=np.float64)),
        "texts": [] if pictures else [{"row": int(dataset.row[at]), "text": _text(dataset, at)} for at in order[:texts]],
        "pictures": pictures,
    }


def _text(dataset: Dataset, at: int) -> str:
    if dataset.texts is not None:
        return dataset.texts[at][:_TEXT_SHOWN]
    values = dataset.mapped.take(np.array([at]))
    return ", ".join(f"{name}: {str(values.column(name)[0])[:40]}" for name in dataset.columns)[:_TEXT_SHOWN]


def _words(dataset: Dataset, rows: list[np.ndarray], seed: int, count: int = 4) -> tuple[tuple[str, ...], ...]:
    """Words that tell each of these clusters from the others; of very many texts, from some drawn by chance."""
    if dataset.texts is None or dataset.images is not None:
        return tuple(() for _ in rows)
    places = np.concatenate(rows)
    group = np.repeat(np.arange(len(rows), dtype=np.int32), [len(mine) for mine in rows])
    if len(places) > _MOST_READ:
        some = np.sort(generator(seed, "words").permutation(len(places))[:_MOST_READ])
        places, group = places[some], group[some]
    sizes = np.bincount(group, minlength=len(rows))
    made = Clusters(group, np.zeros((len(rows), 1), np.float32), sizes)
    return distinctive_words([dataset.texts[at] for at in places], made, count)


def _fitting(boxes: list[tuple[float, float]], rows: list[int]) -> list[int]:
    """How many small pictures each box has room for under its heading; all together at most 600."""
    room = [max(int((w - 10) // _STEP), 0) * max(int((h - _HEADER - 8) // _STEP), 0) for w, h in boxes]
    fit = [min(one, many) for one, many in zip(room, rows, strict=True)]
    spare = min(1.0, _MOST_PICTURES / max(sum(fit), 1))
    return [int(one * spare) for one in fit]


def _leaves(tree: Hierarchy, node: int) -> int:
    """Leaves below a node, counted no further than the page shows."""
    found, waiting = 0, [node]
    while waiting and found + len(waiting) < MOST_CELLS:
        pair = tree.children(waiting.pop())
        if pair is None:
            found += 1
        else:
            waiting += pair
    return found + len(waiting)


def _path(tree: Hierarchy, node: int) -> list[dict[str, int]]:
    """The nodes from the root down to this one."""
    up = [node]
    while tree.parent[up[-1]] >= 0:
        up.append(int(tree.parent[up[-1]]))
    return [{"node": at, "rows": tree.size(at)} for at in reversed(up)]


ASKS: dict[str, Callable[..., Any]] = {"treemap": treemap, "compare_clusters": compare_clusters}
