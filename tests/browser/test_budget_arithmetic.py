"""The budget's arithmetic in the browser's own words (budget.js), against the engine's and against what was worked out on paper."""

import random

import pytest

from core import budget
from tests.studio_process import CHECKOUT

pytestmark = pytest.mark.browser


def test_the_page_and_the_engine_work_out_the_same_budgets(page):
    chance, cases = random.Random(0), []
    for _ in range(150):
        units = [f"blocks.{i // 2}.{'av'[i % 2]}" for i in range(chance.randrange(1, 12))]
        sizes = {unit: chance.randrange(1, 10**6) for unit in units}
        levels = sorted({0.0, *(round(chance.random(), 2) for _ in range(4))} | {1.0})
        cost = {unit: [0.0, *(chance.uniform(-0.1, 3) for _ in levels[1:])] for unit in units[1:] or units}
        curves = {"levels": levels, "cost": cost, "dense": 30.0, "scale": chance.uniform(0.5, 2), "power": chance.choice([1.0, 1.3]),
                  "within": chance.choice([None, 0.2]), "floor": chance.choice([0.0, 0.01])}  # fmt: skip
        shares = {unit: chance.choice([0.0, 1.0, 0.5, levels[1], chance.random()]) for unit in units if chance.random() < 0.8}
        cases.append({"curves": curves, "sizes": sizes, "shares": shares, "locked": [unit for unit in units if chance.random() < 0.3],
                      "target": chance.random(), "blocks": {unit: unit[: unit.rindex(".")] for unit in units},
                      "blocked": {f"blocks.{i}": chance.random() for i in range(0, 6, 2)}})  # fmt: skip
    code = (CHECKOUT / "studio" / "rooms" / "budget" / "budget.js").read_text()
    each = """[Budget.estimate(c.curves, c.sizes, c.shares), Budget.redistribute(c.shares, c.sizes, c.target, c.locked), Budget.compact(c.shares, c.blocks),
      Budget.byPart({...c.blocked, ...c.shares}, c.blocks)]"""
    found = page.evaluate(f"cases => {{ {code}; return cases.map(c => {each}); }}", cases)
    for case, (estimate, moved, short, spread) in zip(cases, found, strict=True):
        told = case["curves"]
        curves = budget.CostCurves(tuple(told["levels"]), {unit: tuple(c) for unit, c in told["cost"].items()}, 30.0, "perplexity", told["scale"],
                                   told["power"], told["within"], told["floor"])  # fmt: skip
        own = budget.estimate(curves, case["sizes"], case["shares"])
        assert (estimate["kept"], estimate["total"]) == (own.kept, own.total)
        assert [estimate[key] for key in ("low", "quality", "high")] == pytest.approx([own.low, own.quality, own.high], rel=1e-9)
        assert moved == pytest.approx(
            budget.redistribute(case["shares"], case["sizes"], case["target"], frozenset(case["locked"])), abs=1e-12
        )
        assert short == budget.compact(case["shares"], case["blocks"])
        assert spread == budget.by_part({**case["blocked"], **case["shares"]}, case["blocks"])


def test_a_shape_of_one_kind_of_layer_leaves_the_other_whole_and_stops_where_it_must(page):
    code = (CHECKOUT / "studio" / "rooms" / "budget" / "budget.js").read_text()
    sizes, weights, shares = (
        {"a": 100, "b": 100, "m": 300, "n": 300},
        {"a": 0, "b": 0, "m": 1, "n": 1},
        {"a": 0.3, "b": 0.3, "n": 0.1},
    )
    told = [[shares, sizes, weights, total, locked] for total, locked in ((0.3, []), (0.3, ["b", "n"]), (0.9, []), (0.1, ["n"]))]
    found = page.evaluate(f"cases => {{ {code}; return cases.map(c => Budget.shaped(...c)); }}", told)
    assert found[0] == pytest.approx({"a": 0, "b": 0, "m": 0.4, "n": 0.4})
    assert found[1] == pytest.approx({"a": 0, "b": 0.3, "m": 0.6, "n": 0.1})
    assert found[2] == pytest.approx({"a": 0, "b": 0, "m": 0.95, "n": 0.95})  # 0.7125 in all is what there is
    assert found[3] == pytest.approx({"a": 0, "b": 0, "m": 50 / 300, "n": 0.1})
