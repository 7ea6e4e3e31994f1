"""Budget arithmetic: exact totals, locks respected, additive estimates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.budget import HIGHEST_SHARE, CostCurves, cost_at, estimate, redistribute
from core.errors import RecipeError

pytestmark = pytest.mark.quick
CURVES = CostCurves((0.0, 0.5, 1.0), {"a": (0.0, 0.1, 1.1), "b": (0.0, 0.0, 0.2)}, dense=20.0)
SIZES = {"a": 100, "b": 300}


def test_a_curve_is_read_on_straight_lines_between_its_levels():
    # a: 0.25 is half way to the level 0.5 -> 0.05; 0.75 is half way from 0.1 to 1.1 -> 0.6
    assert cost_at(CURVES, "a", 0.25) == pytest.approx(0.05)
    assert cost_at(CURVES, "a", 0.75) == pytest.approx(0.6)
    assert cost_at(CURVES, "a", 0.0) == 0.0


def test_the_estimate_adds_the_logs_and_counts_the_weights():
    # log increase 0.1 + 0.2 * 0.5 (b at 0.75 is half way from 0 to 0.2) = 0.2; kept 50 + 75 of 400
    found = estimate(CURVES, SIZES, {"a": 0.5, "b": 0.75})
    assert found.quality == pytest.approx(20 * math.exp(0.2))
    assert (found.kept, found.total) == (125, 400)
    assert found.sparsity == pytest.approx(1 - 125 / 400)


def test_an_empty_budget_predicts_the_dense_model():
    assert estimate(CURVES, SIZES, {}).quality == 20.0


@pytest.mark.parametrize("share", [1.3, -0.1, float("nan"), "0.5"])
def test_a_share_outside_0_to_1_is_refused_in_a_sentence(share):
    with pytest.raises(RecipeError, match="between 0 and 1"):
        estimate(CURVES, SIZES, {"a": share})


def test_an_unknown_unit_is_refused_by_name():
    with pytest.raises(RecipeError, match="'c'"):
        estimate(CURVES, SIZES, {"c": 0.5})


budgets = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, HIGHEST_SHARE), min_size=n, max_size=n),
        st.lists(st.integers(1, 10_000), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.floats(0, 1),
    )
)


@given(budgets)
def test_redistributing_reaches_the_target_or_the_nearest_that_locks_allow(case):
    start, sizes, locked, target = case
    names = [f"blocks.{i}" for i in range(len(start))]
    shares, size = dict(zip(names, start, strict=True)), dict(zip(names, sizes, strict=True))
    lock = frozenset(name for name, on in zip(names, locked, strict=True) if on)
    out = redistribute(shares, size, target, lock)
    total = sum(size.values())
    reached = sum(out[n] * size[n] for n in names) / total
    fixed = sum(shares[n] * size[n] for n in lock)
    low, high = fixed / total, (fixed + sum(HIGHEST_SHARE * size[n] for n in names if n not in lock)) / total
    assert reached == pytest.approx(min(max(target, low), high), abs=1e-9)
    assert all(out[n] == shares[n] for n in lock)
    assert all(-1e-12 <= out[n] <= HIGHEST_SHARE + 1e-12 for n in names)


@given(budgets)
def test_redistributing_twice_changes_nothing_more(case):
    start, sizes, _, target = case
    names = [f"b{i}" for i in range(len(start))]
    size = dict(zip(names, sizes, strict=True))
    once = redistribute(dict(zip(names, start, strict=True)), size, target)
    assert redistribute(once, size, target) == pytest.approx(once, abs=1e-6)
