"""The header of one .safetensors file, read and checked without reading a weight. Torch-free.

The file is eight bytes of length, a JSON object that names each tensor with its dtype, shape and place, and the bytes of the tensors.
Every claim is checked against the size of the file, in Python's unbounded integers, before anything is allocated for it.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ModelError

HEADER_LIMIT_BYTES = 32 * 2**20  # a shard with 100,000 tensors needs about 12 MB
DIMENSIONS_LIMIT = 8
ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
AGAIN = "Download or copy the file again."


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its header describes it. `offset`: where its bytes begin in `file` (a name inside the model's folder)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: str = ""
    offset: int = 0


def read_safetensors(path: Path) -> tuple[TensorInfo, ...]:
    """The checked header of one .safetensors file, in the order of the bytes. Raises ModelError; reads no weight."""
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise ModelError(f"{path.name} is cut off: it has only {size_bytes} bytes.", AGAIN)
        length = struct.unpack("<Q", prefix)[0]
        if length > HEADER_LIMIT_BYTES:
            raise ModelError(
                f"{path.name} claims a header of {length:,} bytes, which no model needs.",
                f"{AGAIN} It is damaged or not honest.",
            )
        if length > size_bytes - 8:
            raise ModelError(
                f"{path.name} is cut off: its header alone needs {length:,} bytes, the file has {size_bytes:,}.", AGAIN
            )
        entries = _json(stream.read(length), f"the header of {path.name}")
    entries.pop("__metadata__", None)
    if not entries:
        raise ModelError(f"{path.name} holds no tensors.", AGAIN)
    data = size_bytes - 8 - length
    found = sorted(
        (_entry(name, value, path.name, 8 + length) for name, value in entries.items()), key=lambda t: (t.offset, t.size_bytes)
    )
    _check_layout(found, path.name, 8 + length, data)
    return tuple(found)


def _entry(name: str, value: Any, file: str, start: int) -> TensorInfo:
    """One header entry, checked on its own: a known dtype, whole sizes, and as many bytes as its shape needs."""
    lie = ModelError(f"The header of {file} is wrong about the tensor {name[:80]!r}.", f"{AGAIN} It is damaged or not honest.")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise lie
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not _whole(shape) or len(shape) > DIMENSIONS_LIMIT or not _whole(offsets) or len(offsets) != 2:
        raise lie
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ModelError(
            f"The tensor {name[:80]!r} in {file} is stored as {str(dtype)[:20]!r}, which is not read here.",
            "Take a plain version.",
        )
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
            raise ModelError(
                f"The header of {file} is wrong: the tensor {tensor.name[:80]!r} {what}.",
                f"{AGAIN} It is damaged or not honest.",
            )
        end += tensor.size_bytes
    if end - start != data_bytes:
        what = "is cut off" if end - start > data_bytes else "has bytes that belong to no tensor"
        raise ModelError(
            f"{file} {what}: its header speaks of {end - start:,} bytes of weights, the file has {data_bytes:,}.", AGAIN
        )


def read_json(path: Path, limit_bytes: int) -> dict[str, Any]:
    """A JSON object from a file of at most `limit_bytes`. Raises ModelError."""
    if path.stat().st_size > limit_bytes:
        raise ModelError(f"{path.name} has {path.stat().st_size:,} bytes, far more than such a file needs.", AGAIN)
    return _json(path.read_bytes(), path.name)


def _json(raw: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ModelError(f"{name} names something twice.", AGAIN)
        return dict(pairs)

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise ModelError(f"{name} is damaged: it is not valid JSON.", AGAIN) from None
    if not isinstance(value, dict):
        raise ModelError(f"{name} is damaged: it is not a JSON object.", AGAIN)
    return value
