"""What a job on two axes says, share of the rows kept by share of the weights kept: means, intervals, and the smallest cell that is not worse. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.proof import interval, paired

Line = Mapping[str, Any]
NEAR = 0.01  # a cell whose mean lies farther below all rows and all weights is called worse, however wide its interval


def cells(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """For each (rows, weights): mean accuracy with its 95 % interval over seeds, and the paired difference from all rows and all weights with its own."""
    whole = figures(lines, 1.0, 1.0)
    out = []
    for rows, weights in sorted({(line["rows"], line["weights"]) for line in lines}):
        values = figures(lines, rows, weights)
        mean, low, high = interval(list(values.values()))
        gap = paired(values, whole) if (rows, weights) != (1.0, 1.0) else None
        out.append({
            "rows": rows, "weights": weights, "mean": mean, "low": low, "high": high, "seeds": len(values),
            "difference": gap and gap[0], "difference_low": gap and gap[1], "difference_high": gap and gap[2],
        })  # fmt: skip
    return out


def figures(lines: Sequence[Line], rows: float, weights: float) -> dict[int, float]:
    """{seed: accuracy} of one cell."""
    return {line["seed"]: float(line["accuracy"]) for line in lines if line["rows"] == rows and line["weights"] == weights}


def held(cell: Mapping[str, Any]) -> bool:
    """Is the cell not told apart from all rows and all weights, and within NEAR of it?"""
    if cell["difference"] is None:
        return True
    high = cell["difference_high"]
    return cell["difference"] >= -NEAR and (high is None or high >= 0)


def smallest(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The cell of the least rows x weights that is not worse than all of both; None where there is none but that."""
    good = [cell for cell in found if held(cell) and (cell["rows"], cell["weights"]) != (1.0, 1.0)]
    return min(good, key=lambda cell: (cell["rows"] * cell["weights"], cell["rows"]), default=None)


def price(found: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """How much accuracy the least weights cost with the least rows, and with all rows: does pruning one make the other dearer? None for one row or column."""
    rows, weights = (sorted({cell[name] for cell in found}) for name in ("rows", "weights"))
    if len(rows) < 2 or len(weights) < 2:
        return None
    mean = {(cell["rows"], cell["weights"]): cell["mean"] for cell in found}
    few, all_rows = ((mean[share, 1.0] - mean[share, weights[0]]) for share in (rows[0], 1.0))
    return few, all_rows
