"""Seeded data scores keep the rows that they kept when they were written down: `python -m tests.golden.test_golden_data` writes them anew.

A golden selection changes only with a version bump of its method and a line in CHANGELOG.md. Another processor adds in another order, so one row
in fifty may differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from core import catalogue
from core.data.clusters import spherical_kmeans
from core.data.dataset import Dataset
from core.data.embedding import embed
from core.data.evidence import Beside
from core.data.loading import load
from core.data.methods import get
from core.data.selection import decide
from core.events import Silent
from core.recipe import Data, Embedding, Select

FACTS = Path(__file__).resolve().parent / "golden_data.json"
DIGITS = {"aum": {}, "density": {}, "el2n": {}, "entropy": {}, "forgetting": {}, "grand_last_layer": {}, "label_noise": {}, "loss_weight": {},
          "margin": {}, "near_duplicates": {}, "prototypes": {}, "quality": {"column": "worth"}, "typicality": {}}  # fmt: skip
TREC = {
    "dsir": {"target": "builtin:trec/test"},
    "min_hash": {"words": 3},
    "tarot": {"target": "builtin:trec/test", "most_rounds": 3},
}
ROWS = 300


def outcome(name: str) -> tuple[int, np.ndarray]:
    """(version, bool (300,)): which of the first rows of a built-in stay when 40 % are kept."""
    source, vectors_by = ("builtin:digits", "pixels") if name in DIGITS else ("builtin:trec/train", "tfidf")
    data, embedding = Data(source=source), Embedding(source=vectors_by, params={"dimensions": 16} if name in TREC else {})
    whole = load(data).part(np.arange(ROWS))
    frame = whole.frame.assign(worth=np.arange(ROWS) * 37 % 101)
    rows = Dataset(whole.name, frame, whole.texts, whole.images, whole.labels, whole.label_names)
    vectors = np.asarray(embed(rows, embedding, None, Silent(), 0))
    params = catalogue.fill(get("data_score", name).card, {**DIGITS, **TREC}[name])
    select = Select(score=name, selector="top", params={**params, "class_balance": 0.0})
    found = decide(rows, vectors, spherical_kmeans(vectors, 10, 0), select, 0, 0.4, beside=Beside(data, embedding))
    return get("data_score", name).card.version, found.kept


@pytest.mark.parametrize("name", [*DIGITS, *TREC])
def test_a_seeded_score_keeps_the_rows_it_kept(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", _beside_the_wheels(tmp_path))
    golden, (version, kept) = json.loads(FACTS.read_text())[name], outcome(name)
    assert version == golden["version"], (
        "the method's version was bumped: write the golden file anew, with a line in CHANGELOG.md"
    )
    before = np.unpackbits(np.frombuffer(bytes.fromhex(golden["kept"]), np.uint8), count=ROWS).astype(bool)
    assert kept.sum() == before.sum() == 120
    assert (kept == before).mean() >= 0.98, "bump the method's version, or mend what changed"


def _beside_the_wheels(tmp_path: Path) -> str:
    """A cache of its own with the built-ins that were fetched already."""
    from core.builtins import cache_dir

    own = tmp_path / "cache"
    own.mkdir()
    if (cache_dir() / "trec").is_dir():
        (own / "trec").symlink_to(cache_dir() / "trec")
    return str(own)


def write() -> None:
    found = {name: outcome(name) for name in (*DIGITS, *TREC)}
    facts = {name: {"version": version, "kept": np.packbits(kept).tobytes().hex()} for name, (version, kept) in found.items()}
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(write())
