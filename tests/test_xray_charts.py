"""Charts and places of the X-ray room: findings computed from data, tables that say the same, and sizes that stay bounded."""

import base64
import json
import math
import random

import numpy as np
import pytest

from core.errors import PrunariumError, RecipeError
from studio.charts import xray, xray_agree, xray_deep, xray_repeat, xray_states
from studio.rooms.xray import layer_card
from studio.rooms.xray import place as xray_place
from studio.rooms.xray.place import BLOCK, UNITS, WEIGHTS, Place
from tests.test_charts import observed

pytestmark = pytest.mark.quick


def richer(blocks=6):
    """Observations with four scores: magnitude falls with the block, Wanda and Taylor rise, and block 2 is missed most."""
    data = observed([0.5 + 0.01 * i for i in range(blocks)])
    for i, row in enumerate(data["blocks"]):
        row["scores"] |= {"magnitude": 10.0 - i, "taylor": 0.1 + i}
    for i, row in enumerate(data["layers"]):
        row["scores"] |= {"magnitude": 100.0 - i, "taylor": 1.0 + i}
    data["ablation"] = {"dense": 3.0, "without": {f"blocks.{i}": 3.1 + (5.0 if i == 2 else 0.01 * i) for i in range(blocks)}}
    data["runs"] = {"read_at": "last token", "values": [[0.3, 0.1, 0.2], [0.4, 0.15, None]]}
    return data


def weights(values, removed=None, share=None, window=None, metric="wanda"):
    values = np.asarray(values, dtype="<f4")
    down, across = values.shape
    return {
        "name": "blocks.0.up", "metric": metric, "how": "max", "compare": "row", "shape": [down, across], "window": window or [0, down, 0, across],
        "rows": list(range(down + 1)), "columns": list(range(across + 1)), "share": share, "protocol": "",
        "values": base64.b64encode(values.tobytes()).decode(),
        "removed": None if removed is None else base64.b64encode(np.asarray(removed, dtype="<f4").tobytes()).decode(),
    }  # fmt: skip


def test_spearman_is_scipys_with_ties():
    from scipy.stats import spearmanr

    chance = random.Random(0)
    for _ in range(30):
        count = chance.randrange(3, 40)
        a, b = ([chance.randrange(8) for _ in range(count)] for _ in range(2))
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert xray_agree.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert xray_agree.spearman([1, 2], [1, 2]) is None and xray_agree.spearman([1, 1, 1], [1, 2, 3]) is None


def test_the_agreement_title_says_how_alike_two_scores_rank():
    data = richer()
    assert xray_agree.scatter_finding(data, "wanda", "wanda").endswith("(Spearman 1.00)")
    assert "rank against each other" in xray_agree.scatter_finding(data, "magnitude", "taylor")
    assert len(xray_agree.scatter(data, "magnitude", "taylor").data[0].x) == len(data["layers"])
    depth, rows = xray_agree.pairs(data, "magnitude", "ablation")  # ablation knows blocks only
    assert depth == "blocks" and len(rows) == 6


def test_the_disagreement_title_names_the_block_with_the_widest_ranks():
    data = richer()
    table = xray_agree.rank_table(data)
    assert list(table["Magnitude"]) == [1, 2, 3, 4, 5, 6] and list(table["Taylor"]) == [6, 5, 4, 3, 2, 1]
    assert xray_agree.rank_finding(data).startswith("Block 0 divides the scores most: rank 1 of 6 by Magnitude, 6 by ")
    assert xray_agree.rank_map(data).data[0].z[0][0] == 1
    assert xray_agree.rank_map(observed([0.5])) is None and "Fewer than two" in xray_agree.rank_finding(observed([0.5]))


def test_the_masks_that_differ_most_are_named_and_random_is_no_voice():
    found = {"name": "blocks.0.up", "share": 0.5, "metrics": ["magnitude", "wanda", "random"], "left_out": {},
             "overlap": [[1, 0.8, 0.5], [0.8, 1, 0.5], [0.5, 0.5, 1]]}  # fmt: skip
    assert (
        xray_agree.overlap_finding(found)
        == "Magnitude and Wanda differ most on blocks.0.up: 80 % of what goes in common (50 % is chance)"
    )
    assert xray_agree.overlap_map(found).data[0].z[0][1] == 80 and len(xray_agree.overlap_table(found)) == 3
    assert xray_agree.overlap_map({**found, "metrics": ["wanda"], "overlap": [[1]]}) is None


def test_ablation_is_a_score_of_blocks_and_its_title_names_what_is_missed_least():
    data = richer()
    assert xray.metrics(data)[-1] == xray.ABLATION and xray.ABLATION not in xray.metrics(data, "layers")
    assert xray.importance(data, xray.ABLATION).data[0].y[2] == pytest.approx(5.1)
    assert xray.importance_finding(data, xray.ABLATION).startswith("Blocks 0 and 1 are missed least")


def test_older_observations_without_the_new_fields_are_still_drawn():
    data = observed([0.1, 0.2, 0.3])
    assert xray.ABLATION not in xray.metrics(data) and xray_states.measures(data) == ("cosine",)
    assert xray_repeat.run_map(data) is None and xray_repeat.run_finding(data) == "Runs of blocks were not measured"
    assert xray_agree.rank_map(data) is not None


def test_another_measure_turns_the_colours_and_the_title():
    data = richer(3)
    size = len(data["similarity"]["labels"])
    data["similarity"]["others"] = {
        "angular": [[0.0 if a == b else 0.2 + 0.1 * (a + b) for b in range(size)] for a in range(size)],
        "cka": [[1.0 if a == b else None for b in range(size)] for a in range(size)],
    }
    assert "(angular distance 0.30)" in xray_states.similarity_finding(data, "angular")
    assert xray_states.similarity(data, "angular").data[0].reversescale
    assert xray_states.similarity_finding(data, "cka") == "Block similarity was not measured"
    assert xray_states.similarity_table(data, "angular")["0"].iloc[0] == pytest.approx(0.3)


def test_ten_thousand_layers_make_a_picture_of_bounded_size_that_says_so():
    data = observed([0.5 + 0.4 * math.sin(i) for i in range(5000)])
    assert len(data["layers"]) == 10_000
    data["blocks"][777]["scores"]["block_influence"] = 1e-6
    bars = xray.importance(data, "block_influence").data[0]
    assert len(bars.x) <= xray.MOST_BARS and min(bars.y) == 1e-6 and "777" in bars.x
    assert (
        len(xray.layer_map(data, "wanda").to_json()) < 400_000
        and len(xray_agree.scatter(data, "wanda", "wanda").to_json()) < 800_000
    )
    assert "5,000 blocks" in xray.thinned(data) and xray.thinned(observed([0.1])) == ""
    assert len(xray_agree.rank_map(data).data[0].x) <= xray_agree.MOST_COLUMNS


def test_one_layer_and_scores_that_are_no_numbers_leave_no_blank():
    one = observed([0.3], layers=("only",))
    assert xray_deep.module_finding(one, "blocks.0", "wanda") == "Block 0 has one module, only"
    assert xray_agree.scatter_finding(one, "wanda", "wanda").endswith("cannot be compared here")
    for row in one["layers"]:
        row["scores"]["wanda"] = math.nan
    assert xray_deep.module_bars(one, "blocks.0", "wanda") is None and "No module" in xray_deep.module_finding(
        one, "blocks.0", "wanda"
    )
    assert xray.importance_finding(one, "") == "No block has a score that is a number"
    units = {"block": "blocks.0", "structure": "heads", "metric": "wanda", "scores": [None, math.nan]}
    assert xray_deep.unit_bars(units) is None and "no Wanda score" in xray_deep.unit_finding(units)


def test_units_are_sorted_and_the_share_marks_the_lowest():
    units = {"block": "blocks.1", "structure": "heads", "metric": "wanda", "scores": [2.0, 8.0, 4.0, 6.0]}
    bars = xray_deep.unit_bars(units, share=0.25).data[0]
    assert list(bars.x) == ["1", "3", "2", "0"] and list(bars.y) == [8, 6, 4, 2]
    assert bars.marker.color[3] != bars.marker.color[2] == bars.marker.color[0]
    assert xray_deep.unit_finding(units) == "Of the 4 heads of block 1, head 0 scores lowest by Wanda, 4.0 times less than head 1"
    many = {**units, "structure": "neurons", "scores": [1.0] * 900 + [900.0] * 100}
    assert len(xray_deep.unit_bars(many).data[0].x) <= xray.MOST_BARS
    assert xray_deep.unit_finding(many).startswith("5 % of the 1,000 neurons")


def test_the_weight_map_lays_the_mask_over_the_scores():
    found = weights([[1.0, 10.0], [100.0, 0.0]], removed=[[1.0, 0.0], [0.0, 1.0]], share=0.5)
    tiles, veil = xray_deep.weight_map(found).data
    assert tiles.z[1][0] == pytest.approx(2.0) and np.isnan(veil.z[0][1]) and veil.z[0][0] == 1.0
    assert "falls evenly" in xray_deep.weight_finding(found)
    assert "100 % of column 0" in xray_deep.weight_finding(weights([[1, 2], [3, 4]], removed=[[1, 0], [1, 0]], share=0.5))
    assert "column 1 stands out" in xray_deep.weight_finding(weights([[1, 90], [1, 90], [1, 90]]) | {"window": [0, 3, 0, 2]})
    assert xray_deep.weight_table(found)["Budget removes %"].iloc[0] == 0.0
    assert len(xray_deep.weight_map(weights(np.zeros((4, 4)))).data) == 1


def test_the_run_map_marks_the_least_of_each_length():
    data = richer(3)
    assert xray_repeat.best_run(data, 2) == (1, 2) and xray_repeat.run_words((1, 2)) == "blocks 1 to 2"
    assert xray_repeat.run_finding(data) == "Block 1 turns the hidden state least (0.10); of two together, blocks 1 and 2 (0.15)"
    heat, dots = xray_repeat.run_map(data, (0, 2)).data
    assert heat.z[1][2] is None and list(dots.x) == ["1", "1"]
    assert len(xray_repeat.run_table(data)) == 5
    assert xray_repeat.run_choices(data)[2:4] == (("Block 2: 0.20", "2 1"), ("Blocks 0 to 1: 0.40", "0 2"))  # for the keyboard


def test_duplicates_are_named_or_the_closest_pair_is():
    found = {"block": "blocks.0", "structure": "neurons", "threshold": 0.9, "nearest": [0.95, 0.95, 0.3], "mate": [1, 0, 1], "count": 1,
             "in_clusters": 2, "clusters": [{"size": 2, "members": [0, 1]}]}  # fmt: skip
    assert xray_repeat.duplicate_finding(found).startswith("2 of the 3 neurons of block 0 fall into 1 cluster of near copies")
    none = {**found, "threshold": 0.99, "count": 0, "in_clusters": 0, "clusters": []}
    assert "the most alike, 0 and 1, have cosine 0.95" in xray_repeat.duplicate_finding(none)
    assert sum(xray_repeat.nearest_bars(found).data[0].y) == 3
    assert list(xray_repeat.duplicate_table(found)["Which"])[:2] == ["0, 1", "0, 1"]


def test_experts_who_serve_one_kind_of_text_and_idle_ones_are_named():
    found = {"block": "blocks.0", "count": 3, "answers": [[1, 0.2, 0.5], [0.2, 1, 0.1], [0.5, 0.1, 1]], "weights": [[1.0] * 3] * 3, "top_k": 1, "tokens": 4,
             "visits": {"shares": {"tweets": [0.9, 0.1, 0.0], "prose": [0.1, 0.9, 0.0]}, "left_out": []}}  # fmt: skip
    said = xray_repeat.visit_finding(found)
    assert "expert 1 takes 90 % of the visits of prose and 10 % of tweets" in said and "expert 2 is hardly ever asked" in said
    assert xray_repeat.expert_finding(found) == "In block 0, experts 0 and 2 answer most alike (mean cosine 0.50)"
    assert xray_repeat.visit_bars({**found, "visits": {"shares": {}, "left_out": ["tweets"]}}) is None


def test_the_trail_leads_back_and_names_what_cannot_be_shown():
    data = richer()
    place = Place(WEIGHTS, "blocks.1", layer="blocks.1.mlp.up_proj", windows=((0, 5, 0, 5),))
    made = xray_place.trail(place, data, {"experts": "It is not a mixture of experts."})
    assert [item["label"] for item in made["path"]] == ["Blocks", "Block 1", "Weights of mlp.up_proj", "rows 0–4, columns 0–4"]
    by_label = {item["label"]: item for item in made["also"]}
    assert by_label["Experts"]["why"] and by_label["Weights"]["on"] and not by_label["Heads"]["why"]
    after = xray_place.read(by_label["›"]["to"])
    assert (after.block, after.layer, after.windows) == ("blocks.2", "blocks.2.mlp.up_proj", ())
    assert xray_place.read(json.loads(json.dumps(xray_place.plain(place)))) == place


@pytest.mark.parametrize(
    "told", [None, 3, "x", {"depth": "nowhere"}, {"depth": "weights", "windows": [[1, 2]]}, {"block": 7}, {"windows": "abc"}]
)
def test_a_place_that_nobody_could_have_sent_is_the_start(told):
    assert xray_place.read(told).depth == "blocks"


def test_zooming_goes_to_a_quarter_around_the_tile_and_ends_at_single_weights():
    place = Place(WEIGHTS, "blocks.0", layer="x")
    shapes = []
    for _ in range(6):
        place = xray_place.zoomed(place, (400, 1000), 399, 0)
        shapes.append(place.windows[-1])
    assert shapes[0] == (300, 400, 0, 250) and shapes[-1] == shapes[-2]
    assert shapes[-1][1] - shapes[-1][0] == xray_place.CLOSEST and len(place.windows) < 6


@pytest.mark.parametrize("text", ["lots", "0:64", "9:3, 0:4", "0:65, 0:4", "-1:5, 0:4", "0:4, 0:99999999999"])
def test_a_typed_window_that_is_none_is_a_sentence(text):
    with pytest.raises(RecipeError, match=r"window|do not lie"):
        xray_place.typed_window(text, (64, 64))
    assert xray_place.typed_window(" 0:64, 8-16", (64, 64)) == (0, 64, 8, 16) and xray_place.typed_window(" ", (64, 64)) is None


def test_a_click_leads_one_step_deeper():
    from studio.parts.plotview import Picked
    from studio.rooms.xray.place import clicked

    seen = richer()
    block = clicked(seen, Place(), Picked(0, x="3"))
    assert block == Place(BLOCK, "blocks.3") and clicked(seen, Place(), Picked(0, x="99")) is None
    layer = clicked(seen, block, Picked(0, index=1))
    assert layer == Place(WEIGHTS, "blocks.3", layer="blocks.3.mlp.up_proj") and clicked(seen, block, Picked(0, index=7)) is None
    neuron = clicked(seen, Place(UNITS, "blocks.3", "neurons"), Picked(0, custom=9, total=10))
    assert neuron.layer == "blocks.3.attn.q_proj" and neuron.windows == (
        (1, 10, 0, 10),
    )  # both layers of the synthetic model say "up"
    assert clicked(seen, layer, Picked(0, x="<b>", y="1")) is None


def test_a_click_on_an_older_picture_is_told_and_leads_nowhere():
    from studio.parts.plotview import Picked

    with pytest.raises(PrunariumError, match="has changed since"):
        xray_place.clicked(richer(), Place(rev=7), Picked(6, x="3"))
    assert xray_place.clicked(richer(), Place(rev=7), Picked(7, x="3")) == Place(BLOCK, "blocks.3")


def test_what_a_score_means_comes_from_its_own_file():
    told = layer_card.meaning("wanda")
    assert "When it lies" in told and "2306.11695" in told and "|W|" in told
    assert layer_card.meaning("ablation").startswith("### Left out") and layer_card.meaning("nonsense") == ""


def test_a_weight_that_was_not_chosen_is_told(tmp_path):
    from studio.rooms.xray import looks as xray_looks

    for place in ("", "a/b", "blocks.0.up/x/1", "blocks.0.up/1/"):
        with pytest.raises(PrunariumError, match="No weight is chosen"):
            xray_looks.ablated(None, "x", place)


def test_every_question_has_a_way_to_its_answer():
    from studio.rooms.xray import looks as xray_looks

    assert set(xray_looks.QUESTIONS) == set(xray_looks._LOOKS)
