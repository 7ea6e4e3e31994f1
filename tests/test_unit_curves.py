"""Curves of whole neurons and heads: what they measure is what a cut does, weights stay, and they predict what a run measures."""

import copy
import math
from statistics import median

import pytest
import torch

from core import catalogue, recipe
from core.budget import CostCurves, estimate
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.model import blocks
from core.model.inputs import text
from core.model.loading import from_module, load
from core.model.looking import curves, unit_curves
from core.model.looking.meter import Meter
from core.model.measuring.measure import perplexity
from core.model.measuring.quality import Check
from core.model.pruning.step import prune
from core.model.units.groups import unit_groups
from core.recipe import Allocation, Curves, Prune
from tests import tiny_models
from tests.oracle.test_experts import built

ASK = Curves(structure="neurons", levels=(0.3, 0.6), samples=6, tokens=128, together=6)
IDS = torch.randint(0, 300, (4, 16), generator=torch.Generator().manual_seed(3))


def by_hand(method: str, structure: str, shares: dict[str, float]) -> Prune:
    return Prune(method=method, structure=structure, allocation=Allocation(method="by_hand", shares=shares))


@pytest.fixture(scope="module")
def tried():
    """(tiny-llama, its weights before, its curves of neurons, how often it was run for them)."""
    loaded = load("builtin:tiny-llama")
    before, count = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}, [0]
    handle = loaded.model.lm_head.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 6, 128, 0)
    found = curves.measured_anew(loaded, ASK, ids, 0, Silent())
    handle.remove()
    return loaded, before, found, count[0]


def test_every_block_has_a_rising_curve_and_the_weights_are_untouched(tried):
    loaded, before, found, _ = tried
    assert all(torch.equal(before[name], weight) for name, weight in loaded.model.state_dict().items())
    assert list(found["cost"]) == [block.name for block in loaded.anatomy.blocks] and found["structure"] == "neurons"
    for curve in found["cost"].values():
        assert len(curve) == len(found["levels"]) and curve[0] == 0 and list(curve) == sorted(curve) and curve[-1] > 0
    assert all(list(errors) == sorted(errors) and 0 <= errors[-1] <= 1 for errors in found["measured"]["errors"].values())


def test_the_run_reads_the_text_as_seldom_as_it_promises(tried):
    _, _, found, count = tried
    alone, together = len(found["measured"]["alone"]), len(found["measured"]["together"])
    assert (alone, together) == (12, 6)  # two shares of each of six blocks; for SmolLM2's thirty it is 60 and 6
    few = max(ASK.samples // 6, 1)
    assert count == ASK.samples + alone * few + together * ASK.samples  # dense once, a part alone on one window in six


def test_predicted_increases_are_those_that_runs_measure(tried):
    loaded, _, found, _ = tried
    known = CostCurves(tuple(found["levels"]), {name: tuple(curve) for name, curve in found["cost"].items()}, found["dense"],
                       scale=found["scale"], power=found["power"])  # fmt: skip
    calibration = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 6, 128, 1)
    test = text.sequences("builtin:wikitext2/test", loaded.tokenizer, 24, 128, 1)
    dense, pairs = perplexity(loaded, test, Silent()), []
    for shares in unit_curves.draw_budgets(dict.fromkeys(found["cost"], 512), 6, "test")[2:]:
        said = math.log(estimate(known, dict.fromkeys(known.cost, 512), shares).quality / found["dense"])
        cut = prune(load("builtin:tiny-llama"), by_hand("wanda", "neurons", shares), lambda: calibration, 0, Silent()).loaded
        pairs.append((said, math.log(perplexity(cut, test, Silent()) / dense)))
    assert median(abs(said / true - 1) for said, true in pairs) < 0.5, (
        pairs
    )  # few windows of another text: docs/tried.md has what a longer run says
    assert [true for _, true in sorted(pairs)] == sorted(true for _, true in pairs)


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_silent_units_answer_as_if_they_were_cut_out_and_lose_so_much_of_the_readers_output(structure):
    model = tiny_models.llama(2)
    loaded = from_module(copy.deepcopy(model), "tiny")
    group = unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)[1]
    method = curves.get("score", "magnitude")
    scores, errors = unit_curves._observed(loaded, method, {"blocks.1": group}, (0.5,), IDS, 0, Silent())
    seen, reader = [], loaded.module(group.reader.path)
    handle = reader.register_forward_pre_hook(lambda _module, args: seen.append(args[0].flatten(0, 1)))
    bench = unit_curves._Bench(loaded, {"blocks.1": group}, scores, None, Silent())
    with torch.no_grad():
        blocks.call(loaded, IDS)
        handle.remove()
        with bench._without({"blocks.1": 0.5}):
            silent = blocks.call(loaded, IDS).logits
    cut = prune(from_module(model, "tiny"), by_hand("magnitude", structure, {"blocks.1": 0.5}), lambda: IDS, 0, Silent()).loaded
    with torch.no_grad():
        torch.testing.assert_close(silent, blocks.call(cut, IDS).logits, rtol=1e-4, atol=1e-5)
    gone = unit_curves._columns(group, scores["blocks.1"], group.units // 2)
    out_of = reader.weight.detach().T
    lost, whole = seen[0][:, gone] @ out_of[gone], seen[0] @ out_of
    assert errors["blocks.1"] == pytest.approx((0.0, float(lost.square().sum() / whole.square().sum())), rel=1e-3)


@pytest.mark.quick
def test_shares_are_those_that_whole_units_have_and_budgets_repeat():
    assert unit_curves.levels_of([2, 4]) == (0.25, 0.5, 0.75)  # halves and quarters
    assert unit_curves.levels_of([512, 512]) == unit_curves.ERROR_LEVELS
    units = {"blocks.0": 2, "blocks.1": 512}
    budgets = unit_curves.draw_budgets(units, 40, 0)
    assert budgets == unit_curves.draw_budgets(units, 40, 0) != unit_curves.draw_budgets(units, 40, 1)
    assert {budget["blocks.0"] for budget in budgets} == {0.0, 0.5}  # one of two stays
    assert all((budget["blocks.1"] * 512).is_integer() and budget["blocks.1"] < 0.75 for budget in budgets)
    assert sum(budget["blocks.1"] for budget in budgets) / 40 == pytest.approx(0.3, abs=0.03)


@pytest.mark.quick
def test_curves_of_structures_are_kept_apart():
    loaded = load("builtin:tiny-llama")
    files = {curves.kept_at(loaded, Curves(structure=structure), (IDS,), 0) for structure in ("unstructured", "neurons", "heads")}
    assert len(files) == 3


@pytest.mark.quick
def test_a_criterion_or_a_model_without_such_units_is_refused():
    asked = {"recipe": 1, "name": "x", "model": {"source": "builtin:tiny-llama"}}
    with pytest.raises(RecipeError, match="sparsegpt"):
        catalogue.resolve(recipe.parse(asked | {"observe": {"curves": {"structure": "neurons", "method": "sparsegpt"}}}))
    loaded = from_module(built("mixtral"), "tiny")  # its MLPs are experts
    check = Check("perplexity", IDS, lambda: 1.0, {}, lambda number: None)
    with pytest.raises(ModelError, match="No pair of layers"):
        unit_curves.unit_curves(loaded, ASK, IDS, 0, Silent(), check)
    broken = Check("perplexity", IDS, lambda: 1.0, {}, lambda number: (torch.full((1, 2), math.nan), torch.tensor([0])))
    with pytest.raises(ModelError, match="not a number"):
        Meter.of(broken, Silent())
