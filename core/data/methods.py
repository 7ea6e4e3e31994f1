"""The data half's methods without the model half's: so that a map of the rows does not wait for torch."""

from __future__ import annotations

import importlib
import os
import pkgutil

from core import catalogue, method
from core.catalogue import MethodCard

_PACKAGES = ("core.embed", "core.select")


def get(kind: str, name: str) -> method.Method:
    """An embedding, data score or selector by name. A person's own method is sought where the built-in ones do not have it."""
    if (kind, name) not in method.METHODS:
        for package in _PACKAGES:
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
                importlib.import_module(module.name)
    return method.get(kind, name)


def cards() -> tuple[MethodCard, ...]:
    """The cards of all methods: from the catalogue's file, unless the person has methods of their own."""
    return tuple(method.cards()) if os.environ.get("PRUNARIUM_METHODS") else catalogue.load()
