"""Weights from a checked safetensors header into a model, whole or a block at a time.

The bytes are read by offset straight into the tensors that the model keeps: no memory map, so resident memory is the model's and nothing
more, and no file is opened that the header's check did not see. Renaming and merging of old weight names is left to transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from core.errors import ModelError
from core.model.files.disk import disk_errors_said
from core.model.files.header import Header
from core.model.files.safetensors_file import read_safetensors

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_AGAIN = "Download or copy the model again."


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in its file. `stored[...]` reads it (the only index there is)."""

    path: Path
    offset: int
    size_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __getitem__(self, index: Any) -> Tensor:
        raw = torch.empty(self.size_bytes, dtype=torch.uint8)
        view = memoryview(raw.numpy())
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(self.offset)
            done = 0
            while done < self.size_bytes:
                count = stream.readinto(view[done:])
                if not count:
                    raise ModelError(f"{self.path.name} became shorter while it was read.", _AGAIN)
                done += count
        return raw.view(self.dtype).reshape(self.shape)[index]

    def get_shape(self) -> list[int]:
        return list(self.shape)


def stored_tensors(folder: Path, header: Header) -> dict[str, StoredTensor]:
    """{name in the checkpoint: tensor in its file} of a safetensors model."""
    return {t.name: StoredTensor(folder / t.file, t.offset, t.size_bytes, DTYPES[t.dtype], t.shape) for t in header.tensors}


def source_dtype(header: Header) -> torch.dtype:
    """The floating dtype that most of the bytes are stored in; float32 where there is none."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        if DTYPES[tensor.dtype].is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    return DTYPES[max(sizes, key=lambda name: sizes[name])] if sizes else torch.float32


def check_finite(named: Mapping[str, Tensor]) -> None:
    """Raise ModelError that names the first tensor with a NaN or an infinity. Costs one pass and no memory."""
    for name, tensor in named.items():
        if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = torch.aminmax(tensor.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            what = "NaN (not a number)" if torch.isnan(low) or torch.isnan(high) else "infinite"
            raise ModelError(f"The weights of {name} are damaged: some are {what}.", _AGAIN)


class LazyWeights:
    """The weights of a model on the meta device, brought in and let go part by part. A part is a block, or what is outside all blocks."""

    def __init__(
        self, model: PreTrainedModel, stored: Mapping[str, StoredTensor], block_paths: list[str], device: torch.device
    ) -> None:
        dtype = model.dtype
        self._mapping = get_model_conversion_mapping(model)
        self._config = LoadStateDictConfig(
            dtype=dtype, dtype_plan=model._get_dtype_plan(dtype), weight_mapping=self._mapping, device_map={"": device}
        )
        self._model, self._paths, self._held = model, block_paths, set()
        self._rewritten: dict[int, dict[str, StoredTensor]] = {}
        targets = self._targets(stored)
        self._check_missing(targets)
        self._parts: dict[int, dict[str, StoredTensor]] = {part: {} for part in range(-1, len(block_paths))}
        for key, target in targets.items():
            self._parts[self._part(target)][key] = stored[key]

    def _targets(self, stored: Mapping[str, StoredTensor]) -> dict[str, str]:
        """{name in the checkpoint: name in the model}, for those that the model has."""
        renamings = [rule for rule in self._mapping if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in self._mapping if isinstance(rule, WeightConverter)]
        meta, prefix = self._model.state_dict(), self._model.base_model_prefix
        found = {}
        for key in stored:
            target, _ = rename_source_key(key, renamings, converters, prefix, meta)
            if target not in meta and key in meta:
                target = key
            if target in meta:
                found[key] = target
        return found

    def _check_missing(self, targets: Mapping[str, str]) -> None:
        there = set(targets.values())
        shared = {id(p) for name, p in self._model.named_parameters(remove_duplicate=False) if name in there}
        # a merging rule names only its first target; what else it makes is checked when the block is brought in
        merges = any(isinstance(rule, WeightConverter) for rule in self._mapping)
        missing = [n for n, p in self._model.named_parameters(remove_duplicate=False) if n not in there and id(p) not in shared]
        if missing and not merges:
            raise missing_weights(missing)

    def _part(self, target: str) -> int:
        return next((index for index, path in enumerate(self._paths) if target.startswith(f"{path}.")), -1)

    def holds(self, part: int) -> bool:
        """Whether the weights of a part are in memory."""
        return part in self._held

    def peak_bytes(self) -> int:
        """The most that is in memory at once: what is outside the blocks, and the largest block."""
        width = self._model.dtype.itemsize
        size = {
            part: width * sum(p.numel() for p in {id(p): p for p in self._parameters(part).values()}.values())
            for part in self._parts
        }
        return size[-1] + max((bytes_ for part, bytes_ in size.items() if part >= 0), default=0)

    def bring(self, part: int) -> None:
        """Read the weights of block `part` (-1: what is outside the blocks). Nothing happens where they are in memory already."""
        if part in self._held:
            return
        if part in self._rewritten:
            self._bring_rewritten(part)
            self._held.add(part)
            return
        info, _ = convert_and_load_state_dict_in_model(self._model, dict(self._parts[part]), self._config)
        if info.mismatched_keys or info.conversion_errors:
            raise wrong_shape(info.mismatched_keys or [(name,) for name in info.conversion_errors])
        if part < 0:
            self._model.tie_weights()
        here = self._parameters(part)
        if absent := [name for name, parameter in here.items() if parameter.is_meta]:
            raise missing_weights(absent)
        check_finite(here)
        for parameter in here.values():
            parameter.requires_grad_(False)
        self._held.add(part)

    def bring_all(self) -> None:
        """Read everything: the model is then as if it had been loaded whole."""
        for part in self._parts:
            self.bring(part)

    def check_plain(self) -> None:
        """Raise ModelError for a family whose file does not hold its tensors as the model does: they cannot be written one part at a time."""
        if any(isinstance(rule, WeightConverter) for rule in self._mapping):
            raise ModelError(
                f"{type(self._model).__name__} stores its weights merged in another way, which is not written a block at a time.",
                "Prune it on a machine where it fits whole.",
            )

    def rewrite(self, part: int, folder: Path, dtype: torch.dtype) -> None:
        """Write the weights of a part, as they are now, into `folder`, and read them from there from now on. Floating ones as `dtype`."""
        self.check_plain()
        file = folder / f"part-{part}.safetensors"
        state = {
            name: (tensor.detach().to("cpu", dtype) if tensor.is_floating_point() else tensor.detach().cpu()).contiguous()
            for name, tensor in self._parameters(part).items()
        }
        with disk_errors_said(folder):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, file.with_suffix(".new"), metadata={"format": "pt"})
            file.with_suffix(".new").replace(file)
        infos = read_safetensors(file)
        self._rewritten[part] = {t.name: StoredTensor(file, t.offset, t.size_bytes, DTYPES[t.dtype], t.shape) for t in infos}

    def files(self) -> dict[int, dict[str, StoredTensor]]:
        """Which parts are read from where they were rewritten, and from where."""
        return dict(self._rewritten)

    def read_from(self, files: Mapping[int, dict[str, StoredTensor]]) -> None:
        """Read parts from there again, as `files` said; of a part that was rewritten twice, only the last is left."""
        for part in list(self._held):
            self.release(part)
        self._rewritten = dict(files)

    def _bring_rewritten(self, part: int) -> None:
        for name, stored in self._rewritten[part].items():
            path, _, last = name.rpartition(".")
            place = self._model.get_submodule(path)
            tensor = stored[...].to(self._config.device_map[""], getattr(place, last).dtype)
            setattr(place, last, nn.Parameter(tensor, requires_grad=False))
        check_finite(self._parameters(part))

    def release(self, part: int) -> None:
        """Let go of the weights of a part: they are on the meta device again."""
        for name, parameter in self._parameters(part).items():
            path, _, last = name.rpartition(".")
            empty = torch.empty_like(parameter, device="meta")
            setattr(self._model.get_submodule(path), last, nn.Parameter(empty, requires_grad=False))
        if part < 0:
            self._model.tie_weights()
        self._held.discard(part)

    def _parameters(self, part: int) -> dict[str, nn.Parameter]:
        if part >= 0:
            path = self._paths[part]
            return {f"{path}.{name}": p for name, p in self._model.get_submodule(path).named_parameters()}
        return {n: p for n, p in self._model.named_parameters(remove_duplicate=False) if self._part(n) < 0}


def missing_weights(names: list[str]) -> ModelError:
    """The error for weights that the model needs and the file lacks: random ones must never pass for trained ones."""
    shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return ModelError(
        f"The model's file lacks weights that its architecture needs: {shown}.",
        "Check `architectures` in config.json (a base model has no head), or take a complete model.",
    )


def wrong_shape(mismatched: Iterable[Any]) -> ModelError:
    """The error for weights whose shape is not the architecture's; each item begins with the weight's name."""
    name = min(item if isinstance(item, str) else str(item[0]) for item in mismatched)
    return ModelError(f"The weights of {name} have another shape than config.json says.", _AGAIN)
