"""GloVe's words with their vectors: the big map's rows. Read once, then memory-mapped from the cache."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from core import builtins
from core.data.arrow_cache import Made, key_of, opened
from core.data.mapped import ROW
from core.errors import DataError

NAME = "glove50"
FEATURES = 50
_LINES = 20_000
_SCHEMA = pa.schema([(ROW, pa.int64()), ("text", pa.large_string()), ("vector", pa.large_list(pa.float32()))])


def table() -> pa.Table:
    """400,000 rows in the file's order (the most frequent word first): row, text (the word), vector (50 numbers). Half a minute the first time."""
    file = next(builtins.fetch(NAME).iterdir())
    return opened(key_of(NAME), 1 << 40, lambda: Made(_SCHEMA, _batches(file), {}))


def _batches(file: Any) -> Iterator[pa.Table]:
    """Each line: a word, then its numbers, a space between."""
    with bz2.open(file, "rt", encoding="utf-8", newline="\n") as lines:
        first = 0
        while chunk := list(islice(lines, _LINES)):
            pairs = [line.rstrip("\n").split(" ", 1) for line in chunk]
            numbers = np.fromstring(" ".join(rest for _, rest in pairs), dtype=np.float32, sep=" ")
            if len(numbers) != len(pairs) * FEATURES:
                raise DataError(f"{file.name} is broken between rows {first} and {first + len(pairs) - 1}.", "Fetch it again.")
            ends = pa.array(np.arange(0, len(numbers) + 1, FEATURES))
            vectors = pa.LargeListArray.from_arrays(ends, pa.array(numbers))
            words = pa.array([word for word, _ in pairs], pa.large_string())
            yield pa.table([pa.array(range(first, first + len(pairs)), pa.int64()), words, vectors], schema=_SCHEMA)
            first += len(pairs)
