"""Texts that repeat another text's wording."""

from __future__ import annotations

import re
from typing import Annotated

import numpy as np

from core.events import Progress, Watcher
from core.method import Paper, Param, data_score

BANDS, IN_BAND = 14, 8
_WORD = re.compile(r"\w+")
_LEADERS_A_BUCKET = 100
_TEXTS_AT_ONCE = 20_000


@data_score(
    "min_hash",
    label="Repeated wording (MinHash)",
    paper=Paper(
        "Lee, Ippolito, Nystrom, Zhang, Eck, Callison-Burch, Carlini",
        2021,
        "Deduplicating Training Data Makes Language Models Better",
        "2107.06499",
    ),
    needs={"texts"},
    place="duplicates",
    decides=True,
)
def min_hash(
    texts: list[str],
    generator: np.random.Generator,
    watcher: Watcher,
    *,
    threshold: Annotated[float, Param("Duplicate above Jaccard", 0.5, 1.0)] = 0.72,
    words: Annotated[int, Param("Words in a row", 1, 20)] = 5,
) -> np.ndarray:
    """Keep one text of each group with nearly the same wording: a text goes where it shares most of its word sequences with one that stays.

    texts (rows). J of two texts: of all sequences of `words` words in either, the share that is in both. Returns float32 (rows,):
    threshold - J, where J is the highest with an earlier text that stays and was compared. Below 0 = duplicate. Where the recipe says no
    share to keep, exactly the duplicates go.

    Who is compared: 112 random minima of a text's sequences, in 14 bands of 8; two texts meet where a band is equal, at J = 0.72 with a
    chance of 0.65, at 0.8 of 0.92, at 0.9 of more than 0.999. J itself is then counted exactly, so what goes is a duplicate.

    When it lies: says nothing about meaning: a translation, or the same in other words, is no duplicate. Templates filled in with other
    names are. Texts near the threshold may never meet.

    Ours: words are runs of letters and digits in lower case; a text of fewer than `words` words is one sequence. A bucket compares with
    its first 100 texts. Texts that met nobody are equal, and chance orders them.
    """
    sequences = [np.unique(one) for one in _sequences(texts, words)]
    signature = _minima(sequences, generator)
    highest = np.zeros(len(texts))
    buckets: dict[bytes, list[int]] = {}
    for at, found in enumerate(sequences):
        if at % _TEXTS_AT_ONCE == 0:
            watcher.check()
            watcher.say(Progress("score", at, len(texts)))
        keys = [bytes([band]) + signature[at, band].tobytes() for band in range(BANDS)]
        met = {leader for key in keys for leader in buckets.get(key, ())}
        highest[at] = max((_jaccard(found, sequences[leader]) for leader in met), default=0.0)
        if highest[at] <= threshold:
            for key in keys:
                bucket = buckets.setdefault(key, [])
                if len(bucket) < _LEADERS_A_BUCKET:
                    bucket.append(at)
    watcher.say(Progress("score", len(texts), len(texts)))
    return (threshold - highest + np.where(highest <= threshold, generator.random(len(texts)) * 1e-3, 0)).astype(np.float32)


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def _sequences(texts: list[str], words: int) -> list[np.ndarray]:
    """Each text's sequences of words as 64-bit hashes of word numbers. A text without a word is itself one word."""
    number: dict[str, int] = {}
    powers = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(1, words + 1)], dtype=np.uint64)
    out = []
    for text in texts:
        lower = text.lower()
        ids = [number.setdefault(word, len(number) + 1) for word in _WORD.findall(lower) or [lower]]
        padded = np.array(ids + [0] * (words - len(ids)), dtype=np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(padded, words)
        mixed = (windows * powers).sum(axis=1, dtype=np.uint64)
        mixed ^= mixed >> np.uint64(31)
        out.append(mixed * np.uint64(0xBF58476D1CE4E5B9))
    return out


def _minima(sequences: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """uint32 (texts, bands, in a band): the least of a*h + b over a text's sequences, for 112 random odd a and b, of which the upper half counts."""
    count = BANDS * IN_BAND
    a = generator.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    b = generator.integers(0, 1 << 63, count, dtype=np.uint64)
    out = np.empty((len(sequences), count), dtype=np.uint32)
    for first in range(0, len(sequences), _TEXTS_AT_ONCE):
        part = sequences[first : first + _TEXTS_AT_ONCE]
        starts = np.concatenate([[0], np.cumsum([len(one) for one in part])[:-1]])
        joined = np.concatenate(part)
        for k in range(count):
            values = ((joined * a[k] + b[k]) >> np.uint64(32)).astype(np.uint32)
            out[first : first + len(part), k] = np.minimum.reduceat(values, starts)
    return out.reshape(len(sequences), BANDS, IN_BAND)
