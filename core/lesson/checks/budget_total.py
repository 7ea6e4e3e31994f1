from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from core.lesson.scene import Verdict, percent, total
from core.method import Param, lesson_check


@lesson_check("budget_total", label="The budget as a whole", tells=("total",))
def budget_total(
    shares: Mapping[str, float],
    sizes: Mapping[str, int],
    *,
    low: Annotated[float, Param("At least", 0.0, 1.0)] = 0.0,
    high: Annotated[float, Param("At most", 0.0, 1.0)] = 1.0,
) -> Verdict:
    """The bars together remove a share between `low` and `high` of all weights that can go."""
    now = total(shares, sizes)
    return Verdict(
        low - 5e-4 <= now <= high + 5e-4, f"The bars remove {percent(now)} of the weights now.", {"total": percent(now)}
    )
