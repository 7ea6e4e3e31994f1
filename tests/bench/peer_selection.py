"""Run by selectors.py with the peer's own python: choose rows with apricot-select and save them with the seconds it took."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from apricot import FacilityLocationSelection


def main(vectors: str, count: str, out: str) -> None:
    points = np.load(vectors)
    FacilityLocationSelection(10, metric="euclidean").fit(points[:500])  # compiled, warmed
    start = time.perf_counter()
    selector = FacilityLocationSelection(int(count), metric="euclidean").fit(points)
    seconds = time.perf_counter() - start
    Path(out).write_text(json.dumps({"seconds": seconds, "ranking": [int(row) for row in selector.ranking]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
