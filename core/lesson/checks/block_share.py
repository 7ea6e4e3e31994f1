from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from core.lesson.scene import Verdict, of_block, percent
from core.method import Param, lesson_check


@lesson_check("block_share", label="The bar of one block", tells=("share",))
def block_share(
    shares: Mapping[str, float],
    sizes: Mapping[str, int],
    blocks: Mapping[str, str],
    *,
    block: Annotated[str, Param("Block", longest=80)] = "blocks.0",
    low: Annotated[float, Param("At least", 0.0, 1.0)] = 0.0,
    high: Annotated[float, Param("At most", 0.0, 1.0)] = 1.0,
) -> Verdict:
    """One block's bar stands between `low` and `high`."""
    now = of_block(block, shares, sizes, blocks)
    why = f"The bar of block {block.rpartition('.')[2]} stands at {percent(now)}."
    return Verdict(low - 5e-4 <= now <= high + 5e-4, why, {"share": percent(now)})
