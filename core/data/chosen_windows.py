"""Windows of a text chosen by a selector, in the place of chance: calibration data picked as rows of a data set are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import LongTensor

from core.catalogue import embedding_method, fill, find, load, resolved_choice
from core.data.clusters import cluster
from core.data.dataset import Dataset
from core.data.embedding import embed
from core.data.evidence import Beside
from core.data.selection import decide
from core.errors import DataError
from core.events import Silent
from core.model.inputs import text
from core.model.loading import LoadedModel
from core.recipe import Clusters, Embedding, Text

_TRIES = 3  # how often candidates are drawn anew for those that repeat another's place


def windows(source: Text, loaded: LoadedModel, seed: int) -> LongTensor:
    """(samples, tokens) ids of `source`: chosen, or by chance where it says nothing of a choice."""
    if source.choose:
        return chosen_windows(source, loaded, seed)
    return text.sequences(source.source, loaded.tokenizer, source.samples, source.tokens, seed, source.column)


def chosen_windows(source: Text, loaded: LoadedModel, seed: int) -> LongTensor:
    """(samples, tokens) ids of `source`, the windows that `source.choose` keeps of samples x pool candidates at random places, in the order of their places.

    The candidates are rows of a data set: their words, as the tokenizer writes them, are embedded, grouped by spherical k-means and scored. Seeded. Raises
    DataError where the text has too few different windows, RecipeError for a choice that does not fit.
    """
    assert source.choose is not None and loaded.tokenizer is not None
    select = resolved_choice(source.choose)
    ids = text.token_ids(source.source, loaded.tokenizer, source.column)
    starts = _places(len(ids), source, seed)
    cut = np.stack([np.asarray(ids[start : start + source.tokens]) for start in starts]).astype(np.int64)
    words = loaded.tokenizer.batch_decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    held = pd.DataFrame({"row": starts, "text": words})
    dataset = Dataset(f"windows of {source.source}", held, list(words), text_column="text")
    embedding = _filled(source.choose.embedding)
    vectors = np.asarray(embed(dataset, embedding, loaded, Silent(), seed))
    clusters = cluster(vectors, Clusters(), seed)
    beside = Beside(None, embedding, loaded, Silent())
    kept = decide(dataset, vectors, clusters, select, seed, source.samples / len(starts), beside=beside).kept
    return torch.from_numpy(cut[kept])


def _places(there: int, source: Text, seed: int) -> np.ndarray:
    """Different starts of the candidates, rising."""
    assert source.choose is not None
    last, wanted = there - source.tokens + 1, source.samples * source.choose.pool
    if last < source.samples:
        raise DataError(
            f"{source.source} has {max(last, 0):,} places for a window of {source.tokens:,} tokens, fewer than the {source.samples:,} asked for.",
            "Give a longer text, or ask for fewer samples or tokens.",
        )
    random = np.random.default_rng(seed)
    found = np.unique(random.integers(0, last, size=wanted))
    for _ in range(_TRIES):
        if len(found) >= min(wanted, last):
            break
        found = np.unique(np.concatenate([found, random.integers(0, last, size=wanted)]))
    if len(found) > wanted:
        found = np.sort(random.permutation(found)[:wanted])
    return np.arange(last) if len(found) < source.samples else found


def _filled(source: str) -> Embedding:
    card = find(load(), "embedding", embedding_method(source))
    return Embedding(source=source, params=fill(card, {}))
