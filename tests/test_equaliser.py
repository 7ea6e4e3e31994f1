"""What the equaliser's page is told, and what it asks: nothing that a page sends can end in anything but a sentence."""

import math
from dataclasses import replace

import pytest

from core.budget import CostCurves, estimate
from core.errors import RecipeError
from studio import known
from studio.known import DEMOS, Trial
from studio.rooms.budget import asks as equaliser_asks
from studio.rooms.budget.equaliser import Known, compared, face, flops_a_token, kv_bytes, value
from studio.workspace import Workspace

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def has():
    described = known.description("builtin:tiny-llama", DEMOS)
    seen = known.observations("builtin:tiny-llama", DEMOS / "no-runs", curves=True)
    parts = known.parts(described, seen)
    return Known(described, parts, known.cost_curves(seen.data, parts), method="wanda")


@pytest.fixture
def asks(tmp_path, has):
    workspace = Workspace(tmp_path)
    return workspace, dict(
        zip(
            ("confirm", "commit", "step", "propose", "aim", "keep"),
            equaliser_asks.functions(workspace, lambda _: has),
            strict=True,
        )
    )


def sent(workspace, shares, locked=()):
    opened = workspace.read()
    return {"shares": shares, "locked": list(locked), "seen": opened.revision, "model": opened.model}


def test_the_page_is_given_every_layer_once_and_the_figures_of_the_model(has, tmp_path):
    told = value(Workspace(tmp_path).read(), has, {})
    assert [part["name"] for part in told["parts"]] == list(has.parts.sizes) and len(told["blocks"]) == 6
    assert told["past"] is None and told["measured"] is None and len(told["frontier"]) > 20
    # 6 blocks x (3 x 192 x 512 + 192 x (192 + 64 + 64 + 192)) + head 4096 x 192, twice; 4 x 6 blocks x 6 heads x 32 x 256.5 keys
    weights = sum(math.prod(shape) for shape in has.parts.shape.values()) + 4096 * 192
    assert flops_a_token(has.described) == 2 * weights + 4 * 6 * 6 * 32 * 256.5
    assert kv_bytes(has.described) == 2 * 6 * 2 * 32 * 2 * 512  # keys and values, blocks, heads, width, bytes, tokens
    assert flops_a_token({"kind": "image_classifier"}) is None and kv_bytes({"kind": "encoder"}) is None


def test_only_a_run_of_single_weights_is_the_last_run_of_the_budget(has, tmp_path):
    hand = Trial("bars", "magnitude", 30.0, 20.0, 0.4, {"blocks.1": 0.4})
    pruned = Trial("blocks-out", "block_influence", 40.0, 20.0, 0.3, {"blocks.3": 1.0, "blocks.4": 1.0}, "blocks")

    def measured(*trials, method="wanda"):
        return value(Workspace(tmp_path).read(), replace(has, trials=trials, method=method), {})["measured"]

    assert measured(pruned) is None
    assert (measured(pruned, hand)["run"], measured(pruned, hand)["foretold"]) == ("bars", False)
    assert measured(hand, method="magnitude")["foretold"]


def test_a_budget_is_written_as_short_as_it_can_be_said(asks, has):
    workspace, ask = asks
    mlp = [part for part in has.parts.sizes if part.startswith("blocks.0.mlp.")]
    said = ask["commit"](sent(workspace, dict.fromkeys(has.parts.sizes, 0.5) | {"nonsense": 0.3}, mlp))
    assert said["told"] == "" and said["shares"] == {f"blocks.{i}": 0.5 for i in range(6)} and said["locked"] == mlp


@pytest.mark.parametrize("share", ["lots", 1.5, float("nan"), None, -1])
def test_a_share_that_is_none_is_told_and_changes_nothing(asks, share):
    workspace, ask = asks
    said = ask["commit"](sent(workspace, {"blocks.0": share}))
    assert "must lie between 0 and 1" in said["told"] and workspace.read().budget.shares == {}


def test_an_older_page_is_told_and_given_what_stands(asks):
    workspace, ask = asks
    old = sent(workspace, {"blocks.0": 0.5})
    workspace.set_budget({"blocks.1": 0.25})
    said = ask["commit"](old)
    assert "Another tab" in said["told"] and said["shares"] == {"blocks.1": 0.25}
    assert "Another model" in ask["step"]({"which": "undo", "model": "other"})["told"]


@pytest.mark.parametrize(
    ("kind", "wish", "says"),
    [
        ("size", "tiny", "A target is a number"),
        ("size", "nan", "A target is a number"),
        ("size", "0.1", "cannot be reached: the nearest that can be had is"),
        ("size", "99", "at most 99 MB"),
        ("quality", "-5", "cannot be had: the nearest is +0.0 %"),
        ("quality", "+10 %", "at most +10 %"),
        ("faster", "1.3x", "Zeros alone make nothing faster"),
    ],
)
def test_every_target_ends_in_a_sentence(asks, kind, wish, says):
    workspace, ask = asks
    assert says in ask["aim"](sent(workspace, {}) | {"kind": kind, "value": wish})["told"]


def priced(has, ms=20.0, badge="measured"):
    """tiny-llama's prices of units as the demo holds them, with milliseconds: each head takes 1 off its block, 512 neurons 2."""
    found = known.observations("builtin:tiny-llama", DEMOS / "no-runs", curves=True).data["units"]
    for structure, off in (("heads", 2.0), ("neurons", 2.0)):
        for group in found[structure]["groups"]:
            group |= {"at": [0.0, float(group["units"])], "off": [0.0, off]}
    return replace(has, units=known.units(known.Observed({"units": found | {"latency": {"ms": ms}}}, badge)))


@pytest.mark.parametrize(
    ("structure", "kind", "wish", "says", "share"),
    [
        ("heads", "faster", "1.2", "16 ms of 20 ms, × 1.25", {4: 0.5, 2: 0.0}),  # a sixth of 20 is 3.33 ms: four heads of 1 ms
        ("neurons", "faster", "1.25", "16 ms of 20 ms, × 1.25", {6: 1 / 3}),  # 4 of the 12 ms
        ("heads", "faster", "2", "cannot be reached by heads alone: the nearest is 14 ms of 20 ms", {6: 0.5}),  # one stays
        ("neurons", "size", "99", "Nothing more needs to go", {6: 0.0}),
    ],
)
def test_targets_in_whole_units_are_met_by_what_was_priced(has, structure, kind, wish, says, share):
    asked = {"kind": kind, "value": wish, "structure": structure, "shares": {}, "locked": []}
    shares, told = equaliser_asks.solved(asked, priced(has))
    assert says in told
    of_blocks = [shares[f"blocks.{i}.self_attn.q_proj"] for i in range(6)]
    for count, wanted in share.items():
        assert sum(abs(one - wanted) < 2 / 512 for one in of_blocks) == count


def with_curves(has, structure="neurons", cost=0.1):
    """Half of a block's units cost `cost`, all of them twice that; those of block 0 three times as much."""
    units = priced(has).units
    each = {block: (0.0, *((1 + 2 * (block == "blocks.0")) * cost * at for at in (1, 2))) for block in units[structure].groups}
    found = {"structure": structure, "method": "wanda", "metric": "perplexity", "dense": 50.0, "levels": [0.0, 0.5, 1.0], "cost": each,
             "within": 0.1, "floor": 0.01}  # fmt: skip
    seen = known.Observed({"curves": found}, "measured")
    mine = replace(units[structure], seen=seen, curves=known.cost_curves(seen.data))
    return replace(has, units=units | {structure: mine})


def test_whole_neurons_are_predicted_from_their_own_curves_and_aimed_at_a_quality(has):
    mine = with_curves(has)
    faced = face(mine, "neurons")
    shares = faced.shares({"blocks.0": 0.5, "blocks.1.mlp.up_proj": 0.7})  # the second: one of seven layers, so a tenth
    assert shares["blocks.0"] == 0.5 and shares["blocks.1"] == round(0.1 * 512) / 512 and shares["blocks.2"] == 0
    said = estimate(faced.curves, faced.parts.sizes, shares)
    assert math.log(said.quality / 50) == pytest.approx(0.3 + 0.2 * 51 / 512) and said.low < said.quality < said.high
    asked = {"kind": "quality", "value": "10", "structure": "neurons", "shares": {"blocks.1": 0.25}, "locked": ["blocks.1"]}
    shares, told = equaliser_asks.solved(asked, mine)
    assert shares["blocks.1.mlp.up_proj"] == 0.25 and shares["blocks.0.mlp.up_proj"] == 0  # it costs three times as much
    spent = 0.2 * sum(shares[f"blocks.{i}.mlp.up_proj"] for i in range(6))
    assert math.log(1.1) - 0.2 / 512 <= spent <= math.log(1.1) and "go, for perplexity +10.0 %, as predicted" in told
    assert "cannot be had; the nearest: 128" in equaliser_asks.solved(asked | {"value": "2"}, mine)[1]
    with pytest.raises(RecipeError, match="Press Measure curves of heads first"):
        equaliser_asks.solved(asked | {"structure": "heads"}, mine)


def test_runs_of_whole_units_test_the_curves_of_units_alone(has, tmp_path):
    runs = tuple(
        known.Trial(structure, "wanda", 60.0, 50.0, 0.0, {"blocks.0": 0.5}, structure)
        for structure in ("neurons", "unstructured")
    )
    mine = replace(with_curves(has), trials=runs, method="wanda")
    (found,) = compared(mine, "neurons")
    assert found[0].run == "neurons" and found[1:] == pytest.approx((0.3, math.log(1.2)))
    assert [pair[0].run for pair in compared(mine)] == ["unstructured"] and compared(mine, "heads") == []
    told = value(Workspace(tmp_path).read(), mine, {})["units"]["neurons"]
    assert told["past"]["error"] == pytest.approx(0.3 / math.log(1.2) - 1) and told["curves"]["dense"] == 50


def test_a_locked_block_keeps_its_units_and_counts(has):
    asked = {"kind": "faster", "value": "1.2", "structure": "heads", "shares": {"blocks.0": 0.5}, "locked": ["blocks.0"]}
    shares, told = equaliser_asks.solved(asked, priced(has))
    assert shares["blocks.0.self_attn.q_proj"] == 0.5 and "16 ms of 20 ms" in told


def test_milliseconds_of_another_machine_are_not_shown_as_this_ones(has):
    elsewhere = priced(has, badge="precomputed demo")
    asked = {"kind": "faster", "value": "1.2", "structure": "heads", "shares": {}, "locked": []}
    assert equaliser_asks.solved(asked, elsewhere) == (None, equaliser_asks.units.UNTIMED)
    assert elsewhere.units["heads"].dense_ms is None and known.units(None) == {}
    with pytest.raises(RecipeError, match="Nothing is known of this model's heads"):
        equaliser_asks.solved(asked, has)


def test_whole_units_are_counted_as_a_run_counts_them(has):
    from core.model.units.cutting import asked_of
    from studio.known import gone_of

    group = priced(has).units["neurons"].groups["blocks.0"]
    for share in (0.0, 0.0009, 0.001, 0.3, 0.5, 0.94999, 1.0):
        assert gone_of(group, share) == asked_of(512, share)


def test_the_frontiers_table_starts_with_the_present_budget(has):
    from studio.charts.budget import frontier_table
    from studio.rooms.budget.equaliser import best_by_size

    table = frontier_table(has.curves, has.parts, best_by_size(has), {f"blocks.{i}": 0.5 for i in range(6)}, 2.0, 3_150_144)
    first, *best = table.values.tolist()
    assert first[0] == "this one" and first[2] == 50 and first[3] == first[4]  # a uniform budget is its own comparison
    assert (
        all(row[3] <= row[4] * (1 + 1e-6) for row in best)
        and best[0][2] == 0
        and best[0][3] == pytest.approx(has.curves.dense, rel=1e-5)
    )
    assert [row[1] for row in best] == sorted((row[1] for row in best), reverse=True)


def test_a_target_is_met_by_what_is_unlocked(asks, has):
    workspace, ask = asks
    shares = {"blocks.0": 0.1}
    found = ask["aim"](sent(workspace, shares, ["blocks.0"]) | {"kind": "quality", "value": "10"})
    spread = equaliser_asks.budget.by_part(found["shares"], has.parts.block)
    assert found["shares"]["blocks.0"] == 0.1
    assert estimate(has.curves, has.parts.sizes, spread).quality == pytest.approx(1.1 * has.curves.dense, rel=1e-4)
    tight = ask["aim"](sent(workspace, {"blocks.0": 0.9}, ["blocks.0"]) | {"kind": "quality", "value": "1"})
    assert "what is locked costs that much already" in tight["told"]


def test_without_curves_targets_say_what_to_do_first(has):
    bare = Known(has.described, has.parts)
    with pytest.raises(RecipeError, match="Measure curves first"):
        equaliser_asks.solved({"kind": "size", "value": "3", "shares": {}, "locked": []}, bare)


def test_proposals_keep_the_total_and_name_their_prediction(asks, has):
    workspace, ask = asks
    found = ask["propose"](sent(workspace, {f"blocks.{i}": 0.4 for i in range(6)}))
    assert found["total"] == pytest.approx(0.4)
    by_name = {each["name"]: each for each in found["proposals"]}
    assert {"uniform", "best", "influence", "erk"} <= set(by_name)
    assert by_name["best"]["quality"] == min(each["quality"] for each in found["proposals"])


def test_a_snapshot_without_a_name_is_told(asks):
    _, ask = asks
    assert "needs a name" in ask["keep"]({"name": "  "})["told"]
    kept = ask["keep"]({"name": "one"})
    assert [each["name"] for each in kept["snapshots"]] == ["one"]
    assert ask["keep"]({"name": "one", "forget": True})["snapshots"] == []


def test_curves_that_hold_no_numbers_are_refused():
    with pytest.raises(ValueError, match="no number"):
        CostCurves((0.0, 0.5), {"a": (0.0, math.nan)}, 20.0)
