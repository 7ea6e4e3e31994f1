"""What a selector would keep of the open rows: answered where it takes seconds, with how long it would take where it is a run. See core/serve_data.py."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from core.catalogue import resolve
from core.data.clusters import Clusters
from core.data.evidence import Beside
from core.data.methods import cards
from core.data.selection import decide as decided
from core.data.selection import kept_count, score_rows, seconds_to_score
from core.recipe import Recipe, parse
from core.serve_data import LONGEST_WAIT_S, OpenData, grouped, opened_of, seconds_to_embed

_MOST_HELD = 8
# Multiplications a second of one slow core, and the work of each selector that is dear, in multiplications of rows, features, rows kept.
_WORK_A_SECOND = 4e9
_WORK: dict[str, Callable[[float, float, float], float]] = {
    "facility_location": lambda rows, features, count: rows * rows * (features + 60),
    "vote_k": lambda rows, features, count: rows * rows * (features + 60) + 2.0 * rows * count,
    "k_center": lambda rows, features, count: 0.3 * rows * count * features,
    "herding": lambda rows, features, count: 4.0 * rows * count * features,
    "typiclust": lambda rows, features, count: 60.0 * rows * min(count, 500) * features,
}


def decide(session: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    """Which rows a recipe's `select` keeps: {"ready": True, "count", "mask": a bit a row in the map's order, packed, base64, "ms"}; or {"ready": False,
    "seconds": estimate} where it has to be a run. The rows are those that the run keeps."""
    start = time.perf_counter()
    opened, whole = opened_of(session), resolve(parse(recipe), cards())
    vectors, clusters, wait_s = ready(session, opened, whole)
    if wait_s > LONGEST_WAIT_S or vectors is None:
        return {"ready": False, "seconds": wait_s}
    kept = chosen(session, opened, whole, vectors, clusters)
    return {
        "ready": True,
        "count": int(kept.sum()),
        "mask": base64.b64encode(np.packbits(kept).tobytes()).decode(),
        "ms": 1000 * (time.perf_counter() - start),
    }


def ready(session: Any, opened: OpenData, whole: Recipe) -> tuple[np.ndarray | None, Any, float]:
    """(vectors, clusters, seconds that scoring and selecting would still take); no vectors where the embedding itself has to be a run."""
    wait_s = seconds_to_embed(opened.dataset, whole, session.loaded)
    if wait_s > LONGEST_WAIT_S:
        return None, None, wait_s
    vectors, clusters = grouped(opened, whole, session.loaded)
    held = _held(session, opened)
    if whole.select is None or _key(opened, whole, True) in held:
        return vectors, clusters, 0.0
    if _key(opened, whole, False) not in held:
        wait_s += seconds_to_score(opened.dataset, vectors, whole.select, whole.seed, session.loaded)
    return vectors, clusters, wait_s + seconds_to_select(whole, *vectors.shape)


def seconds_to_select(whole: Recipe, rows: int, features: int) -> float:
    """About how long the selector takes; 0 for those that only sort."""
    assert whole.select is not None
    work = _WORK.get(whole.select.selector or "top")
    count = kept_count(rows, whole.select.keep) if whole.select.keep is not None else rows
    return work(rows, features, count) / _WORK_A_SECOND if work else 0.0


def scores_of(session: Any, opened: OpenData, whole: Recipe, vectors: np.ndarray, clusters: Clusters) -> np.ndarray:
    """The recipe's scores of the open rows, held while the data is open."""
    assert whole.select is not None
    select, beside = whole.select, Beside(whole.data, whole.embedding, session.loaded)
    return _once(
        session,
        opened,
        _key(opened, whole, False),
        lambda: score_rows(opened.dataset, vectors, clusters, select, whole.seed, beside),
    )


def chosen(session: Any, opened: OpenData, whole: Recipe, vectors: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Which rows stay, bool (rows,)."""
    assert whole.select is not None
    select, beside = whole.select, Beside(whole.data, whole.embedding, session.loaded)
    scores = scores_of(session, opened, whole, vectors, clusters)
    return _once(
        session,
        opened,
        _key(opened, whole, True),
        lambda: decided(opened.dataset, vectors, clusters, select, whole.seed, scores=scores, beside=beside).kept,
    )


def _held(session: Any, opened: OpenData) -> dict[str, np.ndarray]:
    """What has been worked out for the rows that are open; nothing of rows that were open before."""
    whose, held = session.parts.get("choices", (None, {}))
    if whose is not opened:
        held = {}
        session.parts["choices"] = (opened, held)
    return held


def _once(session: Any, opened: OpenData, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    held = _held(session, opened)
    if key not in held:
        held[key] = make()
        while len(held) > _MOST_HELD:
            held.pop(next(iter(held)))
    return held[key]


def _key(opened: OpenData, whole: Recipe, selected: bool) -> str:
    """What scores, or (`selected`) the choice, depend on."""
    select = whole.select
    assert select is not None
    score = next((card for card in cards() if card.kind == "data_score" and card.name == select.score), None)
    params = {name: select.params[name] for name in sorted(select.params) if selected or (score and name in _names(score))}
    more = (select.selector, select.keep) if selected else ()
    return repr((opened.last, whole.model, whole.seed, select.score, params, *more))


def _names(card: Any) -> set[str]:
    return {param.name for param in card.params}


ASKS: dict[str, Callable[..., Any]] = {"decide": decide}
