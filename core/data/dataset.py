"""A data set as the rest of the engine sees it: rows with stable numbers, and what of them can be embedded and taught."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from core.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Rows in the order of their source.

    `frame`: one line a row; its column `row` is the row's number in the source, counted from 0, and never changes when bad rows are skipped.
    `texts`: one a row, or None. `images`: float32 (rows, height, width) in 0..1, or None. `labels`: class numbers (rows,), or None;
    `label_names` in the order of those numbers. `bad_rows`: (row number, reason) of rows left out at the person's wish.
    """

    name: str
    frame: pd.DataFrame
    texts: list[str] | None = None
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    bad_rows: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def row(self) -> np.ndarray:
        """The rows' numbers in the source, int64 (rows,)."""
        return self.frame["row"].to_numpy()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source."""
        return tuple(str(name) for name in self.frame.columns if name != "row")

    @property
    def kind(self) -> str:
        """What can be embedded: images | text | columns."""
        return "images" if self.images is not None else "text" if self.texts is not None else "columns"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the row numbers, every column's values, the images and the labels: equal contents, equal fingerprints."""
        digest = hashlib.sha256(repr((self.columns, self.label_names)).encode())
        digest.update(pd.util.hash_pandas_object(self._hashable(), index=False).to_numpy().tobytes())
        for part in (self.images, self.labels):
            digest.update(b"-" if part is None else repr(part.shape).encode() + np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def _hashable(self) -> pd.DataFrame:
        """The frame with lists and other objects as text."""
        texts = {name: self.frame[name].map(repr) for name in self.frame.columns if self.frame[name].dtype == object}
        return self.frame.assign(**texts)

    def part(self, positions: np.ndarray) -> Dataset:
        """The rows at these positions (not row numbers), in that order."""
        return Dataset(
            self.name,
            self.frame.iloc[positions].reset_index(drop=True),
            [self.texts[at] for at in positions] if self.texts is not None else None,
            self.images[positions] if self.images is not None else None,
            self.labels[positions] if self.labels is not None else None,
            self.label_names,
            self.bad_rows,
        )


def need_labels(dataset: Dataset, why: str) -> np.ndarray:
    """The class numbers, or DataError with the remedy."""
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name} has no labels, and {why} needs them.",
            f"Say which column holds them with `label:`; there are: {', '.join(dataset.columns)}.",
        )
    return dataset.labels
