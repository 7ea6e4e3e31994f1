"""Texts that read like a target's."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.data.target import Target
from core.errors import DataError
from core.method import Paper, Param, data_score

BUCKETS = 10_000


@data_score(
    "dsir",
    label="Wording of a target (DSIR)",
    paper=Paper("Xie, Santurkar, Ma, Liang", 2023, "Data Selection for Language Models via Importance Resampling", "2302.03169"),
    needs={"texts"},
    place="target",
)
def dsir(
    texts: list[str],
    target_rows: Target,
    generator: np.random.Generator,
    *,
    target: Annotated[str, Param("Target data", longest=500, grammar="data")] = "",
    noise: Annotated[float, Param("Chance (Gumbel)", 0.0, 1.0)] = 0.0,
) -> np.ndarray:
    """Keep texts whose words and word pairs are commoner in a target set than in this one.

    texts (rows); the target's texts. Words (and single signs) and pairs of them are hashed into 10,000 buckets. p of a set: share of its
    words and pairs in each bucket, one added to each count. Returns float32 (rows,): mean over a text's words and pairs of log p_target -
    log p_raw, in nats; + `noise` x Gumbel.

    Intuition: the importance of a text is how much likelier the target would have written it. With Gumbel noise the highest are a sample
    by importance instead of the extreme.

    When it lies: knows no meaning, only words: a target's names and spelling draw texts of another matter. Very short texts have extreme
    means.

    Ours: mean in the place of the sum, so that long texts are not extreme by length; noise is off by default, because on means it would
    outweigh the scores; one is added to each count.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    count = HashingVectorizer(
        n_features=BUCKETS, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", alternate_sign=False, norm=None, dtype=np.float64
    )
    raw, aimed = count.transform(texts), count.transform(target_rows.texts("DSIR"))
    of_raw, of_target = (np.asarray(one.sum(axis=0)).ravel() for one in (raw, aimed))
    if not ((of_raw > 0) & (of_target > 0)).any():
        raise DataError(
            f"No word of the target {target_rows.dataset.name} occurs in the data, so nothing leads to it.",
            "Name another target.",
        )
    share_raw, share_target = ((one + 1) / (one.sum() + BUCKETS) for one in (of_raw, of_target))
    length = np.maximum(np.asarray(raw.sum(axis=1)).ravel(), 1)
    score = raw @ (np.log(share_target) - np.log(share_raw)) / length
    return (score + (noise * generator.gumbel(size=len(score)) if noise else 0)).astype(np.float32)
