"""Load a model safely: look at the header, see whether it fits, then read the weights. Architectures come from the installed transformers."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a busy neighbour otherwise makes a forward four times slower

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from core.errors import ModelError, PrunariumError, RecipeError, ResourceError
from core.model.anatomy import Anatomy, Layer, block_paths, read_anatomy
from core.model.depth.gone import KEY
from core.model.files.checkpoint import LazyWeights, check_finite, missing_weights, source_dtype, stored_tensors, wrong_shape
from core.model.files.header import CONFIG_LIMIT_BYTES, Header, check_config, memory_estimate, preview, read_json
from core.model.files.rebuild import rebuilt
from core.model.files.source import Location, locate
from core.model.measuring.arithmetic import fastest_dtype
from core.model.memory import available_bytes, be_frugal, check_fits

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

# What config.json may not decide: where weights come from, and which code runs them.
_NOT_THEIRS = ("transformers_weights", "fusion_config", "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
               "experts_implementation", "_experts_implementation", "_name_or_path", "name_or_path", "_commit_hash")  # fmt: skip
_NO_JSON = ("Infinity", "-Infinity", "NaN")  # numbers that JSON has no word for; transformers writes {"__float__": "Infinity"}
_AUTO = ("MODEL_FOR_MASKED_LM_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
         "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "MODEL_MAPPING")  # fmt: skip
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
_SMALLER = "Take a smaller model, compute in bfloat16, or close other programs."
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LoadedModel:
    """A model ready to be looked at and pruned: in evaluation mode, no gradients. `source_dtype`: what it was stored in, and is saved in.

    `unused`: weights of the file that the architecture has no place for. `lazy`: set where blocks are still in the file;
    `beside`: the folder that then takes those that change.
    """

    model: nn.Module
    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase | None
    location: Location
    source_dtype: torch.dtype
    device: torch.device
    name: str
    unused: tuple[str, ...] = ()
    lazy: LazyWeights | None = field(default=None, repr=False)
    beside: Path = Path("changed")

    def changed(self, index: int) -> None:
        """Say that the weights of block `index` are other ones now. A lazy model writes them down, to read them from there from now on."""
        if self.lazy is not None:
            self.lazy.rewrite(index, self.beside, self.source_dtype)

    def module(self, path: str) -> nn.Module:
        """The module at a path (a Layer's or Block's `path`)."""
        return self.model.get_submodule(path)

    @contextmanager
    def block(self, index: int, keep: bool = False) -> Iterator[nn.Module]:
        """Block `index` with its weights in memory. A lazy model reads them here and lets them go at the end, unless `keep`."""
        module = self.module(self.anatomy.blocks[index].path)
        with self._part(index, keep):
            yield module

    @contextmanager
    def holding(self, layer: Layer) -> Iterator[None]:
        """With the weights of a layer in memory."""
        with self._part(-1 if layer.block is None else layer.block, False):
            yield

    @contextmanager
    def outside(self, keep: bool = False) -> Iterator[nn.Module]:
        """The model with what is outside its blocks (embeddings, last norm, head) in memory."""
        with self._part(-1, keep):
            yield self.model

    @contextmanager
    def _part(self, part: int, keep: bool) -> Iterator[None]:
        if self.lazy is None:
            yield
            return
        inner = self.lazy.holds(part)
        self.lazy.bring(part)
        try:
            yield
        finally:
            if not keep and not inner:
                self.lazy.release(part)


def load(source: str, dtype: str = "float32", device: str = "auto", lazy: bool | None = False) -> LoadedModel:
    """Load builtin:NAME, a folder, a .gguf file or a hub id.

    dtype: float32 | bfloat16 | float16 | auto: what it computes in; auto is bfloat16 for a model of text on a processor that is measured to multiply it at
    least four times as fast as float32, else float32. device: auto | cpu | cuda | mps. lazy: leave the weights in the file until `block` or `outside`
    asks for them; None: only where they do not fit whole. Raises ModelError, ResourceError (does not fit, no network), RecipeError.
    """
    if dtype not in (*_DTYPES, "auto"):
        raise RecipeError(f"There is no dtype {dtype!r} to compute in.", f"Use one of {', '.join(_DTYPES)}, auto.")
    where, location = pick_device(device), locate(source)
    header = preview(location.path, links=location.kind == "hub")
    dtype = _fastest(header, where) if dtype == "auto" else dtype
    what = f"{location.name} in {dtype}"
    if lazy is None:
        lazy = memory_estimate(header, dtype) > available_bytes()
    if not lazy:
        check_fits(memory_estimate(header, dtype), what, _SMALLER)
    if location.kind == "gguf":
        from core.model.files.gguf_folder import converted

        location = converted(location)
        header = preview(location.path)
    config = read_config(header)
    model_class = _model_class(header, config)
    stored, unused, weights = stored_tensors(location.path, header), (), None
    with _explained(location.name):
        if lazy:
            be_frugal()
        if lazy or hasattr(config, KEY):  # built from the config, made what we made of it, and only then given its weights
            model = rebuilt(_skeleton(model_class, config, _DTYPES[dtype], where), config)
            weights = LazyWeights(model, stored, block_paths(model), where)
            if lazy:
                check_fits(weights.peak_bytes(), f"{what}, a block at a time,", _SMALLER)
            else:
                weights.bring_all()
                weights = None
        else:
            model, unused = _whole(model_class, config, stored, _DTYPES[dtype])
            model = model.to(where)
    _generation(model, location.path)
    tokenizer = read_tokenizer(location.path)
    return LoadedModel(
        model, read_anatomy(model), tokenizer, location, source_dtype(header), where, location.name, unused, weights
    )


def _fastest(header: Header, where: torch.device) -> str:
    """Images come as float32, and other devices than the processor were not measured."""
    reads = getattr(getattr(transformers, header.architecture or "", None), "main_input_name", "input_ids")
    return str(fastest_dtype()).removeprefix("torch.") if where.type == "cpu" and reads == "input_ids" else "float32"


def from_module(model: nn.Module, name: str) -> LoadedModel:
    """Any torch module as a LoadedModel, where it is. A module that is not transformers' works unstructured; `anatomy.refused` says so."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    model.eval()
    return LoadedModel(model, read_anatomy(model), None, Location(name, "module", Path()), first.dtype, first.device, name)


def pick_device(device: str) -> torch.device:
    """auto -> cuda, mps or cpu, in this order, as the machine has it. Raises ResourceError for one it has not."""
    have = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in have.items() if there))
    kind = device.partition(":")[0]
    if kind not in have:
        raise RecipeError(f"There is no device {device!r}.", "Use auto, cpu, cuda or mps.")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise RecipeError(f"There is no device {device!r}.", "Use auto, cpu, cuda or mps.") from None
    if not have[kind] or (kind == "cuda" and (found.index or 0) >= torch.cuda.device_count()):
        raise ResourceError(f"This machine has no {device}.", "Use device auto, or cpu.")
    return found


def read_config(header: Header) -> PreTrainedConfig:
    """config.json as a configuration of the installed transformers, without what a stranger may not decide. Raises ModelError."""
    kind = header.config["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"transformers {transformers.__version__} has no architecture called {str(kind)[:60]!r}.",
            "Check model_type in config.json, or use a model of a known architecture such as llama, bert or vit.",
        )
    with _explained("config.json"):
        return CONFIG_MAPPING[kind].from_dict(_stripped(header.config))


def _stripped(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"__float__"} and value["__float__"] in _NO_JSON:
        return float(value["__float__"])
    if isinstance(value, dict):
        return {key: _stripped(item) for key, item in value.items() if key not in _NOT_THEIRS}
    return [_stripped(item) for item in value] if isinstance(value, list) else value


def _model_class(header: Header, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that config.json names, if it is one of transformers' for this config; else the first of the Auto mappings that knows it."""
    named = getattr(transformers, header.architecture, None)
    if isinstance(named, type) and issubclass(named, PreTrainedModel) and isinstance(config, named.config_class or ()):
        return named
    if header.config.get("architectures"):
        raise ModelError(
            f"transformers {transformers.__version__} has no architecture called {header.architecture[:60]!r} for {config.model_type}.",
            "Check `architectures` in config.json, or use a model of a known architecture.",
        )
    for mapping in _AUTO:
        if type(config) in getattr(modeling_auto, mapping):
            return getattr(modeling_auto, mapping)[type(config)]
    raise ModelError(
        f"transformers has no model for {config.model_type}.", "Use a language model, an encoder or an image classifier."
    )


def _whole(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, stored: dict[str, Any], dtype: torch.dtype
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    # with sizes left to us to refuse, for transformers' own refusal does not say which weights it means
    model, info = model_class.from_pretrained(
        None, config=config, state_dict=stored, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True
    )
    if info["mismatched_keys"]:
        raise wrong_shape(info["mismatched_keys"])
    if info["missing_keys"]:
        raise missing_weights(list(info["missing_keys"]))
    check_finite(dict(model.named_parameters()))
    check_finite(dict(model.named_buffers()))
    return model.eval().requires_grad_(False), tuple(sorted(info["unexpected_keys"]))


def _skeleton(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The model with its parameters on the meta device and its buffers (rotary frequencies, running means) real."""
    with init_empty_weights(include_buffers=False):
        model = model_class._from_config(config, dtype=dtype)
    model.tie_weights()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else buffer.to(device)
    return model.eval().requires_grad_(False)


def _generation(model: PreTrainedModel, folder: Path) -> None:
    path = folder / "generation_config.json"
    if model.can_generate() and path.is_file():
        with _explained(path.name):
            model.generation_config = GenerationConfig.from_dict(read_json(path, CONFIG_LIMIT_BYTES))


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model folder, None where it has none. Raises ModelError where it is damaged or wants code of its own."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        check_config({"model_type": "", **read_json(settings, CONFIG_LIMIT_BYTES)}, settings.name)
    with _explained("The tokenizer"):
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """A config from a stranger can make transformers fail in any way; whatever it is becomes one sentence."""
    try:
        yield
    except PrunariumError:
        raise
    except Exception as error:
        lines = [line.strip(" .:") for line in str(error).splitlines() if line.strip(" .:")]
        reason = ": ".join(lines[:2])[:240] or type(error).__name__
        raise ModelError(
            f"{what} cannot be read ({reason}).", "Its files may be damaged, or not belong together; get the model again."
        ) from error
