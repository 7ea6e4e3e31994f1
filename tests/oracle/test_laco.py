"""LaCo against a plain reference: the paper's algorithm on deep copies of the whole model, whole forwards with hooks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import LlamaForCausalLM

from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.model.files import export
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from tests import tiny_models
from tests.model_folders import tiny

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 300, (5, 12), generator=torch.Generator().manual_seed(3))


def llama(layers: int = 8):
    """A tiny Llama whose blocks differ in how much they do, so that some merges pass and some do not."""
    model = tiny_models.llama(layers)
    for index, block in enumerate(model.model.layers):
        block.mlp.down_proj.weight.data *= (10, 2, 14, 1, 6, 3, 20, 2)[index % 8]
        block.self_attn.o_proj.weight.data *= (5, 10, 1, 12, 2, 3, 8, 2)[index % 8]
        block.input_layernorm.weight.data += 0.1 * index
    return model


def run(model, ids=IDS, watcher=None, **fields):
    step = {"method": "laco", "structure": "blocks", **fields}
    step = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": step}]}).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: ids, 0, watcher or Silent())


def last_output(model, ids):
    seen = []
    handle = model.model.layers[-1].register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        model(ids, use_cache=False)
    handle.remove()
    return seen[0].double()


def merged(model, base: int, taken: list[int]):
    """A copy of the model with W_base + sum of (W_taken - W_base) in place of those blocks."""
    out = copy.deepcopy(model)
    own = dict(model.model.layers[base].named_parameters())
    for name, parameter in out.model.layers[base].named_parameters():
        total = own[name].detach().clone()
        for index in taken:
            total = total + (dict(model.model.layers[index].named_parameters())[name].detach() - own[name].detach())
        parameter.data = total
    out.model.layers = torch.nn.ModuleList([block for i, block in enumerate(out.model.layers) if i not in taken])
    out.config.num_hidden_layers = len(out.model.layers)
    for index, block in enumerate(out.model.layers):
        block.self_attn.layer_idx = index
    return out


def plain_laco(model, count, together, apart, threshold, ids, allowed=range(99)):
    """The paper's algorithm; `numbers` remembers what each block was called before."""
    expected, numbers, done = last_output(model, ids), list(range(len(model.model.layers))), []
    place = len(numbers) - together
    while place >= 0 and count > 0:
        taken = list(range(place + 1, min(place + together, place + 1 + count, len(numbers))))
        tried = merged(model, place, taken) if all(numbers[i] in allowed for i in (place, *taken)) else None
        if tried is not None and cosine_similarity(last_output(tried, ids), expected, dim=-1).mean() > threshold:
            done.append((numbers[place], [numbers[i] for i in taken]))
            model, count = tried, count - len(taken)
            numbers = [number for i, number in enumerate(numbers) if i not in taken]
            place = min(place - apart, len(numbers) - together)
        else:
            place -= 1
    return model, done


SETTINGS = [(3, 4, 2, 0.65), (4, 2, 1, 0.8), (4, 3, 2, -1.0), (5, 4, 1, 0.3), (2, 2, 3, 0.9), (6, 5, 1, 0.1)]


@pytest.mark.parametrize(("count", "together", "apart", "threshold"), SETTINGS)
def test_laco_merges_what_the_plain_algorithm_merges(count, together, apart, threshold):
    model = llama()
    plain, merges = plain_laco(copy.deepcopy(model), count, together, apart, threshold, IDS)
    params = {"together": together, "apart": apart, "threshold": threshold, "sequences": 128}
    done = run(model, sparsity=count / 8, params=params)
    assert [(one["into"], one["taken"]) for one in done.said["merges"]] == merges
    assert done.removed == tuple(sorted(index for _, taken in merges for index in taken))
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, plain(IDS).logits, atol=1e-5)
    assert model.config.num_hidden_layers == 8 - len(done.removed) == len(done.loaded.anatomy.blocks)
    last = done.said["merges"][-1]["cosine"] if merges else 1.0
    whole = cosine_similarity(last_output(plain, IDS), last_output(llama(), IDS), dim=-1).mean()
    assert last == pytest.approx(float(whole), abs=1e-6)


def test_the_settings_cover_merges_that_are_refused_and_sweeps_that_end_early():
    """Else the test above could pass with a threshold that nothing ever reads."""
    ends = [plain_laco(llama(), *setting, IDS)[1] for setting in SETTINGS]
    taken = [sum(len(part) for _, part in merges) for merges in ends]
    assert any(found < setting[0] for found, setting in zip(taken, SETTINGS, strict=True))
    assert any(merges and merges[0][0] != 8 - setting[1] for merges, setting in zip(ends, SETTINGS, strict=True))
    assert max(len(merges) for merges in ends) >= 2


def test_worked_by_hand_the_sum_is_of_differences_to_the_block_merged_into():
    model = tiny_models.llama(3)
    for index, value in enumerate((1.0, 4.0, 6.0)):
        model.model.layers[index].mlp.up_proj.weight.data.fill_(value)
    run(model, sparsity=2 / 3, params={"together": 3, "threshold": -1.0})
    assert (model.model.layers[0].mlp.up_proj.weight == 9.0).all()  # 1 + (4 - 1) + (6 - 1); "keep the last" would be 6


def test_what_is_saved_loads_with_plain_transformers(tmp_path):
    done = run(llama(), sparsity=0.375, params={"threshold": -1.0})
    export.save(done.loaded, tmp_path / "model")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(again(IDS).logits, done.loaded.model(IDS).logits, atol=1e-5)
    assert len(again.model.layers) == 5


def test_protected_blocks_neither_go_nor_change():
    model = llama()
    before = copy.deepcopy(model.model.layers[5].state_dict())
    _, merges = plain_laco(copy.deepcopy(model), 3, 2, 1, -1.0, IDS, allowed=[0, 1, 2, 3, 4, 6, 7])
    done = run(model, sparsity=0.375, params={"together": 2, "apart": 1, "threshold": -1.0}, protect=["blocks.5"])
    assert [(one["into"], one["taken"]) for one in done.said["merges"]] == merges
    kept = [index for index in range(8) if index not in done.removed]
    assert all(torch.equal(before[n], v) for n, v in model.model.layers[kept.index(5)].state_dict().items())


def test_a_threshold_that_nothing_meets_takes_nothing_says_so_and_leaves_the_weights():
    model, watcher = llama(), Silent()
    before = copy.deepcopy(model.state_dict())
    done = run(model, watcher=watcher, sparsity=0.5, params={"threshold": 1.0})
    assert done.removed == () and all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert any("0 of 4 blocks went" in said.text for said in watcher.heard)
    assert run(model, sparsity=0.0).removed == ()


def test_only_as_many_sequences_as_asked_are_read():
    model = llama()
    _, merges = plain_laco(copy.deepcopy(model), 4, 2, 1, 0.8, IDS[:1])
    done = run(model, sparsity=0.5, params={"together": 2, "apart": 1, "threshold": 0.8, "sequences": 1})
    assert [(one["into"], one["taken"]) for one in done.said["merges"]] == merges


def test_a_stop_in_the_first_trial_leaves_the_model_as_it_was():
    class StopsLater(Silent):
        left = 15

        def check(self):
            self.left -= 1
            if self.left < 0:
                raise Stopped

    model = llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Stopped):
        run(model, watcher=StopsLater(), sparsity=0.5, params={"threshold": -1.0})
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_blocks_that_are_not_alike_and_budgets_by_hand_are_refused():
    model = llama(4)
    model.model.layers[2].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
    with pytest.raises(ModelError, match=r"blocks\.2 has other weights"):
        run(model, sparsity=0.5)
    with pytest.raises(RecipeError, match="takes no allocation"):
        run(llama(4), allocation={"method": "by_hand", "shares": {"blocks.1": 1.0}})


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "falcon", "bert", "vit"])
def test_other_families_merge_too(family):
    model = tiny(family, **({"n_layer": 4} if family == "gpt2" else {"num_hidden_layers": 4}))
    given = torch.randn(2, 3, 16, 16) if family == "vit" else IDS % 96
    done = run(model, given, sparsity=0.5, params={"together": 2, "threshold": -1.0})
    assert len(done.loaded.anatomy.blocks) == 2
    with torch.no_grad():
        assert torch.isfinite(model(given).logits).all()
