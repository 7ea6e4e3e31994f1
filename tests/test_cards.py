"""Figures as people read them."""

import pytest

from studio.charts.live import finding, live_figure, rows, told
from studio.charts.run import layers_figure
from studio.parts import cards

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


def test_charts_have_a_bar_or_a_point_for_each_layer_and_none_for_nothing():
    assert list(layers_figure(REPORT["layers"]).data[0].y) == [50.0]
    assert layers_figure([]) is None
    assert live_figure({}) is None


def test_live_curves_stand_by_block_and_by_step_and_say_what_they_show():
    events = [
        {"kind": "progress", "stage": "prune: wanda", "done": done, "total": 2, "values": {"running_perplexity": 30.0 + done}}
        for done in (0, 1, 2)
    ] + [{"kind": "progress", "stage": "recover", "done": 1, "total": 5, "values": {"loss": 3.5, "other": 1.0}}]
    points = told(events)
    assert [list(trace.x) for trace in live_figure(points).data] == [[0, 1, 2], [1]]
    assert (
        finding(points)
        == "Perplexity went from 30 to 32 after 2 of 2 blocks or layers; the loss went from 3.5 to 3.5 in 1 of 5 steps"
    )
    noisy = {"loss": [(step, 4.0 + (step % 2) - step / 20, 20) for step in range(1, 21)]}
    assert finding(noisy) == "The loss went from 4.275 to 3.675 in 20 of 20 steps (means of 8)"
    assert rows(points)[-1] == ["training loss (nats)", "1", "3.5"]
