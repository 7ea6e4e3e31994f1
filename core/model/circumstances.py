"""What a result depends on besides the recipe and the model's weights: versions, threads, the machine's arithmetic, and what lies in the files that the
recipe reads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from core.recipe import Recipe, to_dict

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "scikit-learn", "umap-learn", "peft", "tokenizers", "datasets")


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def circumstances(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """{what, in words: how it is}. Two runs of one recipe and one model that have these alike come to the same bits."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    told = {"device": str(device), "arithmetic": f"{platform.machine()} {chip}", "threads": str(torch.get_num_threads())}
    return told | versions() | {f"the content of {source}": content for source, content in _contents(recipe)}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is otherwise, in words: threads 2 then and 1 now."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [
        name
        if name.startswith("the content of ")
        else f"{name} {before.get(name, 'unknown')} then and {now.get(name, 'unknown')} now"
        for name in changed
    ]


def _contents(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(source, hash) of every file and folder that the recipe reads. The model has its own fingerprint; built-ins are checked when they are fetched."""
    whole = to_dict(recipe, full=True)
    for source in sorted(set(_sources({name: part for name, part in whole.items() if name not in ("model", "resume")}))):
        path = Path(source).expanduser()
        if path.is_file():
            yield source, _of_file(path, path.stat().st_size, path.stat().st_mtime_ns)
        elif path.is_dir():
            yield source, _of_folder(path)


def _sources(value: Any, key: str = "") -> Iterator[str]:
    """What a recipe names under `source`, and what its methods' own parameters name (a second model)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _sources(inner, "params" if key == "params" else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _sources(inner, key)
    elif (
        isinstance(value, str)
        and key in ("source", "params")
        and value
        and not value.startswith("builtin:")
        and "\0" not in value
    ):
        yield value


@lru_cache(maxsize=64)
def _of_file(path: Path, size_bytes: int, changed_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_folder(path: Path) -> str:
    """Names, sizes and times: a folder of images or weights is too much to be read for this."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    told = "\n".join(f"{file.relative_to(path)}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}" for file in files)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
