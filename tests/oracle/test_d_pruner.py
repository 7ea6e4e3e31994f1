"""D-Pruner and the second text that it reads, against plain gradients of both."""

from __future__ import annotations

import copy

import pytest
import torch

from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import RecipeError
from core.events import Silent
from core.method import get
from core.model.inputs.texts import Texts
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import Prune, from_yaml, parse, to_yaml
from tests import tiny_models

IDS, GENERAL = (torch.randint(0, 300, (count, 16), generator=torch.Generator().manual_seed(count)) for count in (5, 7))


def gradients(model, ids) -> dict[str, torch.Tensor]:
    """{parameter name: (sequences, out, in)}, one backward a sequence by the model's own loss."""
    model, found = copy.deepcopy(model), {}
    for sequence in ids:
        model.zero_grad()
        model(input_ids=sequence[None], labels=sequence[None], use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            found.setdefault(name, []).append(parameter.grad.clone())
    return {name: torch.stack(each) for name, each in found.items()}


BOTH = Texts(lambda: GENERAL)


def run(model, texts=BOTH, watcher=None, **fields):
    return prune(from_module(model, "tiny"), Prune(method="d_pruner", **fields), lambda: IDS, 0, watcher or Silent(), texts)


@pytest.mark.quick
@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_masks_equal_the_formula_on_plain_gradients_of_both_texts(mix):
    model = tiny_models.llama(2)
    domain, general = gradients(model, IDS), gradients(model, GENERAL)
    done = run(copy.deepcopy(model), sparsity=0.5, params={"mix": mix})
    assert len(done.masks) == 14
    for path, mask in done.masks.items():
        weight = model.get_submodule(path).weight.detach()
        lost = [
            (0.5 * g.square().mean(0) * weight**2 - g.mean(0) * weight).abs()
            for g in (domain[f"{path}.weight"], general[f"{path}.weight"])
        ]
        scores = (1 - mix) * lost[0] + mix * lost[1]
        keep = torch.ones(scores.numel(), dtype=torch.bool)
        keep[scores.flatten().argsort(stable=True)[: scores.numel() // 2]] = False
        assert (mask.unpack().flatten() != keep).float().mean() < 0.004, path


@pytest.mark.quick
def test_d_pruner_by_hand():
    """w = 2; domain g = 3, f = 1: |1 * 4 / 2 - 6| = 4; general g = -1, f = 0.5: |0.5 * 4 / 2 + 2| = 3; a quarter general: 3.75."""
    given = {name: torch.tensor([[value]]) for name, value in
             (("weight", 2.0), ("gradient", 3.0), ("gradient_square", 1.0), ("general_gradient", -1.0), ("general_gradient_square", 0.5))}  # fmt: skip
    assert float(get("score", "d_pruner")(given, {"mix": 0.25})) == 3.75


@pytest.mark.quick
def test_without_a_second_text_nothing_changes_and_the_sentence_says_where_to_name_it():
    model, watcher = tiny_models.llama(2), Silent()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError, match="second text") as caught:
        run(model, Texts(), watcher, sparsity=0.5)
    assert "general:" in caught.value.remedy and not watcher.heard
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.quick
def test_one_ranking_over_all_layers_reads_both_texts_once():
    asked, watcher = [], Silent()
    done = run(
        tiny_models.llama(2), Texts(lambda: asked.append(1) or GENERAL), watcher, sparsity=0.5, allocation={"method": "global"}
    )
    assert asked == [1] and sum(said.stage == "gradients" and said.done == 0 for said in watcher.heard) == 2
    assert sum(int((~m.unpack()).sum()) for m in done.masks.values()) == round(0.5 * sum(r.parameters for r in done.rows))


def recipe(**step):
    return parse(
        {
            "recipe": 1,
            "name": "x",
            "model": {"source": "x"},
            "calibration": {"source": "law.txt", "samples": 9, "tokens": 33},
            "steps": [{"prune": step}],
        }
    )


@pytest.mark.quick
def test_a_recipe_names_the_second_text_or_gets_the_standard_one_and_says_so():
    resolved = resolve(recipe(method="d_pruner", sparsity=0.5), cards())
    general = resolved.steps[0].prune.general
    assert (general.source, general.samples, general.tokens) == ("builtin:wikitext2/train", 9, 33)
    named = resolve(recipe(method="d_pruner", sparsity=0.5, general={"source": "open.txt", "samples": 4, "tokens": 8}), cards())
    assert named.steps[0].prune.general.source == "open.txt"
    for one in (resolved, named):
        assert from_yaml(to_yaml(one, full=True)) == one


@pytest.mark.quick
def test_a_second_text_is_refused_where_nobody_reads_it_and_observe_refuses_to_show_a_method_that_does():
    with pytest.raises(RecipeError, match="wanda reads no general text") as caught:
        resolve(recipe(method="wanda", sparsity=0.5, general={"source": "open.txt"}), cards())
    assert "d_pruner" in caught.value.remedy
    seen = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "observe": {"scores": ["d_pruner"]}})
    with pytest.raises(RecipeError, match="second text"):
        resolve(seen, cards())
