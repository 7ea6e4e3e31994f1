"""The damage map as the page says it: which group pays, in words, colours and figures; and which map belongs to which budget."""

import json
import math

import pytest

from core import folder
from studio import damage
from studio.charts import damage as charts

# Three groups and all rows; two layers and all together. By hand: the groups' order with all pruned is b (0.4), a (0.2), c (no predictions).
FOUND = {
    "format": 1, "model": "builtin:tiny-llama", "method": "wanda", "unit": "token", "levels": [0.5], "shares": {}, "dense": [4.0, 4.0, None, 4.0],
    "data": {"source": "builtin:trec/train", "name": "trec", "rows": 6, "of": 9}, "predictions": [9, 8, 0, 17],
    "groups": [{"name": "cluster 0", "words": ["<b>", "who"], "rows": [1, 2]}, {"name": "cluster 1", "words": ["where", "city"], "rows": [7, 3]},
               {"name": "cluster 2", "words": [], "rows": [5, 6]}],
    "layers": ["blocks.0.mlp.up_proj", "blocks.1.mlp.up_proj"],
    "cells": [
        {"layer": "blocks.0.mlp.up_proj", "level": 0.5, "loss": [0.1, -0.05, None, 0.03], "jsd": [0.01, 0.02, None, 0.015], "cka": [0.9, 0.8, None, 0.85]},
        {"layer": "blocks.1.mlp.up_proj", "level": 0.5, "loss": [0.0, 0.3, None, 0.15], "jsd": [0.02, 0.07, None, 0.05], "cka": [0.95, None, None, 0.9]},
        {"layer": "*", "level": 0.5, "loss": [0.2, 0.4, None, math.log(1.25)], "jsd": [0.1, 0.2, None, 0.15], "cka": [0.5, 0.4, None, 0.45]},
    ],
}  # fmt: skip


def test_findings_name_group_layer_share_and_unit():
    assert (
        charts.finding(FOUND, "loss", 0.5)
        == "Cluster 1 (where, city) pays most: +0.30 nats a token when 50 % of blocks.1.mlp.up_proj goes"
    )
    assert (
        charts.finding(FOUND, "jsd", 0.5)
        == "The answers on cluster 1 (where, city) move most: 0.070 nats when 50 % of blocks.1.mlp.up_proj goes"
    )
    assert (
        charts.finding(FOUND, "cka", 0.5)
        == "Cluster 1 (where, city) is rearranged most: debiased CKA 0.80 when 50 % of blocks.0.mlp.up_proj goes"
    )
    few = {**FOUND, "predictions": [9, 1, 0, 10]}  # cluster 1 has less than half of 10 / 3, and is named in no title
    assert charts.finding(few, "loss", 0.5).startswith("Cluster 0 (<b>, who) pays most: +0.10 nats")
    # exp(log 1.25) - 1 = 25 %; exp(0.4) - 1 = 49 %
    assert charts.paying(FOUND, 0.5) == "+25 % perplexity over all rows, +49 % on cluster 1 (where, city)"
    assert charts.paying({**FOUND, "unit": "picture"}, 0.5) == "+6 % loss over all rows, +10 % on cluster 1 (where, city)"


@pytest.mark.parametrize("measure", charts.MEASURES)
def test_map_and_table_hold_every_group_and_layer_worst_first(measure):
    figure = charts.damage_map(FOUND, measure, 0.5)
    single, whole = figure.data
    assert charts.groups(FOUND, 0.5) == [1, 0, 2]
    cells = [[cell[measure][at] for cell in FOUND["cells"][:2]] for at in (1, 0, 2, 3)]
    assert [list(line) for line in single.z] == cells and [line[0] for line in whole.z] == [
        FOUND["cells"][2][measure][at] for at in (1, 0, 2, 3)
    ]
    assert single.zmin <= min(x for line in cells for x in line if x is not None) and whole.zmax == single.zmax
    assert figure.layout.yaxis.ticktext[1].startswith("cluster 0<br>") and "&lt;b&gt;" in figure.layout.yaxis.ticktext[1]
    table = charts.table(FOUND, measure, 0.5)
    assert list(table.columns) == [
        "Layer",
        "Removed, %",
        "cluster 1 (where, city)",
        "cluster 0 (<b>, who)",
        "cluster 2",
        "all rows",
    ]
    assert (
        list(table["Layer"]) == ["blocks.0.mlp.up_proj", "blocks.1.mlp.up_proj", "all together"] and table["Removed, %"][0] == 50
    )


def test_a_budget_is_told_what_its_own_map_says_else_the_newest_ones(tmp_path):
    def left(name, **changes):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        says = "model: {source: builtin:tiny-llama}\ndata: {source: builtin:trec/train}\ndamage: {}\n"
        (path / folder.RECIPE).write_text(f"recipe: 1\nname: {name}\n{says}")
        folder.write_json(path / folder.REPORT, {})
        (path / folder.DAMAGE).write_text(json.dumps({**FOUND, **changes}))

    cells = [{**cell, "level": 0.0} for cell in FOUND["cells"]]
    left("own", levels=[0.0], shares={"blocks.1": 0.3}, cells=cells)
    left("half")
    seen = damage.maps("builtin:tiny-llama", tmp_path / "runs", tmp_path)
    assert {one.run for one in seen} == {"own", "half"} and damage.measures(tmp_path / "runs", "own")
    assert damage.maps("builtin:tiny-cnn", tmp_path / "runs", tmp_path) == ()
    assert damage.maps("builtin:tiny-llama", tmp_path / "runs", tmp_path, "builtin:digits") == ()
    assert damage.who_pays(seen, {"blocks.1": 0.3, "blocks.0": 0.0}).endswith("on cluster 1 (where, city) (run own).")
    assert damage.who_pays(seen, {"blocks.0": 0.5, "blocks.1": 0.5}).startswith(" With this budget, measured on trec: +25 %")
    assert damage.who_pays(seen[:1], {"blocks.0": 0.9}).startswith((" With another budget", " With 50 % off every layer"))
    assert damage.who_pays((), {}) == ""
