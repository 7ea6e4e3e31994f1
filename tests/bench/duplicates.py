"""Near duplicates beside semhash: the same vectors with planted copies, seconds and what is found. semhash lives in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from core.data.clusters import unit
from core.events import Silent
from core.select.near_duplicates import near_duplicates
from tests.bench import Figure
from tests.bench.peers_env import environment

ROWS, FEATURES, PLANTED, THRESHOLD = 100_000, 384, 0.1, 0.9
PEER = "semhash==0.5.0"
_PEER = Path(__file__).with_name("peer_duplicates.py")
ABOUT = (
    f"{ROWS:,} rows of {FEATURES} features (Gaussian, seed 0, length 1), the last {100 * PLANTED:g} % of them copies of other rows with noise "
    f"(cosine 0.98), threshold {THRESHOLD:g}, one run each. {PEER} with its default (approximate) index, its vectors ready as ours are; ours is exact, in "
    "blocks, and never "
    "holds rows x rows. No two of the other rows come near the threshold."
)


def planted(rows: int) -> np.ndarray:
    """Vectors whose last tenth repeats earlier rows, float32 (rows, FEATURES)."""
    random = np.random.default_rng(0)
    copies = round(rows * PLANTED)
    points = unit(random.standard_normal((rows - copies, FEATURES), dtype=np.float32))
    noise = unit(random.standard_normal((copies, FEATURES), dtype=np.float32))
    return np.concatenate([points, unit(points[random.permutation(rows - copies)[:copies]] + 0.2 * noise)])


def theirs(points: np.ndarray) -> tuple[float, np.ndarray]:
    """semhash's seconds, and the rows that it keeps."""
    with tempfile.TemporaryDirectory() as path:
        vectors, out = Path(path) / "vectors.npy", Path(path) / "out.json"
        np.save(vectors, points)
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([environment(PEER), "-P", _PEER, vectors, str(THRESHOLD), out], check=True, stdout=sys.stderr, env=clean)
        found = json.loads(out.read_text())
    return found["seconds"], np.array(found["kept"])


def measure(rows: int = ROWS) -> list[Figure]:
    points = planted(rows)
    seconds, stays = theirs(points)
    nothing = np.zeros(rows, np.int64), unit(points.mean(axis=0, keepdims=True))
    near_duplicates(points[:2000], nothing[0][:2000], nothing[1], Silent(), threshold=THRESHOLD)  # warmed
    start = time.perf_counter()
    kept = near_duplicates(points, *nothing, Silent(), threshold=THRESHOLD) >= 0
    ours = time.perf_counter() - start
    copies = np.arange(rows) >= rows - round(rows * PLANTED)
    peer = np.ones(rows, bool)
    peer[stays] = False
    figures = [Figure("seconds, beside semhash's", f"{ours:.1f} s ours, {seconds:.1f} s semhash ({seconds / ours:.2f} x)")]
    for who, gone in (("ours", ~kept), ("semhash", peer)):
        precision, recall = (gone & copies).sum() / max(gone.sum(), 1), (gone & copies).sum() / copies.sum()
        held = bool(precision >= 0.99 and recall >= 0.99) if who == "ours" else None
        figures.append(
            Figure(
                f"planted copies, {who}",
                f"precision {precision:.4f}, recall {recall:.4f}",
                ">= 0.99" if held is not None else "",
                held,
            )
        )
    return figures
