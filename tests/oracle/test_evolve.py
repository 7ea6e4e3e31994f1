"""Formulas as trees, the genetic search over them, and the lab that judges them: against torch written out, whole-model forwards and plain loops."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch

from core import folder
from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.evolve import DEEPEST, LARGEST, Search, _grown, evolve
from core.formula import parse
from core.formula_trees import depth, grafted, places, simplified, size, tidy
from core.model.loading import from_module
from core.model.looking.formula_lab import open_lab, seen
from core.prune.formula import scores_of
from core.recipe import from_yaml
from core.run import run
from tests import tiny_models

GENERATOR = torch.Generator().manual_seed(0)
VALUES = {
    "W": torch.randn(5, 7, generator=GENERATOR),
    "X": torch.rand(1, 7, generator=GENERATOR) + 0.1,
    "G": torch.rand(5, 7, generator=GENERATOR) + 0.1,
}
CALIBRATION, WINDOWS = (torch.randint(0, 300, (5, 16), generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))


def drawn(count: int):
    rng = random.Random(0)
    return [tree for tree in (_grown(rng, 5) for _ in range(count)) if tree.names()]


@pytest.mark.quick
def test_a_tree_written_out_reads_back_as_the_same_tree():
    def shape(tree):
        return tree.kind, tree.value, tuple(shape(part) for part in tree.parts)

    texts = [
        "-W ** 2",
        "(-W) ** 2",
        "2 ** -W",
        "(W ** 2) ** 3",
        "W - (X - G)",
        "(W - X) - G",
        "W / (X / G)",
        "-(-W)",
        "-(W + X) * 2",
        "1e-07 + W",
        "W * -3",
    ]
    for tree in [*map(parse, texts), *drawn(300)]:
        written = tidy(tree)
        assert shape(parse(written.text)) == shape(tree) == shape(written), written.text
    assert tidy(parse("((abs( W ))*(X))")).text == "abs(W) * X" and tidy(parse("W-(X-G)")).text == "W - (X - G)"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("exp(log(abs(W)))", "abs(W)"), ("log(exp(X))", "X"), ("sqrt(square(W))", "abs(W)"), ("square(sqrt(X))", "X"), ("-(-W)", "W"),
        ("abs(abs(W))", "abs(W)"), ("abs(square(W))", "square(W)"), ("square(-W)", "square(W)"), ("minmax(minmax(G))", "minmax(G)"),
        ("(W + X) - X", "W"), ("(W - X) + X", "W"), ("(W * X) / X", "W"), ("(W / X) * X", "W"), ("W * 1 + 0", "W"), ("W + (2 * 3 - 5)", "W + 1"),
        ("W + (X - X)", "W"), ("W * (G / G)", "W"), ("W - W", "0"), ("exp(log(exp(log(abs(-W)))))", "abs(W)"), ("X - (W + X)", "X - (W + X)"),
        ("abs(W) * X", "abs(W) * X"), ("W ** 1", "W"), ("2 / 0 * W", "2 / 0 * W"), ("exp(1000) * W", "exp(1000) * W"),
    ],
)  # fmt: skip
def test_opposing_operations_are_removed(text, short):
    assert simplified(parse(text)).text == short


@pytest.mark.quick
def test_a_simplified_formula_has_the_value_of_the_one_it_came_from():
    changed = 0
    for tree in drawn(800):
        short = simplified(tree)
        if short.text == tidy(tree).text or not short.names():
            continue
        try:
            whole = scores_of(tree, VALUES)
        except ModelError:
            continue
        changed += 1
        assert size(short) < size(tree)
        assert torch.allclose(scores_of(short, VALUES), whole, rtol=1e-3, atol=1e-3), (tree.text, short.text)
    assert changed > 30


@pytest.mark.quick
def test_a_graft_changes_that_part_alone():
    tree = parse("abs(W) * (X + 2)")
    by_text = {part.text: at for at, part in places(tree)}
    assert grafted(tree, by_text["X"], parse("log(G)")).text == "abs(W) * (log(G) + 2)"
    assert grafted(tree, (), parse("G")).text == "G" and size(tree) == 6 and depth(tree) == 3


def distance(node) -> float:
    """How far a formula's order within rows is from that of W^2 G: a fitness without any model."""
    try:
        order = scores_of(node, VALUES).argsort(dim=1).argsort(dim=1)
    except ModelError:
        return math.nan if node.text.startswith("log") else math.inf
    target = (VALUES["W"].square() * VALUES["G"]).argsort(dim=1).argsort(dim=1)
    return float((order - target).abs().sum())


@pytest.mark.quick
def test_the_search_gets_better_and_its_seed_decides_it():
    ask = Search(12, 12, seed=1)
    first, again, other = (evolve(distance, search, lambda *_: None) for search in (ask, ask, Search(12, 12, seed=2)))
    assert first == again and [t.formula for t in other] != [t.formula for t in first]
    assert first[0].fitness < 0.5 * min(tried.fitness for tried in first if tried.generation == 0)
    assert first == sorted(first, key=lambda tried: (tried.fitness, tried.size, tried.formula))
    assert len({tried.formula for tried in first}) == len(first)
    assert all(tried.size <= LARGEST and depth(parse(tried.formula)) <= DEEPEST for tried in first)


@pytest.mark.quick
def test_what_fails_is_tried_once_and_never_wins_or_breeds():
    heard, ended = [], []
    found = evolve(
        distance, Search(8, 4, start=("W / (X - X)", "log(W)", "abs(W)")), lambda tried, _: heard.append(tried), ended.append
    )
    bad = [tried for tried in found if math.isinf(tried.fitness)]
    assert {"W / 0", "log(W)"} <= {tried.formula for tried in bad} and not any(math.isnan(tried.fitness) for tried in found)
    assert found[0].fitness <= distance(parse("abs(W)")) < math.inf and found[-len(bad) :] == bad
    assert sorted(heard, key=lambda tried: tried.rank()) == found and ended == [0, 1, 2, 3, 4]
    assert all(math.isinf(tried.fitness) for tried in evolve(lambda node: math.nan, Search(4, 2), lambda *_: None))


@pytest.mark.quick
def test_of_equals_the_shorter_wins():
    found = evolve(lambda node: float("G" not in node.names()), Search(8, 6, seed=3, start=("G * 2 + X",)), lambda *_: None)
    assert found[0].formula == "G"


def naive(model, formula: str, share: float) -> float:
    """Perplexity after pruning by a formula of W, X and G, with nothing of ours: hooks on whole forwards, autograd, a sort for each row."""
    model, values = copy.deepcopy(model), {}
    layers = [module for layer in model.model.layers for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    squares = {module: torch.zeros(module.in_features) for module in layers}

    def note(module, args):
        squares[module].add_(args[0].detach().flatten(0, -2).square().sum(0))

    handles = [module.register_forward_pre_hook(note) for module in layers]
    gradients = {module: torch.zeros_like(module.weight) for module in layers}
    for row in CALIBRATION:
        model.requires_grad_(True).zero_grad()
        model(input_ids=row[None], labels=row[None]).loss.backward()
        for module in layers:
            gradients[module] += module.weight.grad.square()
    for handle in handles:
        handle.remove()
    for module in layers:
        values = {
            "X": (squares[module] / len(CALIBRATION)).sqrt(),
            "G": (gradients[module] / len(CALIBRATION)).sqrt(),
            "W": module.weight.detach(),
        }
        names = {"abs": torch.abs, "square": torch.square, "minmax": lambda v: (v - v.min()) / (v.max() - v.min())}
        scores = eval(formula, {"__builtins__": {}}, {**values, **names}).expand(module.weight.shape)
        for row in range(module.out_features):
            order = sorted(range(module.in_features), key=lambda column: float(scores[row, column]))
            for column in order[: math.floor(share * module.in_features + 0.5)]:
                module.weight.data[row, column] = 0.0
    with torch.no_grad():
        losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in WINDOWS]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.quick
@pytest.mark.parametrize("text", ["abs(W)", "abs(W) * X", "square(W) * minmax(G)", "abs(W) * (X + 50 * G) - W"])
def test_a_formulas_fitness_is_what_a_naive_evaluation_gives(text):
    model = tiny_models.llama(3)
    lab = open_lab(from_module(model, "tiny"), CALIBRATION, WINDOWS)
    before = copy.deepcopy(model.state_dict())
    assert lab.fitness(parse(text), "unstructured", 0.4) == pytest.approx(naive(model, text, 0.4), rel=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.quick
def test_wanda_as_a_formula_is_wanda_and_equal_masks_are_measured_once():
    lab = open_lab(from_module(tiny_models.llama(3), "tiny"), CALIBRATION, WINDOWS)
    wanda = lab.perplexity(lab.masks_of("wanda", "2:4", 0.5))
    measured = len(lab.by_masks)
    for text in ("abs(W) * X", "exp(abs(W) * X)", "3 * X * abs(W)"):
        assert lab.fitness(parse(text), "2:4", 0.5) == wanda
    assert len(lab.by_masks) == measured


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("W / (X - X)", "divides by zero"), ("W / X", "divides by zero"), ("sqrt(W)", "not a number"), ("exp(1000 * abs(W) + 100)", "too large"),
        ("mean(W) * X * 0", "scores all weights of a row alike in blocks.0"), ("W - W", "scores all weights of a row alike"), ("mean(W)", "every weight alike"),
    ],
)  # fmt: skip
def test_a_formula_that_fails_is_a_sentence_and_infinitely_bad(text, says):
    lab = open_lab(from_module(tiny_models.llama(2), "tiny"), CALIBRATION, WINDOWS)
    with pytest.raises(ModelError) as told:
        seen(lab, parse(text), "unstructured", 0.5)
    assert says in told.value.problem and told.value.remedy
    assert lab.fitness(parse(text), "unstructured", 0.5) == math.inf


@pytest.mark.quick
def test_a_formulas_picture_counts_what_it_keeps():
    lab = open_lab(from_module(tiny_models.llama(2), "tiny"), CALIBRATION, WINDOWS)
    picture = seen(lab, parse("abs(W)"), "unstructured", 0.5)
    weights = {layer.name: lab.dense[layer.name] for layer in lab.layers}
    cut = torch.cat([weight.abs().flatten() for weight in weights.values()]).median()
    wanda = lab.masks_of("wanda", "unstructured", 0.5)
    for row in picture["layers"]:
        weight = weights[row["name"]].abs()
        keep = weight >= weight.sort(dim=1).values[:, weight.shape[1] // 2 : weight.shape[1] // 2 + 1]
        assert row["scores"]["mean_score"] == pytest.approx(float(weight.mean()), rel=1e-5)
        assert row["scores"]["share_kept"] == pytest.approx(float((weight > cut).float().mean()), abs=1e-6)
        assert row["scores"]["agreement"] == pytest.approx(
            float((keep & wanda[row["name"]]).sum() / wanda[row["name"]].sum()), abs=1e-6
        )
    assert set(picture["perplexity"]) == {"dense", "formula", "magnitude", "wanda"}


@pytest.mark.quick
def test_a_stop_leaves_the_weights_as_they_were():
    model, watcher = tiny_models.llama(2), Silent()
    before = copy.deepcopy(model.state_dict())
    lab = open_lab(from_module(model, "tiny"), CALIBRATION, WINDOWS, watcher)
    masks = lab.masks(lab.scores(parse("abs(W)")), "unstructured", 0.5)
    watcher.stop = True
    with pytest.raises(Stopped):
        lab.perplexity(masks)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.quick
@pytest.mark.parametrize(
    ("made", "says"), [(tiny_models.bert, "has no perplexity to judge formulas by"), (tiny_models.resnet, "has no head")]
)
def test_a_model_without_a_next_token_is_refused(made, says):
    with pytest.raises(ModelError, match=says):
        open_lab(from_module(made(), "tiny"), CALIBRATION, WINDOWS)


SMALL = """
recipe: 1
name: small
seed: {seed}
model: {{source: builtin:tiny-llama}}
calibration: {{source: builtin:wikitext2/train, samples: 2, tokens: 32}}
evolve: {{sparsity: 0.6, population: 4, generations: {generations}, samples: 2, tokens: 32, start: ["abs(W) * X", "W / (X - X)"]{more}}}
measure: {{perplexity: {{source: builtin:wikitext2/test, samples: 2, tokens: 32}}}}
"""


def searched(path, generations=2, seed=0, more="", watcher=None):
    report = run(from_yaml(SMALL.format(generations=generations, seed=seed, more=more)), path, watcher)
    return report.formulas, folder.read_json(path / folder.FORMULAS)


class StopsAfter(Silent):
    """Asks for a stop once so many formulas have been told."""

    def __init__(self, formulas: int):
        super().__init__()
        self.left = formulas

    def check(self) -> None:
        if sum(bool(said.text) for said in self.heard) >= self.left:
            raise Stopped


def test_a_search_cut_off_and_taken_up_again_ends_like_one_that_never_was(tmp_path):
    whole, written = searched(tmp_path / "whole")
    with pytest.raises(Stopped):
        searched(tmp_path / "cut", watcher=StopsAfter(6))
    left = folder.read_json(tmp_path / "cut" / folder.FORMULAS)
    assert 0 < len(left["all"]) < len(written["all"]) and left["all"] == written["all"][: len(left["all"])]
    watcher = Silent()
    resumed, again = searched(tmp_path / "on", more=f", resume: {tmp_path / 'cut'}", watcher=watcher)
    assert resumed == whole and again == written
    longer, _ = searched(tmp_path / "longer", generations=3, more=f", resume: {tmp_path / 'whole'}")
    assert longer["generations"] == 3 and longer["tried"] > whole["tried"] == len(written["all"])
    worked = sorted(row["perplexity"] for row in written["all"] if row["perplexity"] is not None)
    assert len(worked) < len(written["all"]) and worked[0] <= whole["references"]["wanda"]  # which is among the first
    assert sorted(row["perplexity"] for row in whole["best"]) == sorted(set(worked))[: len(whole["best"])]
    again = [row["again"] for row in whole["best"]]
    assert again == sorted(again) and whole["again"]["wanda"] == next(
        row["again"] for row in whole["best"] if row["formula"] == "abs(W) * X"
    )
    held = whole["held_out"]
    assert held["best"] == whole["best"][0]["formula"] and held["dense"] < held["wanda"] and held["samples"] == 2


def test_a_search_is_only_taken_up_where_it_judged_alike(tmp_path):
    searched(tmp_path / "whole", generations=1)
    with pytest.raises(RecipeError, match="another calibration"):
        searched(tmp_path / "other", seed=1, more=f", resume: {tmp_path / 'whole'}")
    with pytest.raises(RecipeError, match="no search to take up again"):
        searched(tmp_path / "nowhere", more=f", resume: {tmp_path / 'missing'}")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("evolve_", "says"),
    [
        ("{source: builtin:wikitext2/test}", "would prove nothing"), ("{population: 1}", "greater than or equal to 4"), ("{sparsity: 1.0}", "less than 1"),
        ("{structure: heads}", "unstructured or N:M"), ("{structure: '2:4', sparsity: 0.6}", "means a sparsity of 0.5"),
        ("{generation: 3}", "Did you mean 'generations'"),
    ],
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_refused_in_a_sentence(evolve_, says):
    with pytest.raises(RecipeError) as told:
        from_yaml(
            f"{{recipe: 1, name: x, model: {{source: builtin:tiny-llama}}, evolve: {evolve_}, measure: {{perplexity: {{}}}}}}"
        )
    assert says in str(told.value)


@pytest.mark.quick
def test_a_bad_formula_to_begin_with_is_refused_before_the_model_is_loaded():
    from core.catalogue import resolve

    with pytest.raises(RecipeError, match="does not know 'Q'"):
        resolve(from_yaml("{recipe: 1, name: x, model: {source: x}, evolve: {start: [W * Q]}}"))
