"""A model that was built from its config alone, made what the config's key `prunarium` says it is, before any weight is read."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from core.errors import ModelError
from core.model.anatomy import block_paths
from core.model.depth.gone import KEY, KINDS, take_out
from core.model.width.slicing import rebuild as slice_as_said
from core.model.width.widths import rebuild as narrow_as_said


def rebuilt(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """The same model without the modules that `prunarium: {without: {module path: kind}}` names. Weights may lie on the meta device.

    Raises ModelError where that is damaged: a config comes from a stranger.
    """
    said = getattr(config, KEY, None)
    if said is not None:
        slice_as_said(model, config)
        take_out(model, _checked(model, said))
        narrow_as_said(model)
    return model


def _checked(model: PreTrainedModel, said: Any) -> dict[str, str]:
    without = said.get("without", {}) if isinstance(said, dict) else None
    if not isinstance(without, dict):
        raise _damaged("it is no mapping of module paths")
    inside = tuple(f"{path}." for path in block_paths(model))
    there = {path for path, _ in model.named_modules() if inside and path.startswith(inside)}
    for path, kind in without.items():
        if path not in there:
            raise _damaged(f"no block has a part {str(path)[:80]!r}")
        if kind not in KINDS:
            raise _damaged(f"{str(kind)[:20]!r} is not a way to be without {path}")
        if any(path.startswith(f"{other}.") for other in without):
            raise _damaged(f"{path} lies in another part that is gone")
    return without


def _damaged(why: str) -> ModelError:
    return ModelError(
        f"What config.json says was taken out cannot be right: {why}.", "Get the model again, or save it again with Prunarium."
    )
