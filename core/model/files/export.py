"""Save a model as a folder that `from_pretrained` loads: in the dtype of its source, whole or not at all, and only after it was loaded again
and found to be the same model."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from core.errors import ModelError, ResourceError
from core.folder import write_text
from core.model.depth.gone import KEY
from core.model.files.card import readme
from core.model.files.disk import disk_errors_said
from core.model.loading import LoadedModel, load
from core.model.measuring import lean
from core.model.measuring.counts import blank_image, saved_bytes, size_when_saved_bytes, unique
from core.model.measuring.latency import fixed_ids
from core.recipe import Recipe

_CHECK_TOKENS = 16
_SMALL_FILES_BYTES = 16_000_000  # room for tokenizer, configs and card
_CARRIED = ("preprocessor_config.json", "processor_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


@dataclass(frozen=True)
class Saved:
    """`size_bytes`: of the weights on disk. `nonzero`: parameters that are not zero as saved. `difference`: largest difference of any output
    between the folder loaded again and the model in memory rounded to `dtype`; `rounding`: what that rounding itself changed;
    `loads_with`: from_pretrained or Prunarium. None where
    the module cannot be run without knowing its input."""

    dtype: str
    size_bytes: int
    nonzero: int
    difference: float | None
    rounding: float | None
    loads_with: str = "from_pretrained"

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def save(
    loaded: LoadedModel, folder: Path, recipe: Recipe | None = None, fields: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Save the model with tokenizer and card as `folder`, load it again, compare, and only then give it its name. Returns Saved as a dict.

    Floating-point tensors are rounded to the dtype they came in; zeros stay exact zeros. `recipe` and the report's `fields` go on the card. A
    module that is not from transformers becomes one safetensors file with a note. Raises ResourceError where the disk is too small or refuses
    (nothing is left then), or `folder` holds something; ModelError where what was saved is not the model in memory.
    """
    _check_room(loaded, folder)
    scratch = folder.with_name(f".{folder.name}.saving-{os.getpid()}")
    try:
        with disk_errors_said(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _clear(scratch)
            scratch.mkdir()
            saved = replace(_way(loaded)(loaded, scratch), loads_with=_loads_with(loaded))
            write_text(scratch / "README.md", readme(loaded, saved.to_dict(), recipe, fields or {}))
            _flush(scratch)
            scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return saved.to_dict()


def _loads_with(loaded: LoadedModel) -> str:
    if not isinstance(loaded.model, PreTrainedModel):
        return "its own code"
    return "Prunarium" if hasattr(loaded.model.config, KEY) else "from_pretrained"


def _way(loaded: LoadedModel) -> Callable[[LoadedModel, Path], Saved]:
    if loaded.lazy is not None:
        return _save_lean
    return _save_pretrained if isinstance(loaded.model, PreTrainedModel) else _save_module


def _check_room(loaded: LoadedModel, folder: Path) -> None:
    """Refuse before anything is written: a folder that holds something, a disk that is too small."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ResourceError(f"{folder} already holds something.", "Choose another folder; finished work is never overwritten.")
    needed = size_when_saved_bytes(loaded.model, loaded.source_dtype) + _SMALL_FILES_BYTES
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ResourceError(
            f"The disk is too full: the model needs {needed / 1e6:,.0f} MB and {there} has {free / 1e6:,.0f} MB free.",
            "Free some space, or choose a folder on another disk.",
        )


def _clear(scratch: Path) -> None:
    """Remove what earlier saves under this name left when they were killed: scratch folders whose process is gone."""
    for left in scratch.parent.glob(f"{scratch.name.rpartition('-')[0]}-*"):
        pid = left.name.rpartition("-")[2]
        if left == scratch or (pid.isdigit() and not psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def _save_pretrained(loaded: LoadedModel, scratch: Path) -> Saved:
    model, dtype = loaded.model, loaded.source_dtype
    _forget_quantisation(model)
    with _valid_settings(model):
        model.save_pretrained(scratch, state_dict=cast(model, dtype))
    name = str(dtype).removeprefix("torch.")
    config = json.loads((scratch / "config.json").read_text())
    write_text(scratch / "config.json", json.dumps(config | {"dtype": name}, indent=2) + "\n")
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(scratch)
    for file in _carried(loaded):
        shutil.copyfile(file, scratch / file.name)
    again = _load_again(model, scratch).to(loaded.device)
    nonzero = _same_tensors(model, again.state_dict(), dtype)
    difference, rounding = _compare_outputs(loaded, again)
    return Saved(name, saved_bytes(scratch), nonzero, difference, rounding)


def _save_lean(loaded: LoadedModel, scratch: Path) -> Saved:
    """A model larger than memory: shard by shard, and compared block by block."""
    _forget_quantisation(loaded.model)
    lean.save_weights(loaded, scratch)
    with _valid_settings(loaded.model):
        loaded.model.config.save_pretrained(scratch)
        if loaded.model.can_generate():
            loaded.model.generation_config.save_pretrained(scratch)
    name = str(loaded.source_dtype).removeprefix("torch.")
    config = json.loads((scratch / "config.json").read_text())
    said = {"architectures": [type(loaded.model).__name__], "dtype": name}
    write_text(scratch / "config.json", json.dumps(config | said, indent=2) + "\n")
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(scratch)
    for file in _carried(loaded):
        shutil.copyfile(file, scratch / file.name)
    computing = str(loaded.model.dtype).removeprefix("torch.")
    nonzero, difference = lean.check_same(loaded, load(str(scratch), computing, str(loaded.device), lazy=True))
    return Saved(name, saved_bytes(scratch), nonzero, difference, None)


def _save_module(loaded: LoadedModel, scratch: Path) -> Saved:
    state = {name: tensor.contiguous() for name, tensor in unique(iter(cast(loaded.model, loaded.source_dtype).items()))}
    save_file(state, scratch / "model.safetensors", metadata={"format": "pt"})
    del state
    nonzero = _same_tensors(loaded.model, load_file(scratch / "model.safetensors"), loaded.source_dtype)
    return Saved(str(loaded.source_dtype).removeprefix("torch."), saved_bytes(scratch), nonzero, None, None)


def cast(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's state with floating-point tensors as `dtype`, on the CPU. Names that share a tensor still share one."""
    done: dict[tuple[int, torch.Size], Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in done or not tensor.numel():
            done[key] = tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor.cpu()
        state[name] = done[key]
    return state


def _forget_quantisation(model: nn.Module) -> None:
    """Weights that were read from a quantised file are plain numbers now; the config must not say otherwise."""
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        vars(model).pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


@contextmanager
def _valid_settings(model: PreTrainedModel) -> Iterator[None]:
    """Settings that transformers agrees to save. Many published models state a temperature without saying that they sample: they do."""
    before = getattr(model, "generation_config", None)
    try:
        if before is not None:
            before.validate(strict=True)
    except ValueError:
        model.generation_config = copy.deepcopy(before)
        model.generation_config.do_sample = True
    try:
        yield
    finally:
        if before is not None:
            model.generation_config = before


def _carried(loaded: LoadedModel) -> list[Path]:
    """Files of the source's folder that belong to the model and that nothing else writes."""
    if loaded.location.kind == "module":
        return []
    return [loaded.location.path / name for name in _CARRIED if (loaded.location.path / name).is_file()]


def _load_again(model: PreTrainedModel, scratch: Path) -> PreTrainedModel:
    """The folder as anyone would load it, computing in the dtype that the model in memory computes in."""
    if hasattr(model.config, KEY):  # only this program can
        return load(str(scratch), str(next(model.parameters()).dtype).removeprefix("torch."), "cpu").model
    again, said = type(model).from_pretrained(
        scratch,
        dtype=next(model.parameters()).dtype,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=model.config._attn_implementation,
        output_loading_info=True,
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if said.get(problem):
            raise _not_the_same(f"{problem.replace('_', ' ')}: {sorted(map(str, said[problem]))[:3]}")
    return again.eval()


def _same_tensors(model: nn.Module, again: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """Compare bit for bit with the tensors in memory rounded to `dtype`; returns the parameters that are not zero."""
    nonzero, parameters = 0, {name for name, _ in model.named_parameters()}
    for name, tensor in unique(iter(model.state_dict().items())):
        if name not in again:
            raise _not_the_same(f"{name} is not in it")
        expected = tensor.to(dtype).to(again[name].dtype) if tensor.is_floating_point() else tensor
        if not torch.equal(expected.to(again[name].device), again[name]):
            raise _not_the_same(f"{name} differs")
        nonzero += int(torch.count_nonzero(again[name])) if name in parameters else 0
    return nonzero


def _compare_outputs(loaded: LoadedModel, again: PreTrainedModel) -> tuple[float, float]:
    """Largest output differences on a fixed input: (loaded again - in memory with the rounded weights, the same - in memory as it is)."""
    pixels = blank_image(loaded)
    if pixels is not None:
        given = (torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)).to(pixels),)
    else:
        given = (fixed_ids(loaded, 1, _CHECK_TOKENS),)
    # the second model of an encoder and a decoder wants a text of its own
    more = {"decoder_input_ids": given[0]} if pixels is None and loaded.model.config.is_encoder_decoder else {}
    rounded = dict(again.named_parameters()) | dict(again.named_buffers())
    with torch.no_grad():
        there = _answer(again(*given, **more))
        here, exact = _answer(functional_call(loaded.model, rounded, given, more)), _answer(loaded.model(*given, **more))
    difference, rounding = (float((there - other).abs().max()) for other in (here, exact))
    if not difference <= lean.TOLERANCE * max(float(here.abs().max()), 1.0):
        raise _not_the_same(f"its outputs differ by up to {difference:.3g}")
    return difference, rounding


def _answer(output: Any) -> Tensor:
    """The tensor that a model is asked for: its logits where it has any, else what comes out of its last block."""
    for name in ("logits", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name).float()
    return (output[0] if not isinstance(output, Tensor) else output).float()


def _not_the_same(why: str) -> ModelError:
    return ModelError(
        f"The saved model, loaded again, is not the one in memory ({why}), so it was not kept.",
        "Please report this with the recipe and the model's architecture; the mask is in the run folder.",
    )


def _flush(folder: Path) -> None:
    """Bring every file to the disk before the folder gets its name: a power cut must not leave a named folder with empty files."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
