"""What the screen says of a plan against the last run, of a run's stages, and of dense text word by word."""

from types import SimpleNamespace

import pytest

from core import folder, sweep
from core.compare import Side
from core.events import Progress
from core.recipe import parse, to_yaml
from studio.charts.run import layers_finding
from studio.jobs import ASKED
from studio.known import description
from studio.parts import cards
from studio.rooms import compare
from studio.rooms.compare import sweeping
from studio.rooms.prune import diverging, plandiff, stages
from studio.rooms.prune.plans import Order, to_recipe
from studio.rooms.prune.stages import told

pytestmark = pytest.mark.quick


def recipe(**changes):
    return parse(to_recipe(Order(model="builtin:tiny-llama", **changes)))


def test_a_plan_is_told_by_what_it_changes_with_every_default_filled_in():
    before = recipe(source="builtin:wikitext2/train")
    assert plandiff.changes(recipe(), before) == []  # `auto` comes to the same text
    assert plandiff.changes(recipe(sparsity=0.6, seed=3), before) == [("Seed", "0", "3"), ("Share removed", "50 %", "60 %")]
    assert plandiff.changes(recipe(method="magnitude"), before) == [("Method", "Wanda", "Magnitude")]
    healed = recipe(recovery="lora", steps=50)
    assert plandiff.changes(healed, before) == [("Recovery", "none", "LoRA through the mask, 50 steps")]
    assert plandiff.changes(before, healed) == [("Recovery", "LoRA through the mask, 50 steps", "none")]
    more = recipe(recovery="lora", steps=60, healing={"rank": 4})
    assert plandiff.changes(more, healed) == [("Training steps (recover)", "50", "60"), ("rank (recover, params)", "8", "4")]
    parts = recipe(only=("blocks.1", "blocks.2"), protect=("super_weights",))
    assert plandiff.changes(parts, before) == [
        ("Only from", "none", "blocks.1, blocks.2"),
        ("Never from", "none", "the super weights"),
    ]
    target = recipe(method="flap", structure="neurons", cost="bytes", sparsity=0.2)
    assert ("Target", "none", "bytes −20 %") in plandiff.changes(target, before)
    assert ("What goes", "single weights, anywhere", "whole neurons") in plandiff.changes(target, before)


def test_a_budget_by_hand_is_told_bar_by_bar():
    def bars(**moved):
        return recipe(allocation="by_hand", shares={f"blocks.{at}": 0.2 for at in range(6)} | moved)

    assert plandiff.changes(bars(**{"blocks.0": 0.35}), bars()) == [("Block 0", "20 %", "35 %")]
    layer = plandiff.changes(bars(**{"blocks.1.mlp.up_proj": 0.5}), bars())
    assert layer == [("Block 1, mlp.up_proj", "none of its own", "50 %")]
    many = plandiff.changes(bars(**{f"blocks.{at}": 0.5 for at in range(6)}), bars())
    assert len(many) == 5 and many[-1] == ("and more of the budget", "2 other bars", "")


def test_the_same_mask_is_promised_of_a_finished_run_only(tmp_path):
    path = folder.create(tmp_path / "one")
    folder.append_event(path, Progress("start", kind="note"))
    (path / folder.RECIPE).write_text(to_yaml(recipe()))
    folder.end(path, "failed", "It failed.", "Try again.")
    assert plandiff.shown(recipe(), tmp_path, {})["title"] == "The same as the last run, one, which has not finished"
    again = folder.create(tmp_path / "two")
    (again / folder.RECIPE).write_text(to_yaml(recipe()))
    folder.end(again, "done")
    assert plandiff.shown(recipe(), tmp_path, {})["title"].endswith("two: it would give the same mask, bit for bit")


def test_the_last_run_is_the_newest_that_pruned_and_none_is_said_to_be_none(tmp_path):
    assert plandiff.shown(recipe(), tmp_path, {})["title"] == "The first run of this workspace"
    path = folder.create(tmp_path / "one")
    folder.append_event(path, Progress("start", kind="note"))
    (tmp_path / ASKED).mkdir()
    (tmp_path / ASKED / "one.yaml").write_text("torn: [")
    assert plandiff.last(tmp_path) == (None, "")
    second = folder.create(tmp_path / "two")
    folder.append_event(second, Progress("start", kind="note"))
    (second / folder.RECIPE).write_text(
        "{recipe: 1, name: a, model: {source: m}, steps: [{prune: {method: wanda, sparsity: 0.4}}]}"
    )
    assert plandiff.last(tmp_path)[1] == "two"
    assert "it would give the same mask" not in plandiff.shown(recipe(), tmp_path, {})["title"]


def test_weights_before_and_after_are_counted_where_the_shares_say_them(tmp_path):
    described = description("builtin:tiny-llama", tmp_path)
    assert plandiff.weights_left(recipe(), described) == (
        "Weights that are not zero",
        3148224,
        1968576,
    )  # as the run itself counts
    by_hand = plandiff.weights_left(recipe(allocation="by_hand", shares={"blocks.0": 0.5}), described)
    assert by_hand[2] == 3148224 - round((3148224 - 1968576) / 6)
    neurons = {"structure": "neurons", "method": "flap", "sparsity": 0.2}
    assert plandiff.budgeted(recipe(**neurons, cost="parameters"), described)[2] == pytest.approx(0.8 * 3148224)
    assert plandiff.budgeted(recipe(**neurons, cost="bytes", limit=5.0), described) == ("Bytes on disk", 6296448, 5e6)
    assert plandiff.budgeted(recipe(**neurons, cost="bytes", limit=9.0), described)[2] == 6296448  # nothing need go
    assert plandiff.budgeted(recipe(**neurons, cost="latency"), described) is None
    assert plandiff.weights_left(recipe(structure="width", method="minitron"), described) is None
    assert plandiff.weights_left(recipe(), {}) is None


def events(*said):
    return [
        {"kind": "progress", "stage": stage, "done": done, "total": total, "time_s": at, "values": {}}
        for stage, done, total, at in said
    ]


def test_stages_say_what_is_over_how_long_the_one_under_way_will_take_and_what_is_to_come():
    asked = recipe(recovery="lora")
    seen = events(("load", 0, 1, 0.0), ("load", 1, 1, 1.0), ("dense: perplexity", 0, 4, 1.0), ("dense: perplexity", 4, 4, 3.0),
                  ("prune: wanda", 0, 6, 3.0), ("prune: wanda", 2, 6, 7.0))  # fmt: skip
    assert told(asked, seen, ended=False) == [
        ("Load the model", "1.0 s"),
        ("Measure the dense model", "2.0 s"),
        ("Prune: Wanda", "2 of 6, 8 s left"),
        ("Measure what is left", "to come"),
        ("Recover: LoRA through the mask", "to come"),
        ("Measure what is left", "to come"),
    ]
    assert [words for _, words in told(asked, seen, ended=True)][2:4] == ["4.0 s", "not reached"]
    assert [words for words, _ in stages.expected(recipe(save=True))][-1] == "Save the model"


def test_the_layers_of_a_run_are_told_by_where_most_and_least_went():
    rows = [{"name": "a", "sparsity": 0.2, "output_error": None}, {"name": "b", "sparsity": 0.7, "output_error": 0.25}]
    assert layers_finding(rows) == "b gave most (70 %), a least (20 %); the output of b suffered most (error 0.25)"
    assert layers_finding(rows[:1]) == "Every layer gave about 20 %" and layers_finding([]) == ""


REPORT = {
    "dense": {"samples": [" the end"]},
    "pruned": {
        "samples": [" a start"],
        "divergence": [
            {
                "tokens": [" the", " end", "\n", "\n"],
                "kl": [0.1, 2.0, 0.0, None],
                "dense": [0.5, 0.4, 1.0, 1.0],
                "pruned": [0.5, 0.1, 1.0, 1.0],
            }
        ],
    },
}


def test_dense_words_are_coloured_by_how_far_the_other_model_is_and_the_table_has_them_all():
    dense, pruned = diverging.texts(REPORT, ["In"])
    assert [token[0] for token in dense["tokens"]] == [" the", " end", "\n"]
    assert dense["tokens"][0][1] < dense["tokens"][1][1] < 1 and "tokens" not in pruned
    assert diverging.finding(REPORT)["title"].startswith(
        "It is farthest from the dense model at “end” (2.00 nats: 40 % likely before, 10 % now)"
    )
    assert [row[1] for row in diverging.rows(REPORT)] == [" the", " end", "↵", "↵"]
    assert diverging.finding({"pruned": {}}) is None
    assert cards.sample_texts(REPORT, ["In"])[0]["title"] == "Dense"


def test_a_second_text_is_asked_for_where_a_method_weighs_two():
    made = (
        parse(to_recipe(Order(model="m", method="d_pruner", general="builtin:python-docs", samples=8, tokens=64))).steps[0].prune
    )
    assert (made.general.source, made.general.samples, made.general.tokens) == ("builtin:python-docs", 8, 64)
    assert recipe(method="d_pruner").steps[0].prune.general is None


def test_a_picture_that_cannot_be_drawn_leaves_nothing_of_the_one_before_under_its_title(tmp_path):
    sides = [Side(name, tmp_path, {}, None) for name in ("one", "two")]
    _, finding, view, table = compare.drawn(sides, "overlap", None)
    assert "No mask of the same shape" in finding["title"] and not view.visible
    kept = table.postprocess(table.value).model_dump() if not isinstance(table.value, dict) else table.value
    assert kept["data"] == [] and kept["headers"] == ["Nothing to show"]
    path = tmp_path / "runs" / "many"
    path.mkdir(parents=True)
    (path / sweep.FILE).write_text(sweeping.form_yaml("builtin:tiny-llama", ["wanda"], "30, 50"))
    folder.append_event(path, Progress("start", kind="note"))
    bench = SimpleNamespace(runs=tmp_path / "runs")
    for name, visible in (("many", True), (None, True)):
        note, view, table = sweeping._shown(bench, name)[3:6]
        assert "0 of 2 cells" in note["title"] and view.value["fig"] is None and not view.visible and table.visible is visible
    bench.runs = tmp_path / "none"
    assert [part.visible for part in (sweeping._shown(bench, "many")[at] for at in (0, 1, 2, 4, 5))] == [False] * 5
