"""The formula lab: what is read and what is refused, values against torch written out, and a rehearsal before any weight changes."""

from __future__ import annotations

import copy
import dataclasses
import random

import pytest
import torch

from core import catalogue
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.formula import DEEPEST, LONGEST, parse
from core.method import get
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.prune.formula import scores_of
from core.recipe import parse as recipe
from tests import tiny_models

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 300, (7, 16), generator=torch.Generator().manual_seed(3))
GENERATOR = torch.Generator().manual_seed(0)
W, X, G = (
    torch.randn(5, 7, generator=GENERATOR),
    torch.rand(1, 7, generator=GENERATOR) + 0.1,
    torch.rand(5, 7, generator=GENERATOR),
)


def run(model, expression, watcher=None, **fields):
    asked = {"method": "formula", "sparsity": 0.5, "params": {"expression": expression}, **fields}
    raw = recipe({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": asked}]})
    return prune(from_module(model, "tiny"), catalogue.resolve(raw).steps[0].prune, lambda: IDS, 0, watcher or Silent())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("W", W),
        ("  abs(W) * X\n", W.abs() * X),
        ("-W ** 2", -(W**2)),
        ("2 ** 3 ** 2 * W", 512 * W),
        ("W - X - G", (W - X) - G),
        ("W / X / 2", W / X / 2),
        ("1e-3 + .5 * W", 0.001 + 0.5 * W),
        ("square(W) * minmax(G)", W**2 * (G - G.min()) / (G.max() - G.min())),
        ("zscore(W) + rank(G)", (W - W.mean()) / W.std(correction=0) + G.flatten().argsort().argsort().reshape(5, 7) / 34),
        ("sqrt(abs(W)) - log(G + 1) + exp(X)", W.abs().sqrt() - (G + 1).log() + X.exp()),
        ("abs(W) - mean(abs(W))", W.abs() - W.abs().mean()),
        ("X", X.expand(5, 7)),
        ("minmax(W * 0) + zscore(W * 0) + rank(W * 0) + W", W),
    ],
)
def test_an_expression_means_what_torch_says(text, expected):
    found = scores_of(parse(text), {"W": W, "X": X, "G": G})
    assert found.shape == (5, 7) and torch.allclose(found, expected, atol=1e-6)


def test_equal_values_share_a_rank():
    found = scores_of(parse("rank(W)"), {"W": torch.tensor([[3.0, 1.0, 3.0], [2.0, 9.0, 1.0]])})
    assert torch.allclose(found, torch.tensor([[0.6, 0.0, 0.6], [0.4, 1.0, 0.0]]))


def test_the_tree_is_frozen_and_knows_its_names():
    tree = parse("abs(W) * (X + 2)")
    assert tree.names() == {"W", "X"} and [part.text for part in tree.parts] == ["abs(W)", "X + 2"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.value = "+"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("abs(W", "cannot be read at '(W': its bracket is never closed"),
        ("W +", "cannot be read at its end"),
        ("W X", "cannot be read at 'X'"),
        ("W + )", "cannot be read at ')'"),
        ("W\x00", "cannot be read"),
        ("w * X", "does not know 'w'"),
        ("abs * W", "does not know 'abs'"),
        ("3 + 4", "names none of W, X and G"),
        ("W.T", "may not hold 'W.T'"),
        ("W[0]", "may not hold 'W[0]'"),
        ("W @ W", "may not hold 'W @ W'"),
        ("W // 2", "may not hold 'W // 2'"),
        ("+W", "may not hold '+W'"),
        ("W > 0", "may not hold 'W > 0'"),
        ("W if W else X", "may not hold"),
        ("(lambda: W)()", "does not know the function"),
        ("[W]", "may not hold '[W]'"),
        ("True * W", "may not hold 'True'"),
        ("1j * W", "may not hold '1j'"),
        ("'W'", "may not hold"),
        ("W * (Y := 2)", "may not hold"),
        ("max(W)", "does not know the function 'max'"),
        ("__import__('os').system('id')", "does not know the function"),
        ("W.__class__.__bases__", "may not hold"),
        ("abs(W, X)", "abs takes exactly one part"),
        ("abs()", "abs takes exactly one part"),
        ("abs(x=W)", "abs takes exactly one part"),
        ("abs(*W)", "abs takes exactly one part"),
        ("abs(abs)(W)", "does not know the function"),
        ("1e31 * W", "'1e31' in the formula is too large"),
        ("9" * 150 + " * W", "is too large"),
        ("1e999 * W", "is too large"),
        ("-" * 100 + "W", f"nested more than {DEEPEST} deep"),
        ("abs(" * 17 + "W" + ")" * 17, f"nested more than {DEEPEST} deep"),
        ("(" * 99 + "W" + ")" * 99 + "+", "cannot be read"),
        ("W + " * 60 + "W", f"{LONGEST} are allowed"),
        ("W; import os", "cannot be read"),
    ],
)
def test_what_is_not_in_the_language_is_refused_with_a_remedy(text, says):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert says in caught.value.problem and caught.value.remedy


def test_whatever_is_typed_is_read_or_refused_in_a_sentence():
    """Half a formula is what the screen hands over while a person types: no other exception may come of it."""
    letters, rng = [*"WXG019.()+-*/ ,:=[]'\n\t_eé", "**", "abs(", "rank(", "lambda "], random.Random(0)
    outcomes = set()
    for _ in range(3000):
        text = "".join(rng.choices(letters, k=rng.randint(0, 12)))
        try:
            outcomes.add(bool(parse(text).names()))
        except RecipeError as error:
            assert error.problem.endswith(".") and error.remedy
            outcomes.add(None)
    assert outcomes == {True, None}


def test_a_recipe_is_refused_before_the_model_is_loaded():
    for expression, says in (("W * Q", "does not know 'Q'"), ("W" * 201, "201 characters long"), (3, "must be a str")):
        asked = {"method": "formula", "sparsity": 0.5, "params": {"expression": expression}}
        raw = recipe({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": asked}]})
        with pytest.raises(RecipeError, match=says):
            catalogue.resolve(raw)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("W / (X - X)", "divides by zero at 'W / (X - X)': X - X can be 0"),
        ("W + sqrt(W)", "not a number, or too large for one, at 'sqrt(W)'"),
        ("log(W * 0) + W", "at 'log(W * 0)'"),
        ("W ** 0.5", "at 'W ** 0.5'"),
        ("exp(W * 1000)", "at 'exp(W * 1000)'"),
        ("mean(W)", "scores every weight alike"),
    ],
)
def test_what_is_no_number_is_refused_at_the_part_that_makes_it(text, says):
    with pytest.raises(ModelError) as caught:
        scores_of(parse(text), {"W": W, "X": X, "G": G})
    assert says in caught.value.problem and caught.value.remedy


@pytest.mark.parametrize("expression", ["W / X", "log(X) * W", "abs(W) * X ** -1", "abs(W) / (G - G)", "sqrt(W) * G", "sqrt(W)"])
def test_it_is_tried_on_every_layer_before_any_weight_changes(expression):
    """X is positive in the dense model, but may be 0 once earlier blocks are pruned; so that is tried too."""
    model = tiny_models.llama(3)
    with torch.no_grad():  # the first block alone would pass sqrt(W)
        for module in model.model.layers[0].modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.abs_()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError):
        run(model, expression)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("expression", "method", "fields"),
    [
        ("abs(W) * X", "wanda", {}),
        ("abs(W) * X", "wanda", {"structure": "2:4"}),
        ("abs(W) * X", "wanda", {"allocation": "global"}),
        ("square(W) * minmax(G)", "pruner_zero", {}),
        ("abs(W) * (X + 1131 * G)", "gblm", {"allocation": "owl"}),
    ],
)
def test_a_known_criterion_written_as_a_formula_gives_its_masks(expression, method, fields):
    written = run(tiny_models.llama(3), expression, **fields)
    step = recipe(
        {"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": {"method": method, "sparsity": 0.5, **fields}}]}
    )
    known = prune(from_module(tiny_models.llama(3), "tiny"), step.steps[0].prune, lambda: IDS, 0, Silent())
    assert written.masks.keys() == known.masks.keys()
    assert all(torch.equal(written.masks[name].unpack(), mask.unpack()) for name, mask in known.masks.items())


@pytest.mark.parametrize(
    ("expression", "needs"),
    [
        ("abs(W)", set()),
        ("abs(W) * X", {"input_norm"}),
        ("W * G", {"gradient_norm"}),
        ("W + X * G", {"input_norm", "gradient_norm"}),
    ],
)
def test_only_what_the_expression_names_is_collected(expression, needs):
    method, watcher = get("score", "formula"), Silent()
    assert method.needed({"expression": expression}) == needs and method.needed() == method.needs == {"input_norm"}
    run(tiny_models.llama(2), expression, watcher)
    stages = {said.stage for said in watcher.heard}
    assert ("gradients" in stages) == ("gradient_norm" in needs) and ("observe" in stages) == ("input_norm" in needs)
