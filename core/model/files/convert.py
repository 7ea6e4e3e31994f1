"""Turn a GGUF file into a folder of safetensors that loads in a second. `python -m core.model.files.convert FILE.gguf FOLDER`."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see docs/decisions

import shutil
import sys
import tempfile
from pathlib import Path

from core.command import answer
from core.errors import ModelError, ResourceError

_CARD = """# {name}

Converted from `{file}` by Prunarium. The weights were stored quantised ({kind}) and have been **dequantised to float32**: each takes one of
few values within its group, so magnitudes tie often, and the quality is that of the quantised file, not of the original training run.
The licence is that of the original weights.
"""


def convert_gguf(gguf: Path, folder: Path) -> Path:
    """Load a causal language model from a .gguf file in float32, save it with its tokenizer and a card as `folder`, and return `folder`.

    The folder appears whole or not at all. Raises ModelError where the file cannot be read as a model,
    ResourceError where the disk has no room.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except MemoryError:
        raise
    except Exception as error:  # the readers behind this raise anything on a broken file, a bare Exception too
        raise ModelError(
            f"{gguf.name} cannot be read as a language model ({error}).", "Use a complete GGUF file of a known architecture."
        ) from error
    _forget_quantisation(model)
    _check_room(folder.parent, model.get_memory_footprint())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new = Path(scratch) / folder.name
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        _, dot, kind = gguf.stem.rpartition(".")
        (new / "README.md").write_text(_CARD.format(name=gguf.stem, file=gguf.name, kind=kind if dot else "GGUF"))
        if folder.exists():
            shutil.rmtree(folder)
        new.replace(folder)
    return folder


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.1:
        raise ResourceError(
            f"The converted model needs {needed_bytes / 1e6:.0f} MB of disk and {folder} has {free / 1e6:.0f} MB.",
            "Make room, or use the .gguf file itself.",
        )


def _forget_quantisation(model: object) -> None:
    """The weights are plain float32 now; transformers would otherwise write that they are still quantised, and refuse to load them."""
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def main(arguments: list[str]) -> int:
    """Convert `FILE.gguf FOLDER`. Returns 0; 1 when it cannot be read; 2 when called wrongly."""
    return answer(
        lambda: convert_gguf(Path(arguments[0]), Path(arguments[1])),
        "python -m core.model.files.convert FILE.gguf FOLDER",
        understood=len(arguments) == 2,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
