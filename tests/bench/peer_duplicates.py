"""Run by duplicates.py with the peer's own python: deduplicate with semhash and save the rows that stay with the seconds it took."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from semhash import SemHash


class Ready:
    """Stands for the encoder: a record is the number of its row, whose vector is there already."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def encode(self, inputs, **_) -> np.ndarray:
        return self.vectors[[int(one) for one in inputs]]


def main(vectors: str, threshold: str, out: str) -> None:
    points = np.load(vectors)
    few = SemHash.from_records([str(at) for at in range(200)], model=Ready(points))  # imported, warmed
    few.self_deduplicate(threshold=float(threshold))
    records = [str(at) for at in range(len(points))]
    start = time.perf_counter()
    found = SemHash.from_records(records, model=Ready(points)).self_deduplicate(threshold=float(threshold))
    seconds = time.perf_counter() - start
    kept = found.selected if hasattr(found, "selected") else found.deduplicated
    Path(out).write_text(json.dumps({"seconds": seconds, "kept": [int(row) for row in kept]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
