"""The header of a .gguf file (llama.cpp's format, versions 2 and 3), read and checked without reading a weight. Torch-free.

A magic word, counts, then key-value pairs (which hold the whole vocabulary), then a name, shape, type and offset for each tensor. Every count
and length is checked against what is left of the file before it is believed.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import ModelError
from core.model.files.safetensors_file import AGAIN, TensorInfo

_LIMIT = 200_000  # key-value pairs, tensors
_LIST_LIMIT = 4_000_000  # entries of one list (a vocabulary has 50,000 to 300,000)
_SHOWN = 64  # lists longer than this are not kept in the preview
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9
# type number: (name, weights in a group, bytes a group)
_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip


def read_gguf(path: Path) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """(metadata without its long lists, tensors in the order of the bytes). Raises ModelError."""
    with path.open("rb") as stream:
        reader = _Reader(stream, path)
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{path.name} is not a GGUF file, whatever its name says.", AGAIN)
        version = reader.number("I")
        if version not in (2, 3):
            raise ModelError(
                f"{path.name} is GGUF of version {version}, which is not read here.", "Convert it with a current llama.cpp."
            )
        tensors, pairs = reader.number("Q"), reader.number("Q")
        if not 0 < tensors <= _LIMIT or pairs > _LIMIT:
            raise ModelError(f"{path.name} claims {tensors:,} tensors and {pairs:,} settings, which no model has.", AGAIN)
        config = {}
        for _ in range(pairs):
            key = reader.text(65_535)
            config[key] = reader.value(reader.number("I"))
        found = [reader.tensor() for _ in range(tensors)]
        start = stream.tell()
    if not isinstance(config.get("general.architecture"), str):
        raise ModelError(f"{path.name} does not say its architecture.", AGAIN)
    return config, _placed(found, start, config.get("general.alignment", 32), path)


def _placed(found: list[TensorInfo], start: int, alignment: Any, path: Path) -> tuple[TensorInfo, ...]:
    """Offsets from the beginning of the file, checked: aligned, in the file, none over another."""
    if type(alignment) is not int or not 0 < alignment <= 65_536:
        raise ModelError(f"{path.name} claims an alignment of {alignment!r}.", AGAIN)
    base = start + -start % alignment
    size_bytes, end = path.stat().st_size, base
    placed = []
    for tensor in sorted(found, key=lambda one: one.offset):
        offset = base + tensor.offset
        if offset < end or tensor.offset % alignment:
            raise ModelError(f"The header of {path.name} is wrong: the tensor {tensor.name[:80]!r} overlaps another.", AGAIN)
        end = offset + tensor.size_bytes
        if end > size_bytes:
            raise ModelError(
                f"{path.name} is cut off: the tensor {tensor.name[:80]!r} ends at byte {end:,} of {size_bytes:,}.", AGAIN
            )
        placed.append(TensorInfo(tensor.name, tensor.dtype, tensor.shape, tensor.size_bytes, path.name, offset))
    return tuple(placed)


class _Reader:
    """Reads the pieces a GGUF header is made of, never past the end of the file."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path, self._size = stream, path, path.stat().st_size

    def _left(self) -> int:
        return self._size - self._stream.tell()

    def _wrong(self, what: str) -> ModelError:
        return ModelError(f"The header of {self._path.name} is wrong: {what}.", f"{AGAIN} It is damaged or not honest.")

    def number(self, kind: str) -> Any:
        raw = self._stream.read(struct.calcsize("<" + kind))
        try:
            return struct.unpack("<" + kind, raw)[0]
        except struct.error:
            raise ModelError(f"{self._path.name} is cut off inside its header.", AGAIN) from None

    def text(self, limit: int) -> str:
        length = self.number("Q")
        if length > min(limit, self._left()):
            raise self._wrong(f"a text of {length:,} bytes")
        return self._stream.read(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text(16 * 2**20)
        if kind != _LIST or depth > 1:
            raise self._wrong(f"a setting of unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[inner])
            if count * size > self._left() or count > _LIST_LIMIT:
                raise self._wrong(f"a list of {count:,} entries")
            values: Any = struct.unpack(f"<{count}{_SCALARS[inner]}", self._stream.read(count * size))
        else:
            if count * 8 > self._left() or count > _LIST_LIMIT:
                raise self._wrong(f"a list of {count:,} entries")
            values = [self.value(inner, depth + 1) for _ in range(count)]
        return list(values) if count <= _SHOWN else f"{count} entries"

    def tensor(self) -> TensorInfo:
        name = self.text(4096)
        dimensions = self.number("I")
        if dimensions > 4:
            raise self._wrong(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in _TYPES:
            raise self._wrong(f"the tensor {name[:80]!r} is of unknown type {kind}")
        label, group, size_bytes = _TYPES[kind]
        if shape and shape[0] % group:
            raise self._wrong(f"the tensor {name[:80]!r} does not fill its groups of {group}")
        return TensorInfo(name, label, shape[::-1], math.prod(shape) // group * size_bytes, "", offset)
