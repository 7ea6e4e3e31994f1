"""Figures as people read them."""

import pytest

from studio import cards
from studio.charts.compare import sparsity_figure
from studio.charts.run import layers_figure, live_figure
from studio.rooms.compare import difference, difference_rows, final

pytestmark = pytest.mark.quick
REPORT = {
    "dense": {"perplexity": 30.0, "nonzero": 1000, "parameters": 1000, "samples": ["In the end."]},
    "pruned": {"perplexity": 60.0, "nonzero": 500, "parameters": 1000, "samples": ["In the the."]},
    "recovered": None,
    "layers": [{"name": "blocks.0.a", "sparsity": 0.5, "asked": 0.5, "output_error": 0.1}],
}


def test_a_card_leads_with_quality_and_says_the_factor_to_dense():
    dense, pruned = cards.moments(REPORT)
    assert (dense["big"], dense["unit"]) == ("30.00", "perplexity")
    assert (pruned["big"], pruned["unit"]) == ("60.00", "perplexity, 2.00 × dense")
    assert ["Non-zero weights", "500", "better"] in pruned["rows"]
    assert ["Parameters", "1,000", ""] in pruned["rows"]


def test_a_figure_that_was_not_measured_stands_nowhere_as_a_number():
    assert cards.written("perplexity", None) == "not measured"
    assert all("Latency" not in row for card in cards.moments(REPORT) for row in card["rows"])
    assert all("Latency" not in row for row in cards.figure_rows(REPORT))


@pytest.mark.parametrize("report", [None, {}, {"dense": None}])
def test_no_report_draws_no_card(report):
    assert cards.moments(report) == []
    assert cards.figure_rows(report) == []
    assert cards.sample_texts(report, ["In"]) == []


def test_sample_texts_stand_prompt_by_prompt_with_the_prompt_once():
    assert [(item["title"], item["lead"], item["text"]) for item in cards.sample_texts(REPORT, ["In the"])] == [
        ("Dense", "In the", " end."),
        ("Pruned", "In the", " the."),
    ]


def test_the_final_model_is_the_recovered_one_where_there_was_recovery():
    assert final(REPORT) == REPORT["pruned"]
    assert final({**REPORT, "recovered": {"perplexity": 40.0}}) == {"perplexity": 40.0}


def test_differences_say_how_b_stands_against_a():
    assert difference("perplexity", 60.0, 30.0) == "-50.0 %"
    assert difference("accuracy", 0.9, 0.92) == "+2.0 points"
    assert difference("nonzero", 5, 5) == "equal"
    assert difference("latency_ms", None, 3.0) == ""


def test_a_different_dense_model_is_not_hidden():
    other = {**REPORT, "dense": {**REPORT["dense"], "perplexity": 20.0}}
    rows = {row[0]: row[1] for row in difference_rows(REPORT, other)}
    assert rows["Perplexity"] == "30.00 / 20.00"
    assert rows["Parameters"] == "1,000"


def test_charts_have_a_bar_or_a_point_for_each_layer_and_none_for_nothing():
    assert list(layers_figure(REPORT["layers"]).data[0].y) == [50.0]
    assert layers_figure([]) is None
    assert live_figure({}) is None
    both = sparsity_figure(REPORT["layers"], [{"name": "blocks.1.a", "sparsity": 0.25}], ("x", "y"))
    assert [list(trace.y) for trace in both.data] == [[50.0, None], [None, 25.0]]
    assert sparsity_figure([], [], ("x", "y")) is None
