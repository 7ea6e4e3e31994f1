"""SliceGPT against a plain reference: the dense model, nothing turned or folded, whose stream is projected after every part."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from core.errors import ModelError, RecipeError
from core.events import Silent
from core.model import blocks
from core.model.depth.gone import KEY
from core.model.files import export
from core.model.files.card import readme
from core.model.loading import from_module, load
from core.model.measuring.counts import counts, flops_per_token
from core.model.pruning.step import prune
from core.recipe import Prune
from tests import tiny_models
from tests.model_folders import TEXT, edit_config, tiny

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 96, (7, 12), generator=torch.Generator().manual_seed(3))
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
GROUPS = {"each norm": lambda norm: norm, "each block": lambda norm: norm // 2, "one": lambda norm: 0}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Three sequences a batch, so that the stream passes in more than one."""
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 36)


def build(family: str = "llama", **changes):
    """All parameters random, norm scales and biases too; an epsilon large enough to be seen where it is wrong."""
    torch.manual_seed(0)
    changes = {"rms_norm_eps": 0.01, **changes}
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{"num_key_value_heads": 2, "head_dim": 16, **TEXT, **changes})).eval()
    else:
        model = tiny(family, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.requires_grad_(False)


def cut(model, share, bases="each norm", watcher=None, **fields):
    step = Prune(**{"method": "slicegpt", "structure": "slices", "sparsity": share, "params": {"bases": bases}, **fields})
    return prune(from_module(model, "tiny"), step, lambda: IDS, 0, watcher or Silent())


def said(model, ids=IDS):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def plain_projections(model, share, bases):
    """For each norm the projection onto the axes kept, from whole forwards with hooks, a token at a time, in numpy."""
    norms = [norm for block in model.model.layers for norm in (block.input_layernorm, block.post_attention_layernorm)]
    norms.append(model.model.norm)
    seen = [[] for _ in norms]
    handles = [norm.register_forward_pre_hook(lambda m, args, i=i: seen[i].append(args[0])) for i, norm in enumerate(norms)]
    said(model)
    for handle in handles:
        handle.remove()
    width = model.config.hidden_size
    grams: dict[int, np.ndarray] = {}
    for place, tensors in enumerate(seen):
        for token in torch.cat([tensor.flatten(0, 1) for tensor in tensors]).double().numpy():
            normed = token / np.sqrt(np.mean(token**2) + model.config.rms_norm_eps)
            group = GROUPS[bases](place)
            grams[group] = grams.get(group, np.zeros((width, width))) + np.outer(normed, normed)
    kept, out = width - int(np.floor(share * width + 0.5)), []
    for place in range(len(norms)):
        _, vectors = np.linalg.eigh(grams[GROUPS[bases](place)])
        top = vectors[:, ::-1][:, :kept]
        out.append(torch.from_numpy(top @ top.T).float())
    return out


def plain_forward(model, projections, ids=IDS):
    """The dense model, its stream put through a projection before each norm."""
    inner = model.model
    hidden = inner.embed_tokens(ids) @ projections[0]
    positions = inner.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
    for index, block in enumerate(inner.layers):
        after = block.self_attn(block.input_layernorm(hidden), position_embeddings=positions, attention_mask=None)[0]
        hidden = (hidden + after) @ projections[2 * index + 1]
        hidden = (hidden + block.mlp(block.post_attention_layernorm(hidden))) @ projections[2 * index + 2]
    return model.lm_head(inner.norm(hidden))


@pytest.mark.parametrize("bases", GROUPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_turning_alone_changes_nothing(family, bases):
    model = build(family)
    expected = said(model)
    done = cut(model, 0.0, bases)
    assert torch.allclose(said(model), expected, atol=2e-5) and done.said["width"] == 32


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("bases", GROUPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_model_says_what_the_dense_one_says_with_its_stream_projected(family, bases, share):
    model = build(family)
    projections = plain_projections(model, share, bases)
    dense, expected = said(model), plain_forward(model, projections)
    done = cut(model, share, bases)
    assert torch.allclose(said(model), expected, atol=5e-5)
    assert (dense - expected).abs().max() > 0.05  # so the cut is no trifle
    width = 32 - int(share * 32 + 0.5)
    assert model.lm_head.weight.shape == (96, width) and model.model.embed_tokens.weight.shape == (96, width)
    assert done.loaded.anatomy.hidden == width
    assert [block.attention.query_heads for block in done.loaded.anatomy.blocks] == [4, 4]
    assert {layer.role for layer in done.loaded.anatomy.blocks[0].layers} == {
        "query", "key", "value", "output", "gate", "up", "down"
    }  # fmt: skip


@pytest.mark.parametrize("bases", GROUPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_model_loads_again_whole_and_by_blocks_and_nowhere_else_by_mistake(family, bases, tmp_path):
    done = cut(build(family, tie_word_embeddings=True), 0.25, bases)
    expected = said(done.loaded.model)
    export.save(done.loaded, tmp_path / "model")
    for lazy in (False, True):
        again = load(str(tmp_path / "model"), lazy=lazy)
        if lazy:
            again.lazy.bring_all()
        assert torch.equal(said(again.model), expected) and again.anatomy.blocks == done.loaded.anatomy.blocks
    native = bases == "one" and family != "qwen3"  # whose heads have norms with the same epsilon
    assert hasattr(done.loaded.model.config, KEY) is not native
    kind = type(build(family))
    if native:
        plain = kind.from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert torch.allclose(said(plain), expected, atol=1e-5)
    else:
        assert "loads with Prunarium" in readme(
            done.loaded, {"dtype": "float32", "nonzero": 1, "size_bytes": 1, "difference": None}, None, {}
        )
        with pytest.raises(RuntimeError, match="mismatch"):
            kind.from_pretrained(tmp_path / "model")


def test_a_width_that_the_familys_config_refuses_is_said_in_ours(tmp_path):
    done = cut(build(), 0.2, "one")  # 26 axes for 4 heads
    assert done.loaded.model.config.prunarium == {"slices": {"width": 26, "turns": []}}
    export.save(done.loaded, tmp_path / "model")
    assert torch.equal(said(load(str(tmp_path / "model")).model), said(done.loaded.model))


def test_parameters_bytes_and_operations_fall_or_a_note_says_that_they_rose():
    dense, watcher = from_module(build(tie_word_embeddings=False), "dense"), Silent()
    before = counts(dense.model), flops_per_token(dense)
    done = cut(copy.deepcopy(dense.model), 0.5, watcher=watcher)
    after = counts(done.loaded.model), flops_per_token(done.loaded)
    assert after[0].parameters < before[0].parameters and after[0].size_bytes < before[0].size_bytes and after[1] < before[1]
    assert done.said["parameters_before"] == before[0].parameters and done.said["parameters_after"] == after[0].parameters
    turns = sum(module.weight.numel() for name, module in done.loaded.model.named_modules() if name.endswith("_turn"))
    assert turns == 4 * 16 * 16
    assert not [said for said in watcher.heard if said.kind == "note"]
    cut(build(tie_word_embeddings=True), 0.1, watcher=watcher)
    assert any("The model grew from" in said.text for said in watcher.heard)


def test_variance_kept_is_all_at_share_0_and_falls_with_the_share():
    kept = [cut(build(), share).said["variance_kept"] for share in (0.0, 0.25, 0.75)]
    assert all(value == pytest.approx(1.0, abs=1e-6) for value in kept[0])
    assert all(1 > a > b > 0.25 for a, b in zip(kept[1], kept[2], strict=True))


def test_it_writes_with_a_cache_what_it_says_without_one():
    model = cut(build(), 0.25).loaded.model
    written = model.generate(IDS[:1, :4], max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    for end in range(4, written.shape[1]):
        assert int(said(model, written[:, :end])[0, -1].argmax()) == int(written[0, end])


def test_only_the_paper_s_places_turn_and_a_copy_turns_too():
    model = cut(build(), 0.25, "each block").loaded.model
    assert [name for name, _ in model.named_modules() if name.endswith("_turn")] == [
        "model.layers.0.mlp_turn",
        "model.layers.1.mlp_turn",
    ]
    assert torch.equal(said(copy.deepcopy(model)), said(model))
    assert isinstance(model.model.layers[0], type(build().model.layers[0]))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi3", "bert", "vit", "mixtral"])
def test_other_families_are_refused_in_a_sentence_before_anything_changes(family):
    model = tiny(family)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"Slicing knows decoders|is not a decoder"):
        cut(model, 0.25)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_no_longer_fits_a_sliced_model_is_refused():
    model = cut(build(), 0.25).loaded.model
    with pytest.raises(ModelError, match="sliced already"):
        cut(model, 0.25)
    for method, structure in (("random", "blocks"), ("block_pruner", "sublayers")):
        with pytest.raises(ModelError, match="in a basis of its own"):
            prune(from_module(model, "x"), Prune(method=method, structure=structure, sparsity=0.5), lambda: IDS, 0, Silent())
    for fields in ({"protect": ("blocks.0",)}, {"allocation": {"method": "by_hand", "shares": {"blocks.0": 0.5}}}):
        with pytest.raises(RecipeError):
            cut(build(), 0.25, **fields)
    model = build(num_hidden_layers=3)
    prune(from_module(model, "x"), Prune(method="random", structure="sublayers", sparsity=0.2), lambda: IDS, 0, Silent())
    with pytest.raises(ModelError, match="are gone"):
        cut(model, 0.25)


@pytest.mark.parametrize("bases", ["each norm", "one"])
def test_blocks_before_and_weights_neurons_and_heads_around_it_save_and_load_the_same(bases, tmp_path):
    loaded = from_module(build(num_hidden_layers=4), "tiny")
    for fields in (
        {"method": "random", "structure": "blocks", "sparsity": 0.25},
        {"method": "flap", "structure": "neurons", "sparsity": 0.3, "only": ("blocks.1",)},
        {"method": "slicegpt", "structure": "slices", "sparsity": 0.25, "params": {"bases": bases}},
        {"method": "magnitude", "structure": "heads", "sparsity": 0.5, "only": ("blocks.0",)},
        {"method": "wanda", "structure": "neurons", "sparsity": 0.5, "only": ("blocks.2",)},
        {"method": "wanda", "sparsity": 0.5},
    ):
        loaded = prune(loaded, Prune(**fields), lambda: IDS, 0, Silent()).loaded
    assert not [name for name in {layer.path for layer in loaded.anatomy.layers} if name.endswith("_turn")]
    expected = said(loaded.model)
    export.save(loaded, tmp_path / "model")
    assert loaded.model.config.prunarium.keys() >= {"widths"}
    for lazy in (False, True):
        again = load(str(tmp_path / "model"), lazy=lazy)
        if lazy:
            again.lazy.bring_all()
        assert torch.allclose(said(again.model), expected, atol=1e-6)


DAMAGES = [
    ({"width": 33, "turns": []}, "width"),
    ({"width": 0, "turns": []}, "width"),
    ({"width": True, "turns": []}, "width"),
    ({"turns": []}, "width"),
    ({"width": 24, "turns": ["x"]}, "turns"),
    ({"width": 24}, "turns"),
    ([], "width"),
]


@pytest.mark.parametrize(("slices", "says"), DAMAGES)
def test_slices_from_a_stranger_that_cannot_be_end_in_one_sentence(slices, says, tmp_path):
    export.save(cut(build(), 0.25).loaded, tmp_path / "model")
    edit_config(tmp_path / "model", prunarium={"slices": slices})
    with pytest.raises(ModelError, match=rf"(?s)slices cannot be right.*{says}"):
        load(str(tmp_path / "model"))


def test_slices_that_the_weights_do_not_have_or_the_family_cannot_have_are_refused(tmp_path):
    export.save(cut(build(), 0.25).loaded, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())[KEY]["slices"]
    edit_config(tmp_path / "model", prunarium={"slices": config | {"width": 20}})
    with pytest.raises(ModelError, match="shape"):
        load(str(tmp_path / "model"))
    tiny("gpt2").save_pretrained(tmp_path / "other")
    edit_config(tmp_path / "other", prunarium={"slices": config})
    with pytest.raises(ModelError, match="slices cannot be right"):
        load(str(tmp_path / "other"))


def test_a_tied_head_gets_a_weight_of_its_own():
    model = tiny_models.llama()
    done = cut(model, 0.25)
    assert done.loaded.anatomy.tied == () and not model.config.tie_word_embeddings
    model.tie_weights()
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
