"""What there is to prune is found from modules and shapes, in every family that transformers has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.errors import ModelError
from core.model.anatomy import read_anatomy
from core.recipe import STRUCTURES
from tests.model_folders import tiny

LLAMA_LIKE = ("query", "key", "value", "output", "gate", "up", "down")
EXPECTED = {  # name: (kind, blocks, (query heads, kv heads, head dim), roles of a block in the order of its modules, tied pairs)
    "llama": ("decoder", 2, (4, 2, 8), LLAMA_LIKE, 0),
    "mistral": ("decoder", 2, (4, 2, 8), LLAMA_LIKE, 0),
    "qwen2": ("decoder", 2, (4, 2, 8), LLAMA_LIKE, 1),
    "gemma2": ("decoder", 2, (4, 2, 16), LLAMA_LIKE, 1),
    "phi3": ("decoder", 2, (4, 2, 8), ("output", "qkv", "mlp", "down"), 0),
    "gpt2": ("decoder", 2, (4, 4, 8), ("qkv", "output", "up", "down"), 1),
    "opt": ("decoder", 2, (4, 4, 8), ("key", "value", "query", "output", "up", "down"), 1),
    "gpt_neox": ("decoder", 2, (4, 4, 8), ("qkv", "output", "up", "down"), 0),
    "falcon": ("decoder", 2, (4, 1, 8), ("qkv", "output", "up", "down"), 1),
    "mixtral": ("decoder", 2, (4, 2, 8), ("query", "key", "value", "output"), 0),
    "bert": ("encoder", 2, (4, 4, 8), ("query", "key", "value", "output", "up", "down"), 2),
    "roberta": ("encoder", 2, (4, 4, 8), ("query", "key", "value", "output", "up", "down"), 2),
    "vit": ("image_classifier", 2, (4, 4, 8), ("query", "key", "value", "output", "up", "down"), 0),
    "resnet": ("image_classifier", 4, None, ("conv", "conv"), 0),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", EXPECTED)
def test_blocks_heads_roles_and_ties_are_found_in(name: str):
    kind, blocks, heads, roles, tied = EXPECTED[name]
    anatomy = read_anatomy(tiny(name))
    attention = anatomy.blocks[0].attention
    assert (anatomy.kind, len(anatomy.blocks), len(anatomy.tied)) == (kind, blocks, tied)
    assert (attention and (attention.query_heads, attention.kv_heads, attention.head_dim)) == heads
    assert tuple(layer.role for layer in anatomy.blocks[0].layers) == roles


@pytest.mark.quick
@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_is_counted_once_in(name: str):
    model = tiny(name)
    anatomy = read_anatomy(model)
    assert anatomy.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(block.parameters for block in anatomy.blocks) < anatomy.parameters
    layers = {layer.path for layer in anatomy.layers} | {layer.path for layer in anatomy.outside}
    assert layers.isdisjoint({*anatomy.norms, *anatomy.embeddings})


@pytest.mark.quick
def test_a_layer_is_called_by_its_block_and_its_place_in_it():
    anatomy = read_anatomy(tiny("llama"))
    layer = anatomy.layer("blocks.1.mlp.up_proj")
    assert (layer.path, layer.block, layer.shape, layer.kind) == ("model.layers.1.mlp.up_proj", 1, (64, 32), "linear")
    assert anatomy.blocks[1].norms == ("model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm")
    assert (anatomy.norms, anatomy.embeddings) == (("model.norm",), ("model.embed_tokens",))
    assert [layer.name for layer in anatomy.outside] == ["lm_head"]
    assert (anatomy.hidden, anatomy.context, anatomy.family) == (32, 64, "llama")


@pytest.mark.quick
def test_the_shape_is_out_by_in_even_where_the_weight_is_stored_the_other_way_round():
    layer = read_anatomy(tiny("gpt2")).layer("blocks.0.mlp.c_fc")
    assert (layer.kind, layer.shape) == ("conv1d", (128, 32))


@pytest.mark.quick
def test_an_unknown_layer_is_refused_with_the_nearest_name():
    with pytest.raises(ModelError, match=r"no layer called blocks.0.mlp.up. Did you mean blocks.0.mlp.up_proj"):
        read_anatomy(tiny("llama")).layer("blocks.0.mlp.up")


@pytest.mark.quick
def test_a_model_on_the_meta_device_has_the_same_anatomy():
    with torch.device("meta"):
        shapes_only = tiny("qwen2")
    shapes_only.tie_weights()
    assert read_anatomy(shapes_only) == read_anatomy(tiny("qwen2"))


@pytest.mark.quick
def test_names_are_a_last_resort_and_shapes_come_first():
    """Four layers of one class without telling names: with grouped queries the shapes alone say which is which, but for key and value."""
    model = tiny("llama")
    for block in model.model.layers:
        attention = block.self_attn
        for old, new in (("q_proj", "a"), ("k_proj", "b"), ("v_proj", "c"), ("o_proj", "d")):
            setattr(attention, new, getattr(attention, old))
            delattr(attention, old)
    roles = {layer.path.rpartition(".")[2]: layer.role for layer in read_anatomy(model).blocks[0].layers}
    assert {key: roles[key] for key in "abcd"} == {"a": "query", "b": "key", "c": "value", "d": "output"}


@pytest.mark.quick
def test_heads_that_were_taken_out_of_one_block_are_seen_in_its_shapes():
    model = tiny("gpt_neox")
    attention = model.gpt_neox.layers[1].attention
    attention.query_key_value, attention.dense = nn.Linear(32, 3 * 16), nn.Linear(16, 32)
    blocks = read_anatomy(model).blocks
    assert [block.attention.query_heads for block in blocks] == [4, 2]


@pytest.mark.quick
def test_a_plain_module_is_pruned_unstructured_and_says_what_it_cannot_do():
    anatomy = read_anatomy(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert (anatomy.kind, anatomy.blocks) == ("module", ())
    assert [(layer.name, layer.shape) for layer in anatomy.layers] == [("0", (8, 4)), ("2", (2, 8))]
    assert set(STRUCTURES) - set(anatomy.refused) == {"unstructured", "N:M", "tiles"}
    assert all(reason.endswith(".") and len(reason) > 20 for reason in anatomy.refused.values())


@pytest.mark.quick
def test_a_single_layer_is_a_model_too():
    anatomy = read_anatomy(nn.Linear(4, 8))
    assert [(layer.name, layer.path) for layer in anatomy.layers] == [("(model)", "")]


@pytest.mark.quick
def test_a_module_without_layers_is_refused():
    with pytest.raises(ModelError, match="nothing in it that can be pruned"):
        read_anatomy(nn.LayerNorm(4))


@pytest.mark.quick
def test_an_encoder_with_a_decoder_is_taken_as_a_module():
    anatomy = read_anatomy(tiny("bart"))
    assert (anatomy.kind, anatomy.blocks) == ("module", ())
    assert "heads" in anatomy.refused


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("llama", {"channels", "experts"}),
        ("mixtral", {"channels", "neurons", "heads_and_neurons", "mixed", "slices"}),
        ("bert", {"channels", "experts", "query_heads", "mixed", "width", "slices", "vocabulary"}),
        (
            "resnet",
            {
                "blocks",
                "sublayers",
                "heads",
                "neurons",
                "query_heads",
                "heads_and_neurons",
                "mixed",
                "width",
                "slices",
                "experts",
                "vocabulary",
            },
        ),
    ],
)
def test_what_a_model_refuses(name: str, refused: set[str]):
    assert set(read_anatomy(tiny(name)).refused) == refused


@pytest.mark.quick
def test_experts_side_by_side_are_not_taken_for_blocks_in_a_row():
    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    model = tiny("llama")
    for block in model.model.layers:
        block.mlp = nn.ModuleList([Expert() for _ in range(8)])
    anatomy = read_anatomy(model)
    assert [block.path for block in anatomy.blocks] == ["model.layers.0", "model.layers.1"]
    assert len(anatomy.blocks[0].layers) == 4 + 16
