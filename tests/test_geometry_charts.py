"""Pictures of a geometry: findings in words, chance beside the curve, the most changed rows first."""

import numpy as np
import pandas as pd
import pytest

from studio.charts import drift, geometry, likeness


def side(name, values, chance):
    return {"name": name, "layers": ["input", "blocks.0", "blocks.1"], "measures": {"two_nn": values, "nc4": [None, None, 0.9]},
            "chance": {"two_nn": chance, "nc4": [None] * 3}, "cka": [[1, 0.5, 0.4], [0.5, 1, 0.9], [0.4, 0.9, 1]], "distinct": [9, 9, 9]}  # fmt: skip


def found(*sides):
    lines = [{"layer": f"blocks.{at}", "before": "input", "kept": kept, "procrustes": 0.1, "cka": 0.9, "moved": 0.2, "turned": True}
             for at, kept in enumerate((0.8, 0.3))]  # fmt: skip
    told = {
        "against": sides[-1]["name"],
        "chance_kept": 0.02,
        "layers": lines,
        "cka_between": [[1, 0.5, 0.4], [0.5, 0.7, 0.6], [0.4, 0.6, 0.95]],
    }
    return {"sides": list(sides), "drift": told, "neighbours": 5}


ALONE = found(side("builtin:tiny-llama", [8.0, 12.0, 6.0], [60.0, 60.0, 60.0]))
TWO = found(side("builtin:tiny-llama", [8.0, 12.0, 6.0], [10.0, 11.0, 9.0]), side("pruned", [8.0, 11.0, 4.0], [10.0, 11.0, 9.0]))


def test_a_curve_is_told_with_its_turn_and_its_chance():
    assert geometry.curve_finding(ALONE, "two_nn") == (
        "The intrinsic dimension falls from 8.00 to 6.00, by way of 12.0 after block 0 (Gaussian vectors of the same number and width: 60.0)"
    )
    assert geometry.curve_finding(ALONE, "nc4") == "At block 1, agreement with the nearest mean (NC4) is 0.90"
    assert "mle" not in dict(geometry.shown(ALONE)).values()
    assert (
        geometry.curves(ALONE, "mle") is None
        and geometry.curve_finding(ALONE, "mle") == "Intrinsic dimension (MLE) has no value here"
    )


def test_far_chance_is_an_arrow_and_near_chance_a_line_in_the_picture():
    far, near = geometry.curves(ALONE, "two_nn"), geometry.curves(TWO, "two_nn")
    assert (
        far.layout.annotations[0].text == "↑ Gaussian vectors of the same number and width: 60.0"
        and far.layout.yaxis.range[1] < 20
    )
    assert not near.layout.annotations and near.layout.yaxis.range is None
    assert [trace.name for trace in near.data] == ["Gaussian vectors of the same number and width", "tiny-llama", "pruned"]
    assert geometry.curve_table(TWO, "two_nn").shape == (6, 4)


def test_two_models_are_told_apart_where_they_differ_most():
    assert (
        geometry.curve_finding(TWO, "two_nn")
        == "The intrinsic dimension changes most after block 1: 6.00 in tiny-llama, 4.00 pruned"
    )
    assert (
        geometry.curve_finding(TWO, "kept")
        == "Most neighbours change at block 1: 30 % are kept before and after pruning (chance: 2.0 %)"
    )
    assert likeness.cka_finding(TWO, True) == "The two models differ most after block 0 (debiased CKA 0.70)"
    assert likeness.cka_finding(TWO, False) == "The rows are rearranged most between the input and block 0 (debiased CKA 0.50)"
    assert likeness.cka_map(TWO, True).data[0].z[1][1] == 0.7 and likeness.cka_table(TWO, False).shape == (3, 4)


def test_names_from_files_are_text_in_a_legend():
    named = found(side("<b onclick=x>", [1.0, 2.0, 3.0], [None] * 3))
    assert geometry.curves(named, "two_nn").data[0].name == "&lt;b onclick=x&gt;"


@pytest.fixture
def places():
    rows = np.arange(10)
    one = pd.DataFrame(
        {
            "row": rows,
            "x": 0.0,
            "y": 0.0,
            "to_x": rows / 1.0,
            "to_y": 1.0,
            "shared": rows[::-1] / 10,
            "moved": 0.5,
            "layer": "blocks.0",
        }
    )
    return pd.concat([one, one.assign(layer="blocks.1", shared=0.4, moved=rows / 10)])


def test_the_most_changed_rows_lost_most_neighbours_and_on_ties_moved_furthest(places):
    assert drift.layers(places) == ["blocks.0", "blocks.1"]
    assert drift.most_changed(places, "blocks.0", 0.3) == [9, 8, 7] and drift.most_changed(places, "blocks.1", 0.2) == [9, 8]
    assert drift.most_changed(places, "blocks.0", 0.001) == [9]
    assert (
        drift.drift_finding(TWO, places, "blocks.0", 0.2)
        == "After block 0 a row keeps 45 % of its neighbours; the 2 most changed keep 5 %"
    )
    assert drift.drift_note(TWO, "blocks.0").startswith(
        "tiny-llama before and after pruning, both on the two main axes of both together, the second turned"
    )
    figure = drift.drift_map(places, "blocks.0", 0.2)
    assert figure.data[0].customdata[-1] == 9 and list(figure.data[1].x[:2]) == [0, 9] and len(figure.data[1].x) == 6
    assert drift.drift_table(places, "blocks.0")["Row"].tolist()[:2] == [9, 8]
