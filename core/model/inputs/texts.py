"""What a prune step may read besides its calibration sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Texts:
    """general(): ids (sequences, tokens) of the step's general text. fresh(): endless windows (1, tokens) at random places of the whole calibration
    source, for methods that train. Either may be missing, where there is only what was sampled."""

    general: Callable[[], Tensor] | None = None
    fresh: Callable[[], Iterator[Tensor]] | None = None


NO_TEXTS = Texts()
