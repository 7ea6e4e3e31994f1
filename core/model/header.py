"""What a model file says about itself, read and bounded before a single weight is. Torch-free.

Model files are hostile until shown otherwise: every count, size and offset is checked against the size of the file, in Python's unbounded
integers, and nothing is allocated for what a header claims. Names in a header are text and nothing else.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ModelError

HEADER_LIMIT_BYTES = 32 * 2**20  # a shard with 100,000 tensors needs about 12 MB
CONFIG_LIMIT_BYTES = 16 * 2**20
DIMENSIONS_LIMIT = 8
ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
_AGAIN = "Download or copy the file again."
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".distcp")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its header describes it. `offset`: where its bytes begin in `file` (a name inside the model's folder)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: str = ""
    offset: int = 0


@dataclass(frozen=True)
class Header:
    """`format`: safetensors | gguf. `parameters`: elements of all tensors. `size_bytes`: their bytes as stored. `config`: config.json, or
    the GGUF metadata without its long lists."""

    format: str
    architecture: str
    tensors: tuple[TensorInfo, ...]
    parameters: int
    size_bytes: int
    config: dict[str, Any] = field(default_factory=dict)


def preview(path: Path, *, links: bool = False) -> Header:
    """Read and check what a model folder or .gguf file says about itself.

    `links` allows symbolic links that leave the folder (as the hub's own cache has); anywhere else they are refused.
    Raises ModelError: pickle checkpoints, no config, truncated, lying or overlapping headers, shards outside the folder, adapters,
    quantised weights, code of its own.
    """
    if path.is_dir():
        return _folder(path, links)
    if not path.exists():
        raise ModelError(f"There is nothing at {path}.", "Check the path.")
    if path.suffix.lower() == ".gguf":
        from core.model.gguf_header import read_gguf

        return read_gguf(path)
    if path.suffix.lower() in _PICKLES:
        raise _pickle(path.name)
    raise ModelError(f"{path.name} is not a model this program reads.", "Give a folder with config.json and *.safetensors, or a .gguf file.")


def memory_estimate(header: Header, dtype: str = "float32") -> int:
    """Bytes that the weights take once loaded in `dtype` (float32 | bfloat16 | float16; auto means float32)."""
    return header.parameters * (2 if dtype in ("bfloat16", "float16") else 4)


def _pickle(name: str) -> ModelError:
    return ModelError(
        f"{name} is a pickle checkpoint, which can run any program when it is opened, so it is never opened here.",
        "Convert it to safetensors where you trust it (load it with transformers, then save_pretrained), or take the model's safetensors version.",
    )


def _folder(folder: Path, links: bool) -> Header:
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        raise ModelError(f"The folder {folder} is empty.", "A model folder holds config.json and model.safetensors.")
    if "config.json" not in names and "adapter_config.json" not in names:
        _refuse_pickle(names)
        raise ModelError(f"{folder} has no config.json.", "A model folder holds config.json and model.safetensors; is this the right folder?")
    if "adapter_config.json" in names:
        raise ModelError(f"{folder.name} is an adapter (adapter_config.json), not a whole model.", "Merge it into its base model and save that.")
    config = read_json(_inside(folder, "config.json", links), CONFIG_LIMIT_BYTES)
    check_config(config)
    if "model.safetensors" in names:
        tensors = read_safetensors(_inside(folder, "model.safetensors", links))
    elif "model.safetensors.index.json" in names:
        tensors = _sharded(folder, links)
    else:
        _refuse_pickle(names)
        raise ModelError(f"{folder} has no weights.", "It needs model.safetensors, or model.safetensors.index.json and its shards.")
    _check_depth(config, len(tensors))
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else config["model_type"]
    return _header("safetensors", str(architecture), tensors, config)


def _header(kind: str, architecture: str, tensors: tuple[TensorInfo, ...], config: dict[str, Any]) -> Header:
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    return Header(kind, architecture, tensors, parameters, sum(tensor.size_bytes for tensor in tensors), config)


def _refuse_pickle(names: list[str]) -> None:
    for name in names:
        if name.lower().endswith(_PICKLES):
            raise _pickle(name)


def _inside(folder: Path, name: str, links: bool) -> Path:
    """The file `name` of the folder, which must be a plain name, and lie in the folder unless links are allowed."""
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        raise ModelError(f"The index names a file outside the model's folder: {name[:80]!r}.", "Do not use this model: its index is not honest.")
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{name} is missing from {folder}.", "Download the missing file.")
    if not links and path.resolve().parent != folder.resolve():
        raise ModelError(f"{name} is a link to a file outside {folder}.", "Put the file itself into the folder.")
    return path


def read_json(path: Path, limit_bytes: int) -> dict[str, Any]:
    """A JSON object from a file of at most `limit_bytes`. Raises ModelError."""
    if path.stat().st_size > limit_bytes:
        raise ModelError(f"{path.name} has {path.stat().st_size:,} bytes, far more than such a file needs.", _AGAIN)
    return _json(path.read_bytes(), path.name)


def _json(raw: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ModelError(f"{name} names something twice.", _AGAIN)
        return dict(pairs)

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ModelError(f"{name} is damaged: it is not valid JSON.", _AGAIN) from None
    if not isinstance(value, dict):
        raise ModelError(f"{name} is damaged: it is not a JSON object.", _AGAIN)
    return value


def check_config(config: dict[str, Any], name: str = "config.json") -> None:
    """Refuse a configuration that brings code, is quantised, or does not say what it is. Raises ModelError."""
    if _has_key(config, "auto_map"):
        raise ModelError(
            f"{name} has auto_map: this model wants to run Python code of its own, which is never done here.",
            "Take a version for an architecture that transformers has built in; if this is one, delete auto_map from that file.",
        )
    if _has_key(config, "quantization_config"):
        raise ModelError("The weights are stored quantised, and pruning needs plain ones.", "Take the unquantised version of this model.")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{name} does not say its model_type.", "Is this a transformers model? Save it again with save_pretrained.")


def _has_key(value: Any, key: str, depth: int = 0) -> bool:
    if isinstance(value, dict):
        return bool(value.get(key)) or (depth < 20 and any(_has_key(item, key, depth + 1) for item in value.values()))
    return isinstance(value, list) and depth < 20 and any(_has_key(item, key, depth + 1) for item in value[:1000])


def _check_depth(config: dict[str, Any], tensors: int) -> None:
    """A config that claims a billion blocks would keep us building them: there cannot be more blocks than tensors."""
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "num_experts", "num_local_experts", "n_routed_experts"):
        if isinstance(config.get(key), int) and not 0 <= config[key] <= max(tensors, 1) * (1 if "layer" in key or key == "depth" else 1024):
            raise ModelError(f"config.json claims {config[key]:,} for {key}, but the file has {tensors} tensors.", _AGAIN)


def read_safetensors(path: Path) -> tuple[TensorInfo, ...]:
    """The checked header of one .safetensors file, in the order of the bytes. Raises ModelError; reads no weight."""
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise ModelError(f"{path.name} is cut off: it has only {size_bytes} bytes.", _AGAIN)
        length = struct.unpack("<Q", prefix)[0]
        if length > HEADER_LIMIT_BYTES:
            raise ModelError(f"{path.name} claims a header of {length:,} bytes, which no model needs.", f"{_AGAIN} It is damaged or not honest.")
        if length > size_bytes - 8:
            raise ModelError(f"{path.name} is cut off: its header alone needs {length:,} bytes, the file has {size_bytes:,}.", _AGAIN)
        entries = _json(stream.read(length), f"the header of {path.name}")
    entries.pop("__metadata__", None)
    if not entries:
        raise ModelError(f"{path.name} holds no tensors.", _AGAIN)
    data = size_bytes - 8 - length
    found = sorted((_entry(name, value, path.name, 8 + length) for name, value in entries.items()), key=lambda t: (t.offset, t.size_bytes))
    _check_layout(found, path.name, 8 + length, data)
    return tuple(found)


def _entry(name: str, value: Any, file: str, start: int) -> TensorInfo:
    """One header entry, checked on its own: a known dtype, whole sizes, and as many bytes as its shape needs."""
    lie = ModelError(f"The header of {file} is wrong about the tensor {name[:80]!r}.", f"{_AGAIN} It is damaged or not honest.")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise lie
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not _whole(shape) or len(shape) > DIMENSIONS_LIMIT or not _whole(offsets) or len(offsets) != 2:
        raise lie
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ModelError(f"The tensor {name[:80]!r} in {file} is stored as {str(dtype)[:20]!r}, which is not read here.", "Take a plain version.")
    size_bytes = math.prod(shape) * ITEM_BITS[dtype] // 8
    if offsets[1] - offsets[0] != size_bytes:
        raise lie
    return TensorInfo(name, dtype, tuple(shape), size_bytes, file, start + offsets[0])


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_layout(found: list[TensorInfo], file: str, start: int, data_bytes: int) -> None:
    """The tensors must fill the file exactly: each begins where the one before it ends."""
    end = start
    for tensor in found:
        if tensor.offset != end:
            what = "overlaps another" if tensor.offset < end else "leaves a hole before it"
            raise ModelError(f"The header of {file} is wrong: the tensor {tensor.name[:80]!r} {what}.", f"{_AGAIN} It is damaged or not honest.")
        end += tensor.size_bytes
    if end - start != data_bytes:
        what = "is cut off" if end - start > data_bytes else "has bytes that belong to no tensor"
        raise ModelError(f"{file} {what}: its header speaks of {end - start:,} bytes of weights, the file has {data_bytes:,}.", _AGAIN)


def _sharded(folder: Path, links: bool) -> tuple[TensorInfo, ...]:
    """The tensors of all shards, as the index assigns them."""
    index = read_json(_inside(folder, "model.safetensors.index.json", links), HEADER_LIMIT_BYTES)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelError("model.safetensors.index.json has no weight_map.", _AGAIN)
    paths = [_inside(folder, file, links) for file in sorted(set(places.values()))]
    for path in paths:
        if path.suffix != ".safetensors":
            raise _pickle(path.name) if path.suffix.lower() in _PICKLES else ModelError(f"{path.name} is not a safetensors shard.", _AGAIN)
    tensors = tuple(tensor for path in paths for tensor in read_safetensors(path) if places.get(tensor.name) == path.name)
    if len(tensors) != len(places):
        missing = sorted(set(places) - {tensor.name for tensor in tensors})[0]
        raise ModelError(f"The index speaks of {missing[:80]!r}, which its shard does not hold.", _AGAIN)
    return tensors
