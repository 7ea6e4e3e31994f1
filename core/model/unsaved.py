"""What a run has measured outlives a model that cannot be saved. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core import folder
from core.errors import PrunariumError, Stopped
from core.report import Report


@contextmanager
def figures_kept(path: Path, protocol: dict[str, Any], report: Callable[[], Report]) -> Iterator[None]:
    """Where what is done within fails, the report is left all the same, with the reason in its protocol as `not_saved`; unless the disk is too full for it."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        protocol["not_saved"] = str(error)[:600]
        with suppress(PrunariumError):
            folder.write_json(path / folder.REPORT, report().to_dict())
        raise
