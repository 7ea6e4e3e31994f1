"""The prune step against plain references that know nothing of our streaming: whole-model forwards, a sort for each row."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, ResNetConfig, ResNetForImageClassification

from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse


def llama(layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def step(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune


IDS = torch.randint(0, 97, (11, 16), generator=torch.Generator().manual_seed(3))  # 11: the last batch is smaller than the others


def run(model, calibration=IDS, watcher=None, **fields):
    return prune(from_module(model, "tiny"), step(**fields), lambda: calibration, 0, watcher or Silent())


def plain_wanda(model, share: float, n_of_m=None) -> dict[str, torch.Tensor]:
    """Wanda as the paper says it: for each block one forward of the whole model (earlier blocks already pruned), one sort for each row."""
    model, masks = copy.deepcopy(model), {}
    for block in model.model.layers:
        linears = {name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
        squares = {name: torch.zeros(module.in_features) for name, module in linears.items()}

        def note(name, squares=squares):
            def hook(module, args):
                squares[name] += args[0].float().pow(2).sum(dim=(0, 1))

            return hook

        handles = [module.register_forward_pre_hook(note(name)) for name, module in linears.items()]
        with torch.no_grad():
            for part in IDS.split(8):
                model(part)
        for handle in handles:
            handle.remove()
        for name, module in linears.items():
            score = module.weight.detach().abs() * (squares[name] / len(IDS)).sqrt()
            group = n_of_m[1] if n_of_m else score.shape[1]
            drop = n_of_m[1] - n_of_m[0] if n_of_m else int(share * group)
            order = score.reshape(score.shape[0], -1, group).argsort(dim=-1, stable=True)[..., :drop]
            keep = torch.ones(score.shape[0], score.shape[1] // group, group, dtype=torch.bool).scatter_(-1, order, False)
            masks[name if name in masks else f"{block.self_attn.layer_idx}.{name}"] = keep.reshape(score.shape)
            module.weight.data.mul_(keep.reshape(score.shape))
    return masks


@pytest.mark.parametrize(("structure", "share"), [("unstructured", 0.5), ("unstructured", 0.25), ("2:4", None), ("1:4", None)])
def test_wanda_masks_equal_a_plain_reference_bit_for_bit(structure, share):
    model = llama()
    fields = {"method": "wanda", "structure": structure} | ({"sparsity": share} if share else {})
    reference = plain_wanda(model, share, None if share else tuple(map(int, structure.split(":"))))
    done = run(model, **fields)
    assert len(done.masks) == len(reference) == 21
    for name, keep in reference.items():
        path = "model.layers." + name
        assert torch.equal(done.masks[path].unpack(), keep), path
        assert torch.equal(done.loaded.module(path).weight.detach() != 0, keep)


def test_magnitude_removes_the_smallest_weights_of_each_layer_and_needs_no_text():
    model = llama()
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    done = prune(
        from_module(model, "tiny"), step(method="magnitude", sparsity=0.3), lambda: pytest.fail("asked for text"), 0, Silent()
    )
    for name, mask in done.masks.items():
        weight, keep = dense[name + ".weight"].abs(), mask.unpack()
        assert (~keep).sum() == round(0.3 * keep.numel())
        assert weight[~keep].max() <= weight[keep].min()
    assert all(torch.equal(p, dense[n]) for n, p in model.named_parameters() if "norm" in n or "embed" in n or "lm_head" in n)


def test_global_magnitude_equals_one_sort_over_all_weights():
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(0.5)
    layers = {
        n: m.weight.detach().clone() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n
    }
    everything = torch.cat([w.abs().flatten() for w in layers.values()])
    cut = everything.sort().values[round(0.4 * everything.numel()) - 1]
    done = run(model, method="magnitude", sparsity=0.4, allocation={"method": "global", "params": {"floor": 0.0}})
    for name, weight in layers.items():
        assert torch.equal(done.masks[name].unpack(), weight.abs() > cut), name


def test_a_global_budget_keeps_the_floor_of_every_layer_and_still_meets_the_total():
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e-3)  # a global cut alone would empty it
    done = run(model, method="magnitude", sparsity=0.5, allocation={"method": "global", "params": {"floor": 0.1}})
    rows = {row.name: row for row in done.rows}
    assert rows["blocks.1.mlp.down_proj"].sparsity == pytest.approx(0.9, abs=1e-3)
    zeros = sum(row.sparsity * row.parameters for row in done.rows)
    assert zeros == pytest.approx(0.5 * sum(row.parameters for row in done.rows), abs=2)


def test_a_budget_by_hand_gives_each_named_layer_its_share_and_leaves_the_others():
    shares = {"blocks.0": 0.25, "blocks.0.mlp.up_proj": 0.75, "blocks.2.self_attn.q_proj": 0.5}
    done = run(llama(), method="wanda", allocation={"method": "by_hand", "shares": shares})
    rows = {row.name: row.sparsity for row in done.rows}
    assert (
        rows["blocks.0.mlp.up_proj"] == 0.75
        and rows["blocks.0.mlp.gate_proj"] == 0.25
        and rows["blocks.2.self_attn.q_proj"] == 0.5
    )
    assert rows["blocks.1.mlp.up_proj"] == 0.0 and rows["blocks.2.mlp.up_proj"] == 0.0


def test_only_and_protect_choose_layers_by_name_or_pattern():
    done = run(llama(), method="magnitude", sparsity=0.5, only=["*.mlp.*"], protect=["blocks.1"])
    assert {row.name.split(".", 1)[1].split(".")[0] for row in done.rows} == {"0", "2"}
    assert all(".mlp." in row.name for row in done.rows) and len(done.rows) == 6


def plain_influence(model) -> list[float]:
    """1 - mean cosine between what goes into and what comes out of each block, by whole-model forwards."""
    seen: dict[int, list] = {}
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda m, args, out, index=index: seen.setdefault(index, []).append((args[0], out)))
    with torch.no_grad():
        model(IDS)
    return [float(1 - torch.cosine_similarity(*seen[i][0], dim=-1).double().mean()) for i in sorted(seen)]


def test_block_influence_takes_out_the_blocks_that_turn_the_hidden_state_least():
    model = llama(6)
    expected = plain_influence(copy.deepcopy(model))
    logits = copy.deepcopy(model)
    done = run(model, method="block_influence", structure="blocks", sparsity=0.33)
    scores = [row.score_mean for row in done.rows]
    assert scores == pytest.approx(expected, abs=1e-6)
    assert done.removed == tuple(sorted(sorted(range(6), key=lambda i: expected[i])[:2]))
    assert model.config.num_hidden_layers == 4 and len(done.loaded.anatomy.blocks) == 4
    kept = [i for i in range(6) if i not in done.removed]
    logits.model.layers = torch.nn.ModuleList([logits.model.layers[i] for i in kept])
    with torch.no_grad():
        assert torch.equal(logits(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)
        written = model.generate(IDS[:1], max_new_tokens=3, do_sample=False)  # with a cache: layer numbers must be right
    assert written.shape == (1, 19)


def test_only_and_protect_choose_blocks_by_name_or_pattern():
    done = run(llama(6), method="block_influence", structure="blocks", sparsity=0.5, protect=["blocks.[0-2]"])
    assert done.removed == (3, 4, 5)
    with pytest.raises(RecipeError, match=r"No block of this model fits 'blocks\.9'"):
        run(llama(3), method="block_influence", structure="blocks", sparsity=0.5, only=["blocks.9"])


def test_gpt2s_turned_layers_are_pruned_by_input():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    dense, seen = copy.deepcopy(model), {}
    places = {name: m for name, m in dense.transformer.h[0].named_modules() if name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")}
    for name, module in places.items():
        module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0].detach().double()}))
    with torch.no_grad():
        dense(IDS)
    done = run(model, method="wanda", sparsity=0.5)
    for (
        name,
        module,
    ) in places.items():  # weights are stored (in, out): each output is a column, and its inputs are compared in it
        norms = seen[name].square().sum((0, 1)).div(len(IDS)).sqrt()
        scores = (module.weight.detach().double().abs() * norms[:, None]).T.tolist()
        mask = done.masks[f"transformer.h.0.{name}"].unpack()
        for output, row in enumerate(scores):
            gone = sorted(range(len(row)), key=lambda column: (row[column], column))[: len(row) // 2]
            assert mask[:, output].logical_not().nonzero().flatten().tolist() == sorted(gone)
        assert torch.equal(mask, model.transformer.h[0].get_submodule(name).weight != 0)


def test_convolutions_are_pruned_by_the_patches_they_see():
    torch.manual_seed(0)
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config).eval()
    images = torch.randn(9, 1, 28, 28)
    first = next(block for block in from_module(model, "x").anatomy.blocks if any(layer.kind == "conv" for layer in block.layers))
    layer = next(
        layer for layer in first.layers if layer.kind == "conv" and layer.shape[2] == 3
    )  # what feeds the first block is dense yet
    dense, seen = copy.deepcopy(model), {}
    module = dense.get_submodule(layer.path)
    module.register_forward_pre_hook(lambda m, args: seen.update(inputs=args[0].detach().double()))
    with torch.no_grad():
        dense(images)
    done = run(model, calibration=images, method="wanda", sparsity=0.5)
    rows = columns = [place * module.stride[0] for place in range(-(-seen["inputs"].shape[2] // module.stride[0]))]
    padded = torch.nn.functional.pad(seen["inputs"], (1, 1, 1, 1))
    squares = torch.zeros(
        module.weight.shape[1:], dtype=torch.float64
    )  # (in, 3, 3): of what each place of the kernel sees, image by image
    for channel in range(squares.shape[0]):
        for down in range(3):
            for across in range(3):
                seen_there = padded[:, channel][:, [row + down for row in rows]][:, :, [column + across for column in columns]]
                squares[channel, down, across] = seen_there.square().sum() / len(images)
    scores = (module.weight.detach().double().abs() * squares.sqrt()).flatten(1).tolist()
    mask = done.masks[layer.path].unpack().flatten(1)
    for output, row in enumerate(scores):
        gone = sorted(range(len(row)), key=lambda column: (row[column], column))[: len(row) // 2]
        assert mask[output].logical_not().nonzero().flatten().tolist() == sorted(gone)


def test_random_draws_a_layers_lot_from_its_name_alone():
    both = run(llama(), method="random", sparsity=0.5)
    alone = run(llama(), method="random", sparsity=0.5, only=["blocks.2"])
    for name, mask in alone.masks.items():
        assert torch.equal(mask.unpack(), both.masks[name].unpack())


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"method": "magnitude", "structure": "3:5"}, RecipeError, "multiple of 5"),
        ({"method": "magnitude", "sparsity": 0.5, "only": ["nothing"]}, RecipeError, "'nothing'"),
        ({"method": "magnitude", "sparsity": 0.5, "protect": ["blocks.*"]}, RecipeError, "no layer to prune"),
        ({"method": "magnitude", "allocation": {"method": "by_hand", "shares": {"blocks.9": 0.5}}}, RecipeError, "'blocks.9'"),
        ({"method": "block_influence", "structure": "blocks", "allocation": {"method": "by_hand", "shares": {"blocks.1": 0.5}}}, RecipeError, "whole"),
        ({"method": "wanda", "structure": "2:4", "allocation": "global"}, RecipeError, "fixes the share"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_weight_has_changed(fields, error, says):
    model = llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error) as caught:
        run(model, **fields)
    assert says in str(caught.value) and caught.value.remedy
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_module_without_blocks_is_pruned_by_magnitude_and_says_why_not_by_wanda():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    with pytest.raises(ModelError, match="no chain of blocks"):
        run(model, method="wanda", sparsity=0.5)
    with pytest.raises(ModelError) as caught:
        run(model, method="block_influence", structure="blocks", sparsity=0.5)
    assert caught.value.remedy
    run(model, method="magnitude", sparsity=0.5)
    assert (model[0].weight == 0).sum() == 32


def test_nan_scores_are_refused():
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"blocks\.0\.mlp\.up_proj"):
        run(model, method="magnitude", sparsity=0.5)


def test_a_stop_is_obeyed_between_two_batches():
    with pytest.raises(Stopped):
        run(llama(), watcher=Silent(stop=True), method="wanda", sparsity=0.5)
