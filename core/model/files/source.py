"""Where a model lies: a built-in name, a folder, a .gguf file or a hub id. Torch-free."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from core import builtins
from core.errors import ModelError, RecipeError, ResourceError
from core.model.files.safetensors_file import HEADER_LIMIT_BYTES

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")
_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer.model", "*.txt", "*.jinja")
_HUB_NOT = ("*/*", "consolidated*")  # other formats and second copies of the weights
_EDGE_BYTES = 2**20


@dataclass(frozen=True)
class Location:
    """A model's place on this machine. `name` is what to call it; `kind`: folder | gguf | hub | file (no model: refused when it is looked
    at); `revision`: of a hub id, else empty."""

    name: str
    kind: str
    path: Path
    revision: str = ""


def locate(source: str) -> Location:
    """builtin:NAME | folder | file.gguf | hub id[@revision] -> where it lies, fetched first where it is not here yet.

    An existing folder wins over a hub id of the same spelling. Raises RecipeError (unknown built-in), ModelError (nothing there, not a
    model), ResourceError (no network).
    """
    if source.startswith("builtin:"):
        path = builtins.model_path(source)
        return Location(source, "gguf" if path.suffix == ".gguf" else "folder", path)
    path = Path(source).expanduser()
    if path.is_dir():
        return Location(path.resolve().name, "folder", path.resolve())
    if path.is_file():
        return Location(
            path.stem if path.suffix == ".gguf" else path.name,
            "gguf" if path.suffix.lower() == ".gguf" else "file",
            path.resolve(),
        )
    if _HUB_ID.match(source) and path.suffix != ".gguf":
        return _from_hub(source)
    if source in builtins.BUILTINS:
        raise RecipeError(f"There is no folder called {source}.", f"The built-in model is called builtin:{source}.")
    raise ModelError(
        f"There is no model at {source}.", "Give builtin:NAME, a folder, a .gguf file, or a hub id such as owner/name@revision."
    )


def _from_hub(source: str) -> Location:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = source.partition("@")
    where = {"repo_id": name, "revision": revision or None, "allow_patterns": list(_HUB_FILES), "ignore_patterns": list(_HUB_NOT)}
    try:
        path = snapshot_download(**where)
    except GatedRepoError:
        raise ModelError(
            f"{name} asks for its terms to be accepted first.",
            "Accept them on its page, log in with `hf auth login`, and try again.",
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise ModelError(
            f"The hub has no model {source}.", "Check the owner, the name and the revision; there is no such folder here either."
        ) from None
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise ResourceError(
            f"{source} is not on this machine, and the hub cannot be reached ({type(error).__name__}).",
            "Check the network, or use a folder, a .gguf file or a built-in model such as builtin:tiny-llama.",
        ) from error
    return Location(name, "hub", Path(path), revision)


def fingerprint(location: Location) -> str:
    """A content hash of the model, 64 hex digits: sha256 over, for config.json and each weights file in order of name, its name, its size,
    and its first and last MiB (for safetensors: the header too, whole). Cheap for any size; a change in the middle of a big file alone
    is not seen.
    """
    found = hashlib.sha256()
    folder = location.path
    files = [folder] if folder.is_file() else [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    for path in files:
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as stream:
            first = stream.read(_EDGE_BYTES)
            found.update(first)
            if path.suffix == ".safetensors" and size > _EDGE_BYTES:
                header = min(int.from_bytes(first[:8], "little"), HEADER_LIMIT_BYTES) + 8
                found.update(stream.read(max(header - _EDGE_BYTES, 0)))
            if size > 2 * _EDGE_BYTES:
                stream.seek(-_EDGE_BYTES, 2)
                found.update(stream.read(_EDGE_BYTES))
    return found.hexdigest()
