"""What small commands (`python -m core.builtins ...`) share: how they say that they were called wrongly, or could not do it. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Callable

from core.errors import PrunariumError


def answer(work: Callable[[], object], usage: str, *, understood: bool) -> int:
    """Do the work. Returns the exit code: 0; 1 where it cannot be done, said in a sentence; 2 where the words were not understood, answered with usage."""
    if not understood:
        print(f"usage: {usage}", file=sys.stderr)
        return 2
    try:
        work()
    except PrunariumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
