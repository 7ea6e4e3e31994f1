"""A reconstruct step: refit the layers of a pruned model to what the dense one gives, block by block, on the calibration text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError, RecipeError
from core.events import Watcher
from core.method import Method, get
from core.model.anatomy import Block, Layer, read_anatomy
from core.model.loading import LoadedModel, load
from core.model.masks import PackedMask
from core.model.observe import matrix
from core.model.reconstructing.pairs import Seen, see, side_by_side
from core.model.reconstructing.refit import Refit
from core.model.width.narrow import add_bias
from core.model.width.widths import settle
from core.recipe import Reconstruct

STAGE = "reconstruct"
OUTPUTS = ("output", "down")  # the last layer of an attention and of an MLP: what they write, the stream reads
_NO_MASK = "Prune single weights before it, or use least_squares."
_LATER = "Put the reconstruct step before that one."


@dataclass
class Rebuilt:
    """masks: those that are others now. layers: {name: (error before, error after)}, shares of the wanted output's energy. added: biases that are new."""

    masks: dict[str, PackedMask] = field(default_factory=dict)
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    added: int = 0

    def said(self) -> dict[str, Any]:
        before, after = (sum(pair[i] for pair in self.layers.values()) / max(len(self.layers), 1) for i in (0, 1))
        rows = [{"name": name, "error_before": a, "error_after": b} for name, (a, b) in self.layers.items()]
        return {"refitted": rows, "output_error_before": before, "output_error_after": after, "biases_added": self.added}


def reconstruct(
    loaded: LoadedModel, step: Reconstruct, masks: Mapping[str, PackedMask], source: Callable[[], LoadedModel], kept: Sequence[int],
    inputs: Callable[[], Tensor], watcher: Watcher, put_back: bool = True,
) -> Rebuilt:  # fmt: skip
    """Carry out the step on the model in memory. masks: {module path: mask}; source: opens the dense model; kept: which of its blocks are left.

    Zeros stay zero (asserted); a method that exchanges them keeps their number in each layer. A step that fails leaves the model as it was, with
    `put_back`, whose price is a copy of the layers that are refitted. Raises ModelError, RecipeError.
    """
    method = get("reconstruction", step.method)
    chosen = layers_of(loaded, method, masks)
    dense = source()
    _check_alike(loaded, dense, method, chosen, kept)
    modules = [loaded.module(layer.path) for layer in chosen] if put_back else []
    before = [(module, module.weight.detach().clone(), module.bias) for module in modules]
    try:
        return _reconstructed(loaded, method, step, masks, chosen, dense, kept, inputs(), watcher)
    except BaseException:
        for module, weight, bias in before:
            with torch.no_grad():
                module.weight.copy_(weight)
            module.bias = bias
        raise


def check_reconstruct(loaded: LoadedModel, step: Reconstruct) -> None:
    """Refuse, before anything is measured, a reconstruction that this model cannot have. Raises ModelError, RecipeError."""
    method = get("reconstruction", step.method)
    _check_blocks(loaded)
    _check_in_a_folder(loaded)
    if loaded.lazy is not None:
        raise ModelError(f"{loaded.name} is read block by block, and a reconstruction needs it whole in memory.",
                         "Leave the reconstruct step out, or close other programs.")  # fmt: skip
    if method.extra["layers"] != "masked":
        layers_of(loaded, method, {})


def layers_of(loaded: LoadedModel, method: Method, masks: Mapping[str, PackedMask]) -> tuple[Layer, ...]:
    """The layers that a reconstruction refits. Raises ModelError, RecipeError where there are none."""
    _check_blocks(loaded)
    if method.extra["layers"] == "outputs":
        chosen = tuple(layer for layer in loaded.anatomy.layers if layer.role in OUTPUTS)
        if not chosen:
            raise ModelError(
                f"Which layers of {type(loaded.model).__name__} write to the stream is not known.",
                "Use admm or sparsegpt_update.",
            )
        return chosen
    chosen = tuple(layer for layer in loaded.anatomy.layers if layer.path in masks)
    if not chosen:
        raise RecipeError(f"{method.card.name} refits layers under a mask, and no step before it has left one.", _NO_MASK)
    return chosen


def _check_blocks(loaded: LoadedModel) -> None:
    if not loaded.anatomy.blocks:
        raise ModelError(
            "This model is no chain of blocks, and a reconstruction goes block by block.",
            "Leave the reconstruct step out for it.",
        )


def _check_in_a_folder(loaded: LoadedModel) -> None:
    if loaded.location.kind == "module":
        raise ModelError("A reconstruction compares with the dense model, which must be in a folder to be read again.",
                         "Save the model first, and name its folder.")  # fmt: skip


def _check_alike(loaded: LoadedModel, dense: LoadedModel, method: Method, chosen: Sequence[Layer], kept: Sequence[int]) -> None:
    """Raise ModelError where the dense model cannot say what these layers should give."""
    if dense.tokenizer is not None and loaded.tokenizer is not None and len(dense.tokenizer) != len(loaded.tokenizer):
        raise ModelError(
            "The pruned model reads other tokens than the dense one, so the two cannot be held side by side.", _LATER
        )
    for layer in chosen:
        its = dense.module(_dense_path(loaded, dense, layer, kept)).weight.shape
        mine = loaded.module(layer.path).weight.shape
        if (its != mine) if method.extra["layers"] == "masked" else (_rows(layer, its) != _rows(layer, mine)):
            raise ModelError(f"{layer.name} has another shape than in the dense model ({_by(mine)}, not {_by(its)}).",
                             _LATER if method.extra["layers"] != "masked" else "Use least_squares or bias_compensation.")  # fmt: skip


def _rows(layer: Layer, shape: torch.Size) -> int:
    return shape[1] if layer.kind == "conv1d" else shape[0]


def _by(shape: torch.Size) -> str:
    return " by ".join(map(str, shape))


def _dense_path(loaded: LoadedModel, dense: LoadedModel, layer: Layer, kept: Sequence[int]) -> str:
    mine, its = loaded.anatomy.blocks[layer.block].path, dense.anatomy.blocks[kept[layer.block]].path
    return its + layer.path.removeprefix(mine)


def _reconstructed(
    loaded: LoadedModel, method: Method, step: Reconstruct, masks: Mapping[str, PackedMask], chosen: Sequence[Layer], dense: LoadedModel,
    kept: Sequence[int], inputs: Tensor, watcher: Watcher,
) -> Rebuilt:  # fmt: skip
    done = Rebuilt()
    beside = dense if method.extra["targets"] == "dense" else None
    for block, here, other in side_by_side(loaded, beside, kept, inputs, watcher, STAGE):
        mine = [layer for layer in chosen if layer.block == block.index]
        for part in _rounds(method, block, mine):
            wanted = _dense_weights(loaded, dense, part, kept) if method.extra["layers"] == "masked" else {}
            seen = see(part, here, other, wanted, watcher)
            for layer in part:
                _refit(
                    loaded, method, step, masks.get(layer.path), layer, seen[layer.name], wanted.get(layer.name), done, watcher
                )
        if mine:
            loaded.changed(block.index)
    if done.added:
        settle(loaded.model)
        loaded.anatomy = read_anatomy(loaded.model)
    return done


def _rounds(method: Method, block: Block, layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers that are refitted on one pass. What an attention writes is put right before what the MLP reads is looked at."""
    if method.extra["layers"] == "masked":
        return [list(layers)] if layers else []
    return [[layer] for layer in layers]


def _dense_weights(loaded: LoadedModel, dense: LoadedModel, layers: Sequence[Layer], kept: Sequence[int]) -> dict[str, Tensor]:
    """{layer name: the dense weight, (out, in) float32}, read from the file for this block alone where the dense model is still there."""
    with dense.block(kept[layers[0].block]):
        return {
            layer.name: matrix(layer, dense.module(_dense_path(loaded, dense, layer, kept)).weight.detach()).float().clone()
            for layer in layers
        }


@torch.no_grad()
def _refit(
    loaded: LoadedModel, method: Method, step: Reconstruct, mask: PackedMask | None, layer: Layer, seen: Seen, dense: Tensor | None,
    done: Rebuilt, watcher: Watcher,
) -> None:  # fmt: skip
    module = loaded.module(layer.path)
    flat = matrix(layer, module.weight.data)
    keep = flat != 0  # a zero that an earlier run has left is one, whoever has its mask
    if mask is not None:
        keep &= _as_matrix(layer, mask.unpack().to(flat.device), flat.shape)
    bias, zeros = _bias(module), int((~keep).sum())
    before = seen.error(flat.float(), bias)
    have = {"weight": flat.float(), "keep": keep, "dense_weight": dense, "seen": seen, "bias": bias, "watcher": watcher}
    new: Refit = method(have, step.params)
    _check_finite(new, flat.dtype, layer.name)
    if new.keep is not None:
        keep = new.keep.to(keep.device)
        done.masks[layer.path] = PackedMask.of(_as_stored(layer, keep, module.weight.shape))
    back = int(torch.count_nonzero(new.weight[~keep.to(new.weight.device)]))
    if back or int((~keep).sum()) != zeros:
        raise ModelError(f"{method.card.name} brought back {back} pruned weights of {layer.name}.",
                         "This is a fault of the reconstruction; use another.")  # fmt: skip
    flat.copy_(new.weight)
    if new.bias is not None:
        done.added += module.bias is None
        add_bias(module, new.bias)
    done.layers[layer.name] = (before, seen.error(matrix(layer, module.weight.data).float(), _bias(module)))


def _check_finite(new: Refit, dtype: torch.dtype, name: str) -> None:
    for part in (new.weight, new.bias):
        if part is not None and not torch.isfinite(part.to(dtype)).all():
            raise ModelError(f"The refitted weights of {name} are not all finite numbers.",
                             "Check the calibration text, compute in float32, or leave the reconstruct step out.")  # fmt: skip


def _bias(module: nn.Module) -> Tensor | None:
    return None if getattr(module, "bias", None) is None else module.bias.detach().float()


def _as_matrix(layer: Layer, mask: Tensor, shape: torch.Size) -> Tensor:
    return mask.T if layer.kind == "conv1d" else mask.reshape(shape)


def _as_stored(layer: Layer, keep: Tensor, shape: torch.Size) -> Tensor:
    return (keep.T if layer.kind == "conv1d" else keep.reshape(shape)).contiguous()


def opener(loaded: LoadedModel) -> Callable[[], LoadedModel]:
    """Opens the dense model that a run began with, its weights left in the file until they are asked for."""

    def opened() -> LoadedModel:
        _check_in_a_folder(loaded)
        dtype = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
        return load(str(loaded.location.path), dtype=dtype, device=str(loaded.device), lazy=True)

    return opened
