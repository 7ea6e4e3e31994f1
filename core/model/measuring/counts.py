"""What a model has and costs on paper: parameters, non-zeros, bytes when saved, floating-point operations. Nothing here runs the model,
except that an image classifier sees one blank image, because the work of a convolution depends on the size of what it sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.model.anatomy import PRUNABLE, Attention, Block
from core.model.inputs.pixels import pixel_shape
from core.model.loading import LoadedModel

_SAFETENSORS_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """`parameters`: each weight once, however many names it has (a tied head is not counted again). `size_bytes`: on disk, see `counts`."""

    parameters: int
    nonzero: int
    size_bytes: int


def counts(model: nn.Module, dtype: torch.dtype | None = None) -> Counts:
    """Parameters, those that are not zero, and the bytes of the safetensors file that saving as `dtype` (left out: as it is) makes.

    The bytes are those of one file with its header; shards, or a family that saves its tensors under other names, make some hundred bytes of
    difference. Zeros take as much room as any other number, so unstructured pruning does not change size_bytes.
    """
    parameters = [parameter for _, parameter in unique(model.named_parameters())]
    return Counts(
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero=sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
        size_bytes=size_when_saved_bytes(model, dtype),
    )


def check_in_memory(loaded: LoadedModel) -> None:
    """Raises ModelError for a model opened block by block: what looks at all of it needs all of it."""
    if loaded.lazy is not None:
        raise ModelError(f"The weights of {loaded.name} are still in its file.", "Load it whole to measure, train or save it.")


def unique(named: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor under its first name only: names that share one memory are one tensor."""
    seen = set()
    for name, tensor in named:
        key = (
            (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
            if tensor.device.type != "meta" and tensor.numel()
            else id(tensor)
        )
        if key not in seen:
            seen.add(key)
            yield name, tensor


def size_when_saved_bytes(model: nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of one safetensors file with the model's unique tensors, floating ones as `dtype`: 8 + header (padded to 8) + data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in unique(iter(model.state_dict().items())):
        kept = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        end = offset + tensor.numel() * kept.itemsize
        header[name] = {"dtype": _SAFETENSORS_NAMES.get(kept, "F32"), "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-text // 8) * 8 + offset


def saved_bytes(folder: Path) -> int:
    """Bytes on disk of the weights in a saved model's folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def flops_per_token(loaded: LoadedModel, *, nonzero: bool = False, context: int = 512) -> float | None:
    """Floating-point operations of one forward pass, a multiplication and an addition counted as two; `nonzero` skips weights that are zero.

    Language models: for each token, 2 x the weights of every matrix product (linear layers with the head, tied or not; of a mixture of experts the
    share of experts that a token visits) + the attention scores and sums: 2 x 2 x heads x head_dim x keys a block, where a token of a causal
    model sees (context + 1) / 2 keys on average, and one of an encoder sees `context`. Norms, activations and softmax (under 1 %) are left out.
    Image classifiers: for one image of the size that the config names. Other modules: None, as nobody knows what they read.

    With `nonzero` this is what a kernel that skips every zero would do. Today's dense kernels do not: see latency.
    """
    kind = loaded.anatomy.kind
    if kind == "image_classifier":
        return _flops_of_image(loaded, nonzero)
    if kind not in ("decoder", "encoder"):
        return None
    keys = keys_seen(kind, context)
    attention = sum(attention_flops(block.attention, 1, keys) for block in loaded.anatomy.blocks if block.attention is not None)
    return 2.0 * weights_a_token(loaded.model, nonzero) + attention


def _size(weight: Tensor, nonzero: bool) -> int:
    return int(torch.count_nonzero(weight)) if nonzero else weight.numel()


def weights_a_token(model: nn.Module, nonzero: bool = False, whole: nn.Module | None = None) -> float:
    """Weights that a token is multiplied by: of linear layers, of routers (a leaf that holds its matrix itself), of visited experts.

    whole: the model that a part (`model`) belongs to; its config says how many experts a token visits.
    """
    total, visited = 0.0, _share_of_experts(whole or model)
    for module in model.modules():
        if isinstance(module, PRUNABLE):
            total += _size(module.weight, nonzero)
        elif not isinstance(module, nn.Embedding):
            own = module.named_parameters(recurse=False)
            total += sum(_size(p, nonzero) * (visited if p.ndim == 3 else 1) for name, p in own if _multiplies(name, p))
    return total


def _multiplies(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 3 or (parameter.ndim == 2 and name == "weight")


def _share_of_experts(model: nn.Module) -> float:
    """Experts a token visits / experts there are, for models that keep all experts of a block in one three-dimensional weight."""
    config = getattr(model, "config", None)
    there_are = next(
        (n for key in ("num_local_experts", "num_experts", "n_routed_experts") if (n := getattr(config, key, None))), 1
    )
    return getattr(config, "num_experts_per_tok", there_are) / there_are


def _flops_of_image(loaded: LoadedModel, nonzero: bool) -> float:
    """The weights of a layer are applied once for each position of its output; attention as for text."""
    places = positions(loaded)
    total = sum(2.0 * _size(module.weight, nonzero) * count for module, count in places.items())
    for block in loaded.anatomy.blocks:
        if block.attention is not None:
            total += attention_flops(block.attention, patches(loaded, block, places), patches(loaded, block, places))
    return total


def attention_flops(attention: Attention, queries: float, keys: float) -> float:
    """Operations of an attention's scores and sums: each query token looks at `keys` of them, with each head."""
    return 4.0 * attention.query_heads * attention.head_dim * queries * keys


def positions(loaded: LoadedModel) -> dict[nn.Module, int]:
    """{layer: how often its weights are applied to one blank image}, counted in one forward."""
    places: dict[nn.Module, int] = {}

    def see(module: nn.Module, _: object, output: Tensor) -> None:
        flat = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        places[module] = output[0, 0].numel() if flat else output.numel() // output.shape[-1]

    hooks = [module.register_forward_hook(see) for module in loaded.model.modules() if isinstance(module, PRUNABLE)]
    try:
        with torch.no_grad():
            loaded.model(blank_image(loaded))
    finally:
        for hook in hooks:
            hook.remove()
    return places


def patches(loaded: LoadedModel, block: Block, places: dict[nn.Module, int]) -> int:
    """How many tokens a block of an image classifier sees."""
    return max(places.get(loaded.module(layer.path), 0) for layer in block.layers)


def keys_seen(kind: str, context: int) -> float:
    """Keys that a token looks at: a causal model's (context + 1) / 2 on average, an encoder's all."""
    return (context + 1) / 2 if kind == "decoder" else float(context)


def kv_bytes(loaded: LoadedModel, tokens: int = 1, batch: int = 1) -> int:
    """Bytes of keys and values that a decoder keeps for so many tokens, in the dtype that it is saved in: 2 x key-value heads x head_dim a block and token.
    0 where nothing is cached; a sliding window's limit is left out."""
    if loaded.anatomy.kind != "decoder":
        return 0
    heads = sum(block.attention.kv_heads * block.attention.head_dim for block in loaded.anatomy.blocks if block.attention)
    return 2 * heads * loaded.source_dtype.itemsize * tokens * batch


def blank_image(loaded: LoadedModel, batch: int = 1) -> Tensor | None:
    """Zeros (batch, channels, height, width) of the size that the model's config names (224 where it names none); None for other models."""
    if loaded.anatomy.kind != "image_classifier":
        return None
    first = next(loaded.model.parameters())
    return torch.zeros(batch, *pixel_shape(loaded.model.config), device=first.device, dtype=first.dtype)
