"""Charts of the X-ray and Budget rooms: findings computed from data, table twins that say the same as the picture."""

import json
import math

import pytest

from core import folder
from core.budget import HIGHEST_SHARE, CostCurves
from core.errors import RecipeError
from core.events import Progress
from core.proposals import Parts
from studio import known
from studio.charts import budget, xray, xray_states
from studio.known import DEMOS, Trial
from studio.rooms.budget import equaliser
from studio.rooms.budget.table import merged, read_table, sent, take_over
from studio.workspace import Overtaken, Shares, Workspace

pytestmark = pytest.mark.quick


def observed(influence, layers=("attn.q_proj", "mlp.up_proj")):
    """Observations of a model whose blocks have these influences; Wanda scores grow with the block and the layer."""
    blocks = [
        {"name": f"blocks.{i}", "index": i, "parameters": 200, "scores": {"block_influence": x, "wanda": 1.0 + i}}
        for i, x in enumerate(influence)
    ]
    rows = [
        {
            "name": f"blocks.{i}.{name}",
            "block": f"blocks.{i}",
            "role": "up",
            "shape": [10, 10],
            "parameters": 100,
            "scores": {"wanda": 1.0 + i + 10 * at},
        }
        for i in range(len(influence))
        for at, name in enumerate(layers)
    ]
    labels = ["input", *(str(i) for i in range(len(influence)))]
    values = [[1.0 if a == b else 1.0 - 0.1 * abs(a - b) for b in range(len(labels))] for a in range(len(labels))]
    return {
        "model": {"parameters": 1000},
        "blocks": blocks,
        "layers": rows,
        "similarity": {"measure": "cosine", "labels": labels, "values": values},
        "curves": None,
    }


def test_the_importance_title_names_the_blocks_with_the_lowest_bars():
    data = observed([0.9, 0.05, 0.06, 0.4, 0.5, 0.7])
    assert xray.importance_finding(data, "block_influence") == "Blocks 1 and 2 change the hidden state least"
    colours = xray.importance(data, "block_influence").data[0].marker.color
    assert colours[1] == colours[2] != colours[0]
    assert len(set(colours[3:])) == 1 and colours[3] == colours[0]


def test_a_lone_lowest_block_is_named_alone():
    assert (
        xray.importance_finding(observed([0.9, 0.01, 0.5, 0.5, 0.6]), "block_influence")
        == "Block 1 changes the hidden state least"
    )


def test_a_score_that_is_no_number_is_left_out_of_the_finding():
    data = observed([None, 0.5, math.nan, 0.4, 0.45, 0.9])
    assert xray.importance_finding(data, "block_influence") == "Blocks 3 and 4 change the hidden state least"
    assert xray.metrics(observed([None, None])) == ("wanda",)


def test_the_similarity_title_names_the_most_alike_pair_off_the_diagonal():
    data = observed([0.5, 0.5, 0.5])
    data["similarity"]["values"][1][3] = data["similarity"]["values"][3][1] = 0.99
    assert (
        xray_states.similarity_finding(data) == "The hidden states after block 0 and after block 2 are most alike (cosine 0.99)"
    )
    data["similarity"]["values"][0][1] = 0.995
    assert "after the embedding and after block 0" in xray_states.similarity_finding(data)


def test_similarity_of_unequal_widths_leaves_holes_and_does_not_fail():
    data = observed([0.5, 0.5])
    data["similarity"]["values"][0][2] = data["similarity"]["values"][2][0] = None
    assert xray_states.similarity(data).data[0].z[0][2] is None
    assert xray_states.similarity({**data, "similarity": None}) is None


def test_a_click_on_the_layer_map_finds_the_layer_under_it():
    data = observed([0.1, 0.2, 0.3])
    figure = xray.layer_map(data, "wanda")
    assert list(figure.data[0].y) == ["attn.q_proj", "mlp.up_proj"]
    assert xray.layer_at(data, 2, 1) == "blocks.2.mlp.up_proj"
    assert xray.layer_at(data, 3, 0) is None


def test_a_wide_range_of_scores_is_coloured_by_its_logarithm():
    data = observed([0.1, 0.2])
    data["layers"][0]["scores"]["wanda"] = 1e-3
    heat = xray.layer_map(data, "wanda").data[0]
    assert heat.z[0][0] == pytest.approx(-3) and heat.customdata[0][0] == pytest.approx(1e-3)


def test_a_name_from_a_file_is_text_in_the_picture():
    data = observed([0.1, 0.2], layers=("<img src=x onerror=alert(1)>", "b"))
    assert xray.layer_map(data, "wanda").data[0].y[0] == "&lt;img src=x onerror=alert(1)&gt;"


def test_the_tables_say_what_the_pictures_show():
    data = observed([0.1, 0.2])
    assert list(xray.block_table(data)["Block influence"]) == list(xray.importance(data, "block_influence").data[0].y)
    assert list(xray.layer_table(data)["Wanda"]) == [1.0, 11.0, 2.0, 12.0]
    assert list(xray_states.similarity_table(data).columns) == ["after", "input", "0", "1"]


def test_the_histogram_colours_what_lies_below_the_cut():
    layer = {"histogram": {"edges": [-2, -1, 0, 1, 2], "counts": [1, 2, 3, 4]}, "cut": 0.6}
    bars = xray.histogram(layer).data[0]
    assert list(bars.x) == [-1.5, -0.5, 0.5, 1.5] and list(bars.y) == [1, 2, 3, 4]
    assert bars.marker.color[1] == bars.marker.color[2] != bars.marker.color[0]


PARTS = Parts(
    {"blocks.0.q": 400, "blocks.0.up": 600, "blocks.1.up": 500},
    {"blocks.0.q": "blocks.0", "blocks.0.up": "blocks.0", "blocks.1.up": "blocks.1"},
    {"blocks.0.q": "query", "blocks.0.up": "up", "blocks.1.up": "up"},
    {"blocks.0.q": (20, 20), "blocks.0.up": (30, 20), "blocks.1.up": (25, 20)},
)
CURVES = CostCurves(
    (0.0, 0.4, 0.8),
    {"blocks.0.q": (0.0, 0.2, 0.8), "blocks.0.up": (0.0, 0.3, 1.2), "blocks.1.up": (0.0, 0.1, 0.4)},
    20.0,
    power=1.1,
)


def test_the_budget_table_counts_what_each_block_keeps_and_costs():
    table = budget.table(PARTS, {"blocks.0": 0.2}, ("blocks.1",), CURVES, dict.fromkeys(PARTS.sizes, 0.5))
    assert list(table["Kept"]) == [800, 500] and list(table["Locked"]) == [False, True]
    assert table["Cost alone ×"][0] == pytest.approx(math.exp(0.25**1.1), abs=1e-4) and next(iter(table["Last run %"])) == 50


def test_a_block_whose_layers_differ_has_a_row_for_each_and_the_table_reads_back_the_same():
    shares = {"blocks.0.q": 0.2, "blocks.1": 0.4}
    table = budget.table(PARTS, shares, ("blocks.0.up",), CURVES, {})
    assert list(table["Block"]) == ["blocks.0.q", "blocks.0.up", "blocks.1"] and list(table["Remove %"]) == [20, 0, 40]
    found, locked = merged(Shares(shares, ("blocks.0.up",)), *read_table(table), PARTS)
    assert (found, locked) == (shares, ("blocks.0.up",))
    table.loc[2, "Remove %"] = 99
    assert merged(Shares(shares), *read_table(table), PARTS)[0]["blocks.1"] == HIGHEST_SHARE
    assert merged(Shares(shares), {}, {}, PARTS) == (shares, ())


def test_of_an_edited_table_only_the_edited_rows_are_taken_over(tmp_path):
    here = Workspace(tmp_path)
    opened = here.set_budget({"blocks.0.q": 1 / 3, "blocks.0.up": 0.123456, "blocks.1": 0.4})
    table = budget.table(PARTS, opened.budget.shares, (), CURVES, {})
    before = sent(table, opened)
    assert take_over(here, PARTS, table, before, opened.model) == opened  # nothing was edited: no row is rounded
    here.set_budget({**opened.budget.shares, "blocks.0.q": 0.7}, ("blocks.0.up",))  # another tab
    table.loc[2, "Remove %"] = 45
    taken = take_over(here, PARTS, table, before, opened.model).budget
    assert taken == Shares({"blocks.0.q": 0.7, "blocks.0.up": 0.123456, "blocks.1": 0.45}, ("blocks.0.up",))
    now = sent(budget.table(PARTS, here.read().budget.shares, here.read().budget.locked, CURVES, {}), here.read())
    with pytest.raises(Overtaken):  # the row that this table shows at 40 % stands at 45 % by now, set by another hand
        table.loc[2, "Remove %"] = 50
        take_over(here, PARTS, table, before, opened.model, now)
    assert here.read().budget == taken
    here.change(model="builtin:tiny-cnn")
    for told in (before, None):
        with pytest.raises(RecipeError, match="Another model is open"):
            take_over(here, PARTS, table, told, opened.model)
    assert here.read().budget == Shares()


def test_what_a_run_measured_is_drawn_against_what_was_predicted():
    trial = Trial("one", "wanda", 24.0, 20.0, 0.4, {"*": 0.4})
    known_now = equaliser.Known(
        parts=PARTS, curves=CURVES, trials=(trial, Trial("other", "magnitude", 30.0, 20.0, 0.4, {"*": 0.4})), method="wanda"
    )
    pairs = equaliser.compared(known_now)
    assert [(pair[0].run, pair[1], pair[2]) for pair in pairs] == [("one", pytest.approx(0.6**1.1), pytest.approx(math.log(1.2)))]
    off = 0.6**1.1 / math.log(1.2) - 1
    assert equaliser.past(known_now) == {"runs": 1, "error": pytest.approx(off)}
    assert (
        budget.tested_finding(pairs, CURVES)
        == f"Past predictions of the perplexity's increase were off by {100 * off:.0f} % (median of one run)"
    )
    points = next(trace for trace in budget.tested(pairs, CURVES).data if trace.mode == "markers")
    assert points.y[0] == pytest.approx(20.0) and budget.tested_table(pairs)["Measured increase %"][0] == 20.0
    assert equaliser.past(equaliser.Known()) is None and budget.tested_finding([], CURVES) == ""


def test_the_curves_title_names_the_dearest_and_the_cheapest_block():
    assert budget.cost_finding(CURVES, PARTS) == "Block 0 is the dearest to prune, block 1 the cheapest (each alone at 50 %)"


def test_the_present_budget_lies_on_its_curve():
    dots = [trace for trace in budget.cost_lines(CURVES, PARTS, {"blocks.1": 0.4}).data if trace.mode == "markers"]
    assert [(dot.x[0], dot.y[0]) for dot in dots] == [(40.0, pytest.approx(math.exp(0.1**1.1)))]


def test_a_level_that_broke_the_model_costs_a_great_deal_and_not_nothing():
    found = {"levels": [0.0, 0.5], "dense": 10.0, "cost": {"blocks.0": [0.0, None]}, "metric": "perplexity"}
    assert known.cost_curves({"curves": found}).cost["blocks.0"][1] == known.BROKEN_COST
    assert known.cost_curves({"curves": found}, PARTS).cost == {
        "blocks.0.q": (0.0, 8.0),
        "blocks.0.up": (0.0, 12.0),
    }  # older curves: shared out by size


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost": {"blocks.0": [0.0, float("nan")]}},
        {"dense": "much"},
        {"levels": [0.5]},
        {"cost": []},
        {"power": -1},
        {"dense": None},
    ],
)
def test_curves_that_make_no_sense_are_as_good_as_none(wrong):
    found = {"levels": [0.0, 0.5], "dense": 10.0, "cost": {"blocks.0": [0.0, 0.1]}, "metric": "perplexity"}
    assert known.cost_curves({"curves": found | wrong}, PARTS) is None


@pytest.mark.parametrize("name", [path.name for path in sorted(DEMOS.iterdir())])
def test_the_demo_is_of_the_model_that_is_committed(name):
    from core.model.files.source import fingerprint, locate

    data = json.loads((DEMOS / name / "observations.json").read_text())
    assert data["model"]["fingerprint"] == fingerprint(locate(f"builtin:{name}")), "run assets/make_demo.py again"


def test_observations_of_weights_that_lay_there_before_are_not_shown_as_measured(tmp_path):
    source, runs = "/models/mine", tmp_path / "runs"

    def observe(name, **model):
        path = folder.create(runs / name)
        folder.append_event(path, Progress("start", kind="note"))
        (path / folder.RECIPE).write_text(f"{{recipe: 1, name: {name}, model: {{source: {source}}}, observe: {{}}}}")
        folder.write_json(path / folder.OBSERVATIONS, {"model": model, "blocks": [], "layers": []})

    def shown():
        seen = known.observations(source, runs, cache=tmp_path)
        return seen and seen.run

    observe("older-version")
    known.remember(source, {"fingerprint": "b"}, tmp_path)
    assert shown() == "older-version"
    observe("before", fingerprint="a")
    assert shown() == "older-version"
    known.remember(source, {}, tmp_path)  # a description of an older version knows no fingerprint
    assert shown() == "before"
    known.remember(source, {"fingerprint": "b"}, tmp_path)
    observe("now", fingerprint="b")
    assert shown() == "now"


def test_the_demo_has_all_that_the_first_screen_draws():
    described = known.description("builtin:tiny-llama", DEMOS)
    data = known.observations("builtin:tiny-llama", DEMOS / "no-runs").data
    assert set(xray.metrics(data)) >= {"block_influence", "magnitude", "wanda"}
    assert known.sizes(described) == known.sizes(data)
    parts = known.parts(described, known.Observed(data, "precomputed demo"))
    curves = known.cost_curves(data, parts)
    assert set(curves.cost) == set(parts.sizes) and set(parts.influence) == set(known.sizes(described))
