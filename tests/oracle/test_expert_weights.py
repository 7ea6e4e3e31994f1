"""MoE-Pruner against a plain loop over tokens: masks of single weights inside experts, in families that store them either way round."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from core import folder
from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, PrunariumError, RecipeError, Stopped
from core.events import Silent
from core.model.files import export
from core.model.loading import from_module, load
from core.model.mixture.reading import reads
from core.model.pruning.step import prune
from core.recipe import parse
from tests import test_experts as families
from tests.model_folders import tiny
from tests.oracle.test_experts import FAMILIES, IDS, built, gates_of, logits, mixture, says, tokens_at
from tests.test_steps import loaded, recipe, run, text  # noqa: F401 (text is a fixture)

pytestmark = pytest.mark.quick


def pruned(model, calibration=IDS, watcher=None, **fields):
    step = {"method": "moe_pruner", "structure": "unstructured", **fields}
    whole = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": step}]})
    return prune(from_module(model, "tiny"), resolve(whole, cards()).steps[0].prune, lambda: calibration, 0, watcher or Silent())


def seen(moe, tokens, sequences: int) -> dict[str, list[torch.Tensor]]:
    """{weight: an expert's gated input norm}, token by token."""
    count, inner = len(moe.experts.down_proj), moe.experts.down_proj.shape[2]
    squares = {"gate_up_proj": torch.zeros(count, tokens.shape[1]).double(), "down_proj": torch.zeros(count, inner).double()}
    for x in tokens:
        for expert, value in zip(*gates_of(moe, x), strict=True):
            gate, up = (moe.experts.gate_up_proj[expert] @ x).chunk(2)
            middle = torch.nn.functional.silu(gate) * up
            squares["gate_up_proj"][expert] += (value * x.double()) ** 2
            squares["down_proj"][expert] += (value * middle.double()) ** 2
    return {name: [(each / sequences).sqrt() for each in total] for name, total in squares.items()}


def row_by_row(scores: torch.Tensor, structure: str, share: float) -> torch.Tensor:
    """Each row without its lowest scores, or each four of a row without its lowest two; of equals the left one goes."""
    keep = torch.ones(scores.shape, dtype=torch.bool)
    for row in range(len(scores)):
        width = scores.shape[1] if structure == "unstructured" else 4
        for start in range(0, scores.shape[1], width):
            places = sorted(range(start, start + width), key=lambda place: (float(scores[row, place]), place))
            for place in places[: round(share * width)]:
                keep[row, place] = False
    return keep


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
def test_masks_are_those_of_a_loop_over_tokens_one_block_after_the_other(name, structure):
    model = built(name)
    plain, before = copy.deepcopy(model), {key: value.clone() for key, value in model.state_dict().items()}
    fields = {"sparsity": 0.5} if structure == "unstructured" else {}
    done = pruned(model, structure=structure, **fields)
    for block in range(2):
        moe = mixture(plain, block)
        norms = seen(moe, tokens_at(plain, block), len(IDS))  # of the plain model, whose blocks before are pruned
        for weight, held in (("gate_up_proj", moe.experts.gate_up_proj), ("down_proj", moe.experts.down_proj)):
            keep = done.masks[f"model.layers.{block}.mlp.experts.{weight}"].unpack()
            expected = torch.stack([
                row_by_row(held[e].abs().double() * norms[weight][e], structure, 0.5) for e in range(len(held))
            ])  # fmt: skip
            assert float((keep == expected).float().mean()) > 0.9995  # sums in another order may turn a near tie
            assert int((~keep).sum()) == keep.numel() // 2
            held.mul_(keep)
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-5)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if ".experts." not in key)
    assert [row.sparsity for row in done.rows] == [0.5] * 4 and done.rows[0].name == "blocks.0.experts.gate_up_proj"


@pytest.mark.parametrize("name", families.MIXTURES)
def test_what_is_heard_is_what_the_matrices_were_multiplied_with_whichever_way_they_are_stored(name):
    model = families.built(name)
    from core.model.anatomy import read_anatomy
    from core.model.mixture.experts import expert_layers

    layer = expert_layers(model, read_anatomy(model).blocks)[0]
    experts, x = model.get_submodule(layer.path), torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    heard = reads(experts, 2, x)
    assert set(heard) == {"gate_up_proj", "down_proj"} and torch.equal(heard["gate_up_proj"].inputs, x)
    turned = name == "gpt_oss"
    assert all(read.turned == turned for read in heard.values())
    down = experts.down_proj[2].T if turned else experts.down_proj[2]
    said = heard["down_proj"].inputs @ down.T + (experts.down_proj_bias[2] if turned else 0)
    chosen = torch.full((5, 1), 2)
    torch.testing.assert_close(said, experts.forward(x, chosen, torch.ones(5, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", families.MIXTURES)
def test_it_is_saved_with_its_zeros_and_loads_again(name, tmp_path):
    model = families.built(name)
    done = pruned(model, families.IDS, sparsity=0.5)
    for path, mask in done.masks.items():
        weight, keep = model.get_parameter(path), mask.unpack()
        assert not weight[~keep].any() and weight[keep].all()
    export.save(done.loaded, tmp_path / "model")
    torch.testing.assert_close(families.says(load(str(tmp_path / "model")).model), families.says(model))


def test_an_expert_that_nobody_visits_is_pruned_from_the_left():
    model = built()
    model.model.layers[0].mlp.gate.weight[3] = 0
    model.model.layers[0].mlp.gate.weight[:3] *= 0.0
    ties = model.model.layers[
        0
    ].mlp.gate  # all logits of 0..3 are 0: top-2 takes other ones where those are above, the first of equals else
    visited = {e for x in tokens_at(model, 0) for e in gates_of(mixture(model, 0), x)[0]}
    idle = next((e for e in range(ties.weight.shape[0]) if e not in visited), None)
    assert idle is not None
    done = pruned(model, sparsity=0.5)
    keep = done.masks["model.layers.0.mlp.experts.down_proj"].unpack()[idle]
    assert not keep[:, :12].any() and keep[:, 12:].all()


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"structure": "2:5"}, RecipeError, r"2:5 needs a multiple of 5 inputs; blocks\.0\.experts\.\w+ has"),
        ({"sparsity": 0.5, "allocation": "owl"}, RecipeError, "owl looks at layers, and the weights inside experts are none"),
        ({"sparsity": 0.5, "protect": ["blocks.*"]}, RecipeError, "all are protected"),
        ({"sparsity": 0.5, "only": ["blocks.7"]}, RecipeError, "'blocks.7'"),
        ({"sparsity": 0.5, "structure": "experts"}, RecipeError, "moe_pruner does not work on experts"),
    ],
)
def test_what_cannot_be_is_refused_before_any_weight_changes(fields, error, says):
    model = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=says) as caught:
        pruned(model, **fields)
    assert caught.value.remedy and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dense_model_has_no_weights_inside_experts_and_observing_shows_none():
    with pytest.raises(ModelError, match="LlamaForCausalLM is not a mixture of experts"):
        pruned(tiny("llama"), sparsity=0.5)
    asked = {"recipe": 1, "name": "x", "model": {"source": "x"}, "observe": {"scores": ["moe_pruner"]}}
    with pytest.raises(RecipeError, match="scores weights inside experts, which observe does not show"):
        resolve(parse(asked), cards())


def test_experts_that_multiply_in_a_way_that_is_not_heard_are_refused(monkeypatch):
    model = built()
    kind = type(mixture(model, 0).experts)

    def forward(self, inputs, chosen, gates):  # by sums of products, no matrix product at all
        parts = (self.gate_up_proj[chosen[:, 0]] * inputs[:, None]).sum(-1).chunk(2, -1)
        middle = torch.nn.functional.silu(parts[0]) * parts[1]
        return (self.down_proj[chosen[:, 0]] * middle[:, None]).sum(-1) * gates[:, :1]

    monkeypatch.setattr(kind, "forward", forward)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PrunariumError, match="How MixtralExperts multiplies with the weights of its experts is not known"):
        pruned(model, sparsity=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_some_blocks_and_shares_by_hand():
    done = pruned(built(), sparsity=0.5, only=["blocks.1"])
    assert {row.block for row in done.rows} == {1}
    done = pruned(built(), allocation={"method": "by_hand", "shares": {"blocks.0": 0.25, "blocks.1.experts": 0.5}})
    assert [row.sparsity for row in done.rows] == [0.25, 0.25, 0.5, 0.5]


def test_a_stop_is_obeyed():
    with pytest.raises(Stopped):
        pruned(built(), watcher=Silent(stop=True), sparsity=0.5)


@pytest.mark.parametrize("method", ["reap", "merge_experts"])
def test_masks_inside_experts_go_with_the_experts_and_are_forgotten_where_a_merge_fills_them(text, tmp_path, method):  # noqa: F811
    asked = recipe(
        {"prune": {"method": "moe_pruner", "sparsity": 0.5}},
        {"prune": {"method": method, "structure": "experts", "sparsity": 0.5}},
        {"recover": {"method": "norms_and_biases", "steps": 1, "batch": 1, "tokens": 16}},
        **text,
    )
    model = tiny("mixtral", vocab_size=300)
    fields, path = run(loaded(model), asked, tmp_path)
    masks = {name: mask for name, mask in load_file(path / folder.MASK).items() if "proj" in name}
    if method == "merge_experts":
        assert masks == {}
        return
    assert sorted(masks) == sorted(f"model.layers.{b}.mlp.experts.{w}" for b in (0, 1) for w in ("down_proj", "gate_up_proj"))
    for name, mask in masks.items():
        assert mask.shape == model.get_parameter(name).shape and not model.get_parameter(name)[~mask].any()
        assert float((~mask).float().mean()) == 0.5
    assert fields["sparsity"]["pruned_layers"] == 0.5 and fields["sparsity"]["experts"] == 0.5


def test_the_plain_reference_says_what_the_model_says():
    moe, x = mixture(built(), 0), torch.randn(32, generator=torch.Generator().manual_seed(1))
    chosen, gates = gates_of(moe, x)
    expected = moe(x[None, None])[0] if isinstance(moe(x[None, None]), tuple) else moe(x[None, None])
    found = sum(gate * says(moe, expert, x) for expert, gate in zip(chosen, gates, strict=True))
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-5)
