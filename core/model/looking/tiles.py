"""A large matrix as a small picture: the largest or mean value of each of at most 256 x 256 tiles of a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import RecipeError

MOST = 256
Window = tuple[int, int, int, int]  # first row, row after the last, first column, column after the last


@dataclass(frozen=True)
class Tiled:
    """values (tiles down, tiles across); rows, columns: where each tile starts in the matrix, and last where the window ends."""

    values: NDArray[np.float32]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def checked_window(window: list[int] | None, rows: int, columns: int) -> Window:
    """The window, or the whole matrix. Raises RecipeError for one that does not lie in it."""
    if window is None:
        return 0, rows, 0, columns
    top, bottom, left, right = (int(edge) for edge in window)
    if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
        raise RecipeError(f"Rows {top} to {bottom}, columns {left} to {right} do not lie in a matrix of {rows} × {columns}.",
                          f"Give rows within 0 to {rows} and columns within 0 to {columns}.")  # fmt: skip
    return top, bottom, left, right


def tiled(matrix: NDArray[np.float32], window: Window, how: str, most: int = MOST) -> Tiled:
    """how: "max" or "mean" of each tile."""
    top, bottom, left, right = window
    rows, columns = (_starts(first, last, most) for first, last in ((top, bottom), (left, right)))
    inside = matrix[top:bottom, left:right]
    fold = np.maximum if how == "max" else np.add
    down = np.array(rows[:-1]) - top
    across = np.array(columns[:-1]) - left
    values = fold.reduceat(fold.reduceat(inside.astype(np.float64), down, axis=0), across, axis=1)
    if how == "mean":
        values = values / np.outer(np.diff(rows), np.diff(columns))
    return Tiled(values.astype(np.float32), rows, columns)


def _starts(first: int, last: int, most: int) -> tuple[int, ...]:
    count = min(last - first, most)
    return tuple(first + (last - first) * place // count for place in range(count + 1))
