"""Several scores, each with its own share of what is kept."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import numpy as np

from core.data.methods import get
from core.data.shares import LONGEST, read_shares
from core.errors import DataError, RecipeError
from core.method import Param, selector
from kernels.quotas import whole

_EXAMPLE = '"prototypes: 0.7, random: 0.3"'


@selector("several_scores", label="Several scores with quotas", needs={"vectors", "clusters"}, place="by score")
def several_scores(
    rows: int,
    count: int,
    vectors: np.ndarray,
    clusters: np.ndarray,
    centroids: np.ndarray,
    labels: np.ndarray | None,
    generator: np.random.Generator,
    *,
    quotas: Annotated[str, Param("Score and its share", longest=LONGEST)] = "prototypes: 0.7, random: 0.3",
) -> np.ndarray:
    """Keep the best rows of several scores, each up to its share: no single score decides all that stays.

    vectors (rows, features), clusters int (rows,), centroids (clusters, features), labels int (rows,) or None. Returns bool (rows,) with exactly
    `count` True.

    `quotas`: name of a score and its part of the rows to keep, such as "prototypes: 0.7, random: 0.3"; parts are relative, whole rows by largest
    remainder. In the order said, each score takes its best rows of those not taken yet, with its default parameters; ties keep the earlier row.

    When it lies: two scores that agree are one score, and the later then takes its second choice.
    """
    shares = read_shares(quotas, "quotas", _EXAMPLE)
    total = sum(shares.values())
    if not total > 0:
        raise RecipeError("quotas gives no score a share.", f"Write it as in {_EXAMPLE}.")
    have = {"rows": rows, "vectors": vectors, "clusters": clusters, "centroids": centroids, "labels": labels}
    parts = whole(np.array([share / total * count for share in shares.values()]), np.full(len(shares), count), count)
    scored = [_score(name, {**have, "generator": generator}) for name in shares]
    kept = np.zeros(rows, dtype=bool)
    for scores, part in zip(scored, parts, strict=True):
        order = np.lexsort((np.arange(rows), -scores))
        kept[order[~kept[order]][:part]] = True
    return kept


def _score(name: str, have: dict[str, Any]) -> np.ndarray:
    """A score of every row, float64 (rows,). Raises RecipeError for one that is not there or needs what is not at hand, DataError for a broken one."""
    method = get("data_score", name)
    asked = [p.name for p in inspect.signature(method.function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    missing = [one for one in asked if one not in have]
    if missing:
        raise RecipeError(
            f"several_scores cannot use {name}: it needs {', '.join(missing)}, which only a score chosen by itself is given.",
            f"Choose {name} as the score, or use scores of vectors and clusters here.",
        )
    scores = np.asarray(method(have), np.float64)
    if scores.shape != (have["rows"],) or np.isnan(scores).any():
        raise DataError(f"{name} gave no score for some rows.", "Choose another score, or look for broken rows in the data.")
    return scores
