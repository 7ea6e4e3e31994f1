"""What a model file says about itself, read and bounded before a single weight is. Torch-free.

Model files are hostile until shown otherwise: every count, size and offset is checked against the size of the file, in Python's unbounded
integers, and nothing is allocated for what a header claims. Names in a header are text and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ModelError
from core.model.files.gguf_file import read_gguf
from core.model.files.safetensors_file import AGAIN, HEADER_LIMIT_BYTES, TensorInfo, read_json, read_safetensors

__all__ = ["CONFIG_LIMIT_BYTES", "Header", "TensorInfo", "check_config", "memory_estimate", "preview", "read_json"]

CONFIG_LIMIT_BYTES = 16 * 2**20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".distcp")
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_WIDTHS = (
    "hidden_size",
    "n_embd",
    "d_model",
    "intermediate_size",
    "head_dim",
    "num_attention_heads",
    "n_head",
    "num_experts",
    "num_local_experts",
)
_LENGTHS = ("max_position_embeddings", "n_positions", "vocab_size", "image_size")


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

    `links` allows symbolic links that leave the folder; else only those that a hub's cache has, from a snapshot to its blobs.
    Raises ModelError: pickle checkpoints, no config, truncated, lying or overlapping headers, shards outside the folder, adapters,
    quantised weights, code of its own.
    """
    try:
        return _folder(path, links) if path.is_dir() else _file(path)
    except OSError as error:
        raise ModelError(
            f"{error.filename or path} cannot be read ({error.strerror}).", "Check the path and its permissions."
        ) from None


def _file(path: Path) -> Header:
    if not path.exists():
        raise ModelError(f"There is nothing at {path}.", "Check the path.")
    if path.suffix.lower() == ".gguf":
        config, tensors = read_gguf(path)
        return _header("gguf", str(config["general.architecture"]), tensors, config)
    if path.suffix.lower() in _PICKLES:
        raise _pickle(path.name)
    raise ModelError(
        f"{path.name} is not a model this program reads.", "Give a folder with config.json and *.safetensors, or a .gguf file."
    )


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
        raise ModelError(
            f"{folder} has no config.json.", "A model folder holds config.json and model.safetensors: give that folder."
        )
    if "adapter_config.json" in names:
        raise ModelError(
            f"{folder.name} is an adapter (adapter_config.json), not a whole model.",
            "Merge it into its base model and save that.",
        )
    config = read_json(_inside(folder, "config.json", links), CONFIG_LIMIT_BYTES)
    check_config(config)
    if "model.safetensors" in names:
        tensors = read_safetensors(_inside(folder, "model.safetensors", links))
    elif "model.safetensors.index.json" in names:
        tensors = _sharded(folder, links)
    else:
        _refuse_pickle(names)
        raise ModelError(
            f"{folder} has no weights.", "It needs model.safetensors, or model.safetensors.index.json and its shards."
        )
    _check_claims(config, tensors)
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
        raise ModelError(
            f"The index names a file outside the model's folder: {name[:80]!r}.",
            "Do not use this model: its index is not honest.",
        )
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{name} is missing from {folder}.", "Download the missing file.")
    allowed = {
        folder.resolve(),
        (folder.parent.parent / "blobs").resolve() if folder.parent.name == "snapshots" else folder.resolve(),
    }
    if not links and path.resolve().parent not in allowed:
        raise ModelError(f"{name} is a link to a file outside {folder}.", "Put the file itself into the folder.")
    return path


def check_config(config: dict[str, Any], name: str = "config.json") -> None:
    """Refuse a configuration that brings code, is quantised, or does not say what it is. Raises ModelError."""
    if _has_key(config, "auto_map"):
        raise ModelError(
            f"{name} has auto_map: this model wants to run Python code of its own, which is never done here.",
            "Take a version for an architecture that transformers has built in; if this is one, delete auto_map from that file.",
        )
    if _has_key(config, "quantization_config"):
        raise ModelError(
            "The weights are stored quantised, and pruning needs plain ones.", "Take the unquantised version of this model."
        )
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{name} does not say its model_type.", "A transformers model has one; save it again with save_pretrained."
        )


def _has_key(value: Any, key: str, depth: int = 0) -> bool:
    if isinstance(value, dict):
        return bool(value.get(key)) or (depth < 20 and any(_has_key(item, key, depth + 1) for item in value.values()))
    return isinstance(value, list) and depth < 20 and any(_has_key(item, key, depth + 1) for item in value[:1000])


def _check_claims(config: dict[str, Any], tensors: tuple[TensorInfo, ...]) -> None:
    """A config that claims a billion blocks would keep us building them, before any weight is found missing."""
    widest = max((size for tensor in tensors for size in tensor.shape), default=1)
    limits = {**dict.fromkeys(_DEPTHS, len(tensors)), **dict.fromkeys(_WIDTHS, 8 * widest), **dict.fromkeys(_LENGTHS, 2**27)}
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, limit in limits.items():
            if type(part.get(key)) is int and not 0 <= part[key] <= limit:
                raise ModelError(f"config.json claims {part[key]:,} for {key}, which the weights do not bear out.", AGAIN)


def _sharded(folder: Path, links: bool) -> tuple[TensorInfo, ...]:
    """The tensors of all shards, as the index assigns them."""
    index = read_json(_inside(folder, "model.safetensors.index.json", links), HEADER_LIMIT_BYTES)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelError("model.safetensors.index.json has no weight_map.", AGAIN)
    paths = [_inside(folder, file, links) for file in sorted(set(places.values()))]
    for path in paths:
        if path.suffix != ".safetensors":
            raise (
                _pickle(path.name)
                if path.suffix.lower() in _PICKLES
                else ModelError(f"{path.name} is not a safetensors shard.", AGAIN)
            )
    tensors = tuple(tensor for path in paths for tensor in read_safetensors(path) if places.get(tensor.name) == path.name)
    if len(tensors) != len(places):
        missing = sorted(set(places) - {tensor.name for tensor in tensors})[0]
        raise ModelError(f"The index speaks of {missing[:80]!r}, which its shard does not hold.", AGAIN)
    return tensors
