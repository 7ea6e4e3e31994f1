"""Tiles in a model: whole rectangles of zeros, chosen by a score for single weights, on the activations of the pruned blocks before."""

from __future__ import annotations

import pytest
import torch

from core import catalogue
from core.errors import RecipeError
from core.events import Silent
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse, tile_size
from tests import tiny_models

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 300, (5, 12), generator=torch.Generator().manual_seed(3))


def step(**fields):
    recipe = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": {"sparsity": 0.4, **fields}}]})
    return catalogue.resolve(recipe).steps[0].prune


def plain_mask(score: torch.Tensor, size: int, share: float) -> torch.Tensor:
    """Every tile in turn, by loops."""
    tiles = [(top, left) for top in range(0, score.shape[0], size) for left in range(0, score.shape[1], size)]
    means = [float(score[top : top + size, left : left + size].double().mean()) for top, left in tiles]
    keep = torch.ones(score.shape, dtype=torch.bool)
    order = sorted(range(len(tiles)), key=lambda i: (means[i], i))
    for i in order:
        top, left = tiles[i]
        trial = keep.clone()
        trial[top : top + size, left : left + size] = False
        asked = int(share * score.numel() + 0.5)
        if abs(int((~trial).sum()) - asked) >= abs(int((~keep).sum()) - asked):
            break
        keep = trial
    return keep


@pytest.mark.parametrize("size", [5, 8, 32])  # 32 wide, 48 inner: 5 divides neither
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_the_masks_are_those_of_a_plain_reference_block_after_block(method, size):
    model, plain = tiny_models.llama(), tiny_models.llama()
    done = prune(from_module(model, "x"), step(method=method, structure=f"tiles:{size}"), lambda: IDS, 0, Silent())
    for index, block in enumerate(plain.model.layers):
        layers = [(path, layer) for path, layer in block.named_modules() if isinstance(layer, torch.nn.Linear)]
        seen = {}
        handles = [
            layer.register_forward_pre_hook(lambda m, args, p=p, seen=seen: seen.update({p: args[0]})) for p, layer in layers
        ]
        with torch.no_grad():
            plain(IDS)
        for handle in handles:
            handle.remove()
        for path, layer in layers:
            norm = (seen[path].float() ** 2).sum(1).mean(0).sqrt() if method == "wanda" else 1.0
            keep = plain_mask(layer.weight.detach().abs() * norm, size, 0.4)
            layer.weight.data *= keep
            assert torch.equal(done.masks[f"model.layers.{index}.{path}"].unpack(), keep), path
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_tiles_are_32_by_32_where_no_size_is_named():
    assert (tile_size("tiles"), tile_size("tiles:16"), tile_size("2:4")) == (32, 16, None)
    model = tiny_models.llama(hidden_size=64, intermediate_size=96)
    done = prune(from_module(model, "x"), step(method="magnitude", structure="tiles", sparsity=0.5), lambda: IDS, 0, Silent())
    mask = done.masks["model.layers.0.mlp.up_proj"].unpack()
    whole = mask.reshape(3, 32, 2, 32).transpose(1, 2).flatten(2)
    assert mask.shape == (96, 64) and (whole.all(2) | ~whole.any(2)).all() and float(mask.float().mean()) == 0.5


def test_a_recipe_refuses_what_is_no_tile():
    for structure in ("tiles:0", "tiles:x", "tiles:", "tile"):
        with pytest.raises(RecipeError, match="structure must be one of"):
            step(method="magnitude", structure=structure)
    with pytest.raises(RecipeError, match="does not work on tiles"):
        step(method="sparsegpt", structure="tiles")
    with pytest.raises(RecipeError, match="does not apply to tiles"):
        step(method="wanda", structure="tiles:16", allocation="owl")


def test_super_weights_that_are_spared_keep_their_tile():
    model = tiny_models.llama()
    model.model.layers[0].mlp.down_proj.weight.data.mul_(0.01)
    model.model.layers[0].mlp.down_proj.weight.data[3, 7] = 2.0
    model.model.layers[0].mlp.up_proj.weight.data[7] *= 200
    model.model.layers[0].mlp.gate_proj.weight.data[7] *= 200
    done = prune(from_module(model, "x"), step(method="random", structure="tiles:4", sparsity=1.0, protect=["super_weights"]),
                 lambda: IDS, 0, Silent())  # fmt: skip
    kept = done.masks["model.layers.0.mlp.down_proj"].unpack()
    assert kept[3, 7]
