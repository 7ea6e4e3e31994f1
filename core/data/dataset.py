"""A data set as the rest of the engine sees it: rows with stable numbers, and what of them can be embedded and taught."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from core.data.mapped import Mapped, Texts, of_frame
from core.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Rows in the order of their source.

    `held`: one line a row, as a frame or as arrow on disk; its column `row` is the row's number in the source, counted from 0, and never changes when
    bad rows are skipped. `texts`: one a row (a list, or read where they lie), or None. `images`: float32 (rows, height, width) in 0..1, or None.
    `labels`: class numbers (rows,), or None; `label_names` in the order of those numbers. `bad_rows`: (row number, reason) of rows left out at the
    person's wish. `text_column`, `label_column`: where texts and labels come from. `notes`: what should be known of the rows, though all can be used.
    """

    name: str
    held: pd.DataFrame | Mapped
    texts: Sequence[str] | None = None
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    bad_rows: tuple[tuple[int, str], ...] = ()
    text_column: str | None = None
    label_column: str | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.held)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All columns at once, in memory. For many rows ask `mapped` for the columns needed, a batch at a time."""
        return self.held if isinstance(self.held, pd.DataFrame) else self.held.frame()

    @cached_property
    def mapped(self) -> Mapped:
        """The rows as arrow."""
        return self.held if isinstance(self.held, Mapped) else of_frame(self.held)

    @cached_property
    def row(self) -> np.ndarray:
        """The rows' numbers in the source, int64 (rows,)."""
        return self.held["row"].to_numpy() if isinstance(self.held, pd.DataFrame) else self.held.column("row").to_numpy()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source."""
        if isinstance(self.held, Mapped):
            return self.held.names
        return tuple(str(name) for name in self.held.columns if name != "row")

    @property
    def kind(self) -> str:
        """What can be embedded: images | text | columns."""
        return "images" if self.images is not None else "text" if self.texts is not None else "columns"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the row numbers, every column's values, the images and the labels: equal contents, equal fingerprints."""
        digest = hashlib.sha256(repr((self.columns, self.label_names)).encode())
        digest.update(self.mapped.digest())
        for part in (self.images, self.labels):
            digest.update(b"-" if part is None else repr(part.shape).encode())
            for start in range(0, 0 if part is None else len(part), 4096):
                digest.update(np.ascontiguousarray(part[start : start + 4096]).data)
        return digest.hexdigest()

    def part(self, positions: np.ndarray) -> Dataset:
        """The rows at these positions (not row numbers), in that order."""
        held = self.held
        fewer = held.take(positions) if isinstance(held, Mapped) else held.iloc[positions].reset_index(drop=True)
        return Dataset(
            self.name,
            fewer,
            self._some_texts(fewer, positions),
            self.images[positions] if self.images is not None else None,
            self.labels[positions] if self.labels is not None else None,
            self.label_names,
            self.bad_rows,
            self.text_column,
            self.label_column,
            self.notes,
        )

    def _some_texts(self, fewer: pd.DataFrame | Mapped, positions: np.ndarray) -> Sequence[str] | None:
        if self.texts is None:
            return None
        if isinstance(fewer, Mapped) and self.text_column is not None:
            return Texts(fewer, self.text_column)
        return [self.texts[at] for at in positions]


def need_labels(dataset: Dataset, why: str) -> np.ndarray:
    """The class numbers, or DataError with the remedy."""
    if dataset.labels is None:
        raise DataError(
            f"{dataset.name} has no labels, and {why} needs them.",
            f"Say which column holds them with `label:`; there are: {', '.join(dataset.columns)}.",
        )
    return dataset.labels
