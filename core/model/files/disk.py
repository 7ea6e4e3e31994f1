"""What a disk refuses while weights are written, as sentences."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from core.errors import ResourceError
from core.folder import disk_error


@contextmanager
def disk_errors_said(folder: Path) -> Iterator[None]:
    """Refusals of the disk as sentences. safetensors wraps the system's number in words of its own."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"(?:os error|code:) (\d+)", str(error))
        if code is None:
            raise
        raise _said(OSError(int(code[1]), os.strerror(int(code[1]))), folder) from None
    except OSError as error:
        raise _said(error, folder) from None


def _said(error: OSError, folder: Path) -> Exception:
    if error.errno == errno.EFBIG:
        return ResourceError(
            f"{folder} was not written: a file would be larger than this disk or user is allowed.",
            "Choose a folder on another disk, or raise the limit (ulimit -f).",
        )
    return disk_error(error, folder)
