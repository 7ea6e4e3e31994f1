"""The formula lab's part of the interactive worker: what a formula does to a small model. See core/serve.py and core/model/looking/formula_lab.py."""

from __future__ import annotations

import time
from typing import Any

from core.errors import ModelError
from core.evolve import CALIBRATION, MOST_PARAMETERS, WINDOWS
from core.formula import parse


def formula(session: Any, source: str, expression: str, share: float = 0.5, structure: str = "unstructured") -> dict[str, Any]:
    """Heat map and perplexities of a formula on a model of its own, kept apart from the opened one (looking/formula_lab.seen), and how it was measured.

    Raises RecipeError where the formula is not in the language, ModelError where it fails on a layer, each before the next question suffers.
    """
    node = parse(expression)
    from core.model.looking.formula_lab import seen

    start = time.perf_counter()
    lab = _lab(session, source)
    found = seen(lab, node, structure, share)
    protocol = {"model": source, "share": share, "structure": structure, "calibration": CALIBRATION, "windows": WINDOWS}
    return {**found, "expression": node.text, "protocol": protocol, "seconds": time.perf_counter() - start}


def _lab(session: Any, source: str) -> Any:
    """The lab of that model; made once, and let go when another is asked for."""
    from core.model.blocks import known_ids
    from core.model.inputs import text
    from core.model.loading import load
    from core.model.looking.formula_lab import open_lab

    held = session.parts.get("formula")
    if held is None or held[0] != source:
        session.parts.pop("formula", None)
        loaded = load(source)
        if loaded.anatomy.parameters > MOST_PARAMETERS:
            raise ModelError(
                f"{loaded.name} has {loaded.anatomy.parameters / 1e6:,.0f} million parameters; formulas are tried on "
                f"models of at most {MOST_PARAMETERS / 1e6:,.0f}.",
                "Try it on builtin:tiny-llama, then prune this model with it.",
            )
        if loaded.tokenizer is None:
            raise ModelError(f"{loaded.name} has no tokenizer, so no text can be measured.", "Try it on builtin:tiny-llama.")
        calibration, windows = (
            known_ids(loaded, text.sequences(at["source"], loaded.tokenizer, at["samples"], at["tokens"], 0))
            for at in (CALIBRATION, WINDOWS)
        )
        session.parts["formula"] = held = (source, open_lab(loaded, calibration, windows))
    return held[1]
