"""Experts against plain references: whole-model forwards, routers that are told never to choose, loops over tokens and subsets."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from tests.model_folders import tiny
from tests.tiny_models import VOCABULARY

IDS = torch.randint(0, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(3))
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2}  # fmt: skip
FAMILIES = {
    "mixtral": lambda **c: MixtralForCausalLM(MixtralConfig(**{**SMALL, "num_local_experts": 6, "num_experts_per_tok": 2, **c})),
    "qwen3_moe": lambda **c: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**{**SMALL, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24, **c})
    ),
    "olmoe": lambda **c: OlmoeForCausalLM(OlmoeConfig(**{**SMALL, "num_experts": 6, "num_experts_per_tok": 2, **c})),
}


def built(name: str = "mixtral", **changed):
    torch.manual_seed(0)
    model = FAMILIES[name](**changed).eval().requires_grad_(False)
    for block in model.model.layers:  # some families start with a router of zeros
        if hasattr(block.mlp, "gate") and hasattr(block.mlp, "experts"):
            block.mlp.gate.weight.normal_()
    return model


def run(model, calibration=IDS, watcher=None, seed=0, **fields):
    recipe = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": {"structure": "experts", **fields}}]})
    return prune(
        from_module(model, "tiny"), resolve(recipe, cards()).steps[0].prune, lambda: calibration, seed, watcher or Silent()
    )


def kept(done) -> dict[str, list[int]]:
    return {cut.key: cut.keep.nonzero().flatten().tolist() for cut in done.cuts}


def mixture(model, block: int):
    return model.model.layers[block].mlp


def gates_of(moe, x: torch.Tensor, without=()) -> tuple[list[int], list[float]]:
    """Which experts one token visits and with which gates, from the definition: softmax, the largest k, made to sum to one where asked."""
    logits = (moe.gate.weight @ x).double()
    for expert in without:
        logits[expert] = -torch.inf
    probability = logits.softmax(0)
    best = sorted(range(len(probability)), key=lambda e: -float(probability[e]))[
        : min(moe.gate.top_k, len(logits) - len(without))
    ]
    values = [float(probability[e]) for e in best]
    if getattr(moe.gate, "norm_topk_prob", True):
        values = [value / sum(values) for value in values]
    return best, values


def says(moe, expert: int, x: torch.Tensor) -> torch.Tensor:
    gate, up = (moe.experts.gate_up_proj[expert] @ x).chunk(2)
    return moe.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)


def output(moe, x: torch.Tensor, without=()) -> torch.Tensor:
    experts, values = gates_of(moe, x, without)
    return sum(value * says(moe, expert, x) for expert, value in zip(experts, values, strict=True))


def never(model, gone: dict[int, list[int]]):
    """The dense model whose routers never choose these experts: it routes as `gates_of` says."""
    model = copy.deepcopy(model)
    for block, experts in gone.items():
        moe = mixture(model, block)

        def forward(hidden, moe=moe, experts=experts):
            return torch.stack([output(moe, x, experts) for x in hidden.flatten(0, 1)]).reshape(hidden.shape)

        moe.forward = forward
    return model


def logits(model, ids=IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def tokens_at(model, block: int, ids=IDS) -> torch.Tensor:
    """(tokens, hidden) at the entrance of a block's mixture, in one forward of the whole model."""
    seen = []
    handle = mixture(model, block).register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, 1)))
    logits(model, ids)
    handle.remove()
    return seen[0]


def reap(moe, tokens) -> list[float]:
    said: dict[int, list[float]] = {expert: [] for expert in range(len(moe.experts.down_proj))}
    for x in tokens:
        for expert, gate in zip(*gates_of(moe, x), strict=True):
            said[expert].append(gate * float(says(moe, expert, x).norm()))
    return [sum(values) / len(values) if values else 0.0 for values in said.values()]


def visits(moe, tokens, by_gate: bool) -> list[float]:
    found = [0.0] * len(moe.experts.down_proj)
    for x in tokens:
        for expert, gate in zip(*gates_of(moe, x), strict=True):
            found[expert] += gate if by_gate else 1.0
    return [value / sum(found) for value in found]


def size(moe, tokens) -> list[float]:
    return [
        float(moe.experts.gate_up_proj[e].abs().sum() + moe.experts.down_proj[e].abs().sum())
        for e in range(len(moe.experts.down_proj))
    ]


SCORES = {
    "reap": (reap, {}),
    "routing_frequency": (lambda moe, tokens: visits(moe, tokens, True), {}),
    "routing_visits": (lambda moe, tokens: visits(moe, tokens, False), {"by_gate": False}),
    "magnitude": (size, {}),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("score", SCORES)
def test_scores_and_experts_kept_are_those_of_a_plain_reference_one_block_after_the_other(name, score):
    model = built(name)
    plain, (function, params) = copy.deepcopy(model), SCORES[score]
    gone: dict[int, list[int]] = {}
    done = run(model, method=score.replace("visits", "frequency"), sparsity=1 / 3, params=params)
    for block in range(2):
        expected = function(mixture(plain, block), tokens_at(never(plain, gone), block))
        torch.testing.assert_close(done.scores[f"blocks.{block}.experts"], torch.tensor(expected), rtol=1e-4, atol=1e-6)
        gone[block] = sorted(range(6), key=lambda expert: (expected[expert], expert))[:2]
        assert kept(done)[f"blocks.{block}.experts"] == [e for e in range(6) if e not in gone[block]]


@pytest.mark.quick
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("share", [1 / 3, 5 / 6])
def test_removal_is_a_router_that_never_chooses_those_experts(name, share):
    """5 of 6 gone leaves fewer than a token visits: it then visits all that are left, which is what a router with no other choice does."""
    model = built(name)
    dense, before = copy.deepcopy(model), sum(p.numel() for p in model.parameters())
    done = run(model, method="reap", sparsity=share)
    gone = {block: [e for e in range(6) if e not in kept(done)[f"blocks.{block}.experts"]] for block in range(2)}
    assert [len(each) for each in gone.values()] == [round(share * 6)] * 2
    torch.testing.assert_close(logits(done.loaded.model), logits(never(dense, gone)), rtol=1e-4, atol=1e-4)
    assert (logits(dense) - logits(done.loaded.model)).abs().max() > 1e-2
    one = 3 * 24 * 32 + 32  # gate, up and down, and a row of the router
    assert sum(p.numel() for p in done.loaded.model.parameters()) == before - 2 * round(share * 6) * one
    assert done.said["experts_a_token"] == min(2 if name != "qwen3_moe" else 3, 6 - round(share * 6))


@pytest.mark.quick
@pytest.mark.parametrize("name", FAMILIES)
def test_the_plain_reference_is_the_model(name):
    model = built(name)
    torch.testing.assert_close(logits(never(model, {0: [], 1: []})), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize("name", FAMILIES)
def test_subsets_are_those_with_the_least_error_of_all(name):
    model = built(name)
    plain, gone = copy.deepcopy(model), {}
    done = run(model, IDS[:2], method="expert_subsets", sparsity=1 / 3)
    for block in range(2):
        moe, tokens = mixture(plain, block), tokens_at(never(plain, gone), block, IDS[:2])
        errors = {pair: lost(moe, tokens, pair) for pair in combinations(range(6), 2)}
        gone[block] = list(min(errors, key=lambda pair: errors[pair]))
        assert kept(done)[f"blocks.{block}.experts"] == [e for e in range(6) if e not in gone[block]]
        assert done.rows[block].output_error == pytest.approx(min(errors.values()), rel=1e-3)


def lost(moe, tokens, gone) -> float:
    whole = sum(float(output(moe, x).square().sum()) for x in tokens)
    return sum(float((output(moe, x) - output(moe, x, gone)).square().sum()) for x in tokens) / whole


@pytest.mark.quick
def test_above_the_most_subsets_experts_go_one_by_one_each_the_least_missed():
    model = built()
    moe, tokens, gone = copy.deepcopy(mixture(model, 0)), tokens_at(model, 0), []
    for _ in range(3):
        gone.append(min((e for e in range(6) if e not in gone), key=lambda e: lost(moe, tokens, [*gone, e])))
    done = run(model, method="expert_subsets", sparsity=0.5, params={"most": 19})
    assert kept(done)["blocks.0.experts"] == [e for e in range(6) if e not in gone]


@pytest.mark.quick
def test_lots_are_drawn_by_seed_and_block():
    drawn = [kept(run(built(), method="random", sparsity=0.5, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and drawn[0]["blocks.0.experts"] != drawn[0]["blocks.1.experts"]


@pytest.mark.quick
def test_all_experts_are_refused_and_a_second_step_takes_from_what_is_left():
    model = built()
    first = run(model, method="reap", sparsity=0.5)
    with pytest.raises(RecipeError, match="the last of a block always stays"):
        run(first.loaded.model, method="magnitude", sparsity=1.0)
    again = run(first.loaded.model, method="magnitude", sparsity=0.67)
    assert [len(each) for each in kept(again).values()] == [1, 1] and len(kept(first)["blocks.0.experts"]) == 3
    assert logits(again.loaded.model).isfinite().all()
    assert again.loaded.anatomy.refused["experts"] == "Each block of MixtralForCausalLM has one expert."


@pytest.mark.quick
def test_a_family_with_dense_blocks_between_loses_experts_where_it_has_them():
    model = built("qwen3_moe", mlp_only_layers=[0], num_hidden_layers=3)
    done = run(model, method="routing_frequency", sparsity=0.5)
    assert [len(each) for each in kept(done).values()] == [3, 3] and list(kept(done)) == ["blocks.1.experts", "blocks.2.experts"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        (
            {"sparsity": 0.5, "only": ["blocks.0"]},
            RecipeError,
            r"unequal numbers of experts \(blocks.0.experts: 3, blocks.1.experts: 6\)",
        ),
        ({"sparsity": 0.5, "protect": ["blocks.9"]}, RecipeError, "'blocks.9'"),
        ({"allocation": {"method": "by_hand", "shares": {"blocks.0": 0.5}}}, RecipeError, "unequal numbers"),
        ({"allocation": {"method": "by_hand", "shares": {"blocks.0.mlp": 0.5}}}, RecipeError, "blocks.0.mlp"),
        ({"sparsity": 0.5, "allocation": "global"}, RecipeError, "global does not apply to experts"),
        ({"sparsity": 0.5, "method": "wanda"}, RecipeError, "does not work on experts"),
    ],
)
def test_what_cannot_be_is_refused_before_any_weight_changes(fields, error, says):
    model = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=says):
        run(model, **{"method": "reap", **fields})
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.quick
def test_shares_by_hand_that_are_alike_are_taken():
    shares = {"blocks.0": 0.5, "blocks.1.experts": 0.5}
    done = run(built(), method="magnitude", allocation={"method": "by_hand", "shares": shares})
    assert [row.sparsity for row in done.rows] == [0.5, 0.5]


@pytest.mark.quick
def test_a_dense_model_has_no_experts():
    with pytest.raises(ModelError, match="LlamaForCausalLM is not a mixture of experts"):
        run(tiny("llama"), method="magnitude", sparsity=0.5)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["reap", "routing_frequency", "magnitude", "random", "expert_subsets", "merge_experts"])
def test_a_mixture_with_one_expert_has_none_to_give(method):
    model = built(num_local_experts=1, num_experts_per_tok=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match="Each block of MixtralForCausalLM has one expert") as caught:
        run(model, method=method, sparsity=0.5)
    assert caught.value.remedy and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.quick
def test_a_stop_is_obeyed():
    with pytest.raises(Stopped):
        run(built(), watcher=Silent(stop=True), method="reap", sparsity=0.5)


def merged(moe, tokens, goes: int) -> tuple[dict[int, list[torch.Tensor]], list[tuple[int, int, float]]]:
    """{expert left: [gate and up, down, router row]} and (into, taken, cosine), by a loop over pairs of plain copies."""
    busy = dict(enumerate(total * len(tokens) for total in visits_in_gates(moe, tokens)))
    left = {e: [moe.experts.gate_up_proj[e].clone(), moe.experts.down_proj[e].clone(), moe.gate.weight[e].clone()] for e in busy}
    done = []
    for _ in range(goes):

        def cosine(pair):
            one, other = (torch.cat([each.flatten() for each in left[e][:2]]).double() for e in pair)
            return float(one @ other / (one.norm() * other.norm()))

        one, other = max(combinations(left, 2), key=cosine)
        into, taken = (other, one) if busy[other] > busy[one] else (one, other)
        done.append((into, taken, cosine((one, other))))
        share = busy[into] / (busy[into] + busy[taken])
        left[into] = [share * mine + (1 - share) * its for mine, its in zip(left[into], left[taken], strict=True)]
        busy[into] += busy[taken]
        del left[taken], busy[taken]
    return left, done


def visits_in_gates(moe, tokens) -> list[float]:
    """Mean over tokens of each expert's gate."""
    found = [0.0] * len(moe.experts.down_proj)
    for x in tokens:
        for expert, gate in zip(*gates_of(moe, x), strict=True):
            found[expert] += gate / len(tokens)
    return found


@pytest.mark.quick
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("goes", [1, 4])
def test_the_most_alike_experts_become_their_average_by_how_busy_they_are(name, goes):
    model = built(name)
    for block in range(2):  # otherwise random experts are all as unlike as any two
        experts = mixture(model, block).experts
        for weight in (experts.gate_up_proj, experts.down_proj):
            weight[1 + block] = weight[4] + 0.1 * weight[1 + block]
    plain = copy.deepcopy(model)
    done = run(model, method="merge_experts", sparsity=goes / 6)
    for block in range(2):
        moe = mixture(plain, block)
        left, merges = merged(moe, tokens_at(plain, block), goes)
        said = done.said["merges"][f"blocks.{block}.experts"]
        assert [(each["into"], each["taken"]) for each in said] == [merge[:2] for merge in merges]
        assert [each["cosine"] for each in said] == pytest.approx([merge[2] for merge in merges], abs=1e-5)
        assert set(merges[0][:2]) == {1 + block, 4} and merges[0][2] > 0.9
        assert kept(done)[f"blocks.{block}.experts"] == sorted(left)
        after = mixture(model, block)
        for place, expert in enumerate(sorted(left)):
            now = (after.experts.gate_up_proj[place], after.experts.down_proj[place], after.gate.weight[place])
            for found, expected in zip(now, left[expert], strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        plain.model.layers[block].mlp = copy.deepcopy(after)  # what the next block sees
    assert logits(done.loaded.model).isfinite().all() and done.loaded.model.config.num_local_experts == 6 - goes


@pytest.mark.quick
def test_twins_that_are_merged_change_nothing():
    """Twin experts with twin rows in the router, of which a token visits either both or none, where all gates then go to one: outputs are equal."""
    model = built(num_experts_per_tok=6)
    for block in range(2):
        moe = mixture(model, block)
        for weight in (moe.experts.gate_up_proj, moe.experts.down_proj):
            weight[3:] = weight[:3]
        moe.gate.weight[3:] = moe.gate.weight[:3]
    before = logits(model)
    done = run(model, method="merge_experts", sparsity=0.5)
    torch.testing.assert_close(logits(done.loaded.model), before, rtol=1e-4, atol=1e-5)
    assert all(merge["cosine"] == pytest.approx(1) for each in done.said["merges"].values() for merge in each)
