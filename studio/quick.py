"""Import before gradio. At every import Gradio parses the source of each component class and writes a type stub beside it: half of its import time.

Gradio leaves out the stub of a class whose source file cannot be found (a class made in a notebook), so that is what it is told.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

_find = inspect.getfile


def _no_stub(thing: Any) -> str:
    if sys._getframe(1).f_code.co_name == "create_or_modify_pyi":
        raise OSError("no stub is wanted")
    return _find(thing)


inspect.getfile = _no_stub
