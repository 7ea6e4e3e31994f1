"""The map of very many rows: its shade against plain counting, its sample, and what stands in front."""

import base64

import numpy as np
import pandas as pd
import pytest

from studio.charts import data as charts
from studio.charts import data_dense as dense

pytestmark = pytest.mark.quick
AXES = ("PC 1", "PC 2")


def points(rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    x, y, trust = rng.normal(size=(3, rows)).astype(np.float32)
    frame = pd.DataFrame(
        {"row": np.arange(rows) * 2, "x": x, "y": y, "trust": np.clip(np.abs(trust), 0, 1), "cluster": rng.integers(0, 5, rows)}
    )
    return frame.assign(label=-1, score=rng.random(rows), rank=rng.permutation(rows))


def density(figure):
    return next(trace for trace in figure.data if trace.type == "heatmap")


def test_the_shade_counts_every_row_of_the_window_once():
    frame = points()
    z = density(dense.dense_map(frame, 0.3, "cluster", [], AXES)).z
    counts = np.rint(10 ** np.asarray(z, np.float64) - 1).astype(int)
    plain = np.zeros_like(counts)
    sides = [np.linspace(frame[axis].min(), frame[axis].max(), 151) for axis in ("x", "y")]
    for x, y in zip(frame["x"], frame["y"], strict=True):
        across, up = (min(int(np.searchsorted(side, at, "right")) - 1, 149) for side, at in zip(sides, (x, y), strict=True))
        plain[up, across] += 1
    assert counts.sum() == len(frame) and (counts != plain).sum() <= 4  # a row on a cell's edge may fall to either side
    window = (-0.5, 0.5, -1.0, 0.2)
    inside = ((frame["x"].abs() <= 0.5) & (frame["y"] >= -1) & (frame["y"] <= 0.2)).sum()
    z = density(dense.dense_map(frame, 0.3, "cluster", [], AXES, window)).z
    assert np.rint(10 ** np.asarray(z, np.float64) - 1).sum() == inside


def test_three_rows_by_hand():
    # Two rows at the lower left corner, one at the upper right: log10(1 + 2) and log10(1 + 1) in the corner cells, 0 elsewhere.
    z = density(dense.dense_map(points(3).assign(x=[0.0, 0, 1], y=[0.0, 0, 1]), 1.0, "cluster", [], AXES)).z
    assert z[0][0] == pytest.approx(np.log10(3)) and z[-1][-1] == pytest.approx(np.log10(2)) and np.count_nonzero(z) == 2


def test_the_sample_keeps_the_share_and_says_what_it_is(monkeypatch):
    frame = points()
    monkeypatch.setattr(dense, "DRAWN", 600)
    monkeypatch.setattr(dense, "DRAWN_ZOOMED", 500)
    places = np.asarray(dense.dense_map(frame, 0.3, "cluster", [], AXES).data[0].customdata)
    assert len(places) == 600 and abs((frame["rank"].to_numpy()[places] < 900).mean() - 0.3) < 0.01
    assert (
        dense.words(frame, None)
        == "Shade is density; 600 of the 3,000 rows here, even over the order, are points. Zoom for more."
    )
    small = (-0.2, 0.2, -0.2, 0.2)
    assert dense.words(frame, small) == f"All {len(dense.inside(frame, small)):,} rows in this window are points."
    nowhere = (50, 51, 50, 51)
    assert dense.words(frame, nowhere) == "All 0 rows in this window are points."
    dense.dense_map(frame, 0.3, "score", [], AXES, nowhere).to_json()


@pytest.mark.parametrize("colour", ["cluster", "score", "kept", "error"])
def test_chosen_rows_stand_in_front_on_both_maps_in_full_colour(colour):
    frame = points(400).assign(error=np.arange(400) % 2)
    marks = np.array([3, 17, 250])
    for figure in (
        charts.points_map(frame, 0.3, colour, [], AXES, marks),
        dense.dense_map(frame, 0.3, colour, [], AXES, None, marks),
    ):
        front = next(trace for trace in figure.data if trace.name == charts.CHOSEN)
        assert np.array_equal(front.x, frame["x"].to_numpy()[marks]) and front.hoverinfo == "skip" and min(front.marker.color) > 0
        first = figure.data[0]
        chosen = (
            np.asarray(first.selectedpoints)
            if first.customdata is None
            else np.asarray(first.customdata)[list(first.selectedpoints)]
        )
        assert chosen.tolist() == marks.tolist()


def test_trust_is_opacity():
    marker = (
        charts.points_map(points(3).assign(trust=np.float32([0, 1, np.nan]), rank=[0, 1, 2]), 1.0, "cluster", [], AXES)
        .data[0]
        .marker
    )
    assert np.allclose(marker.opacity, [0.4, 0.95, 0.92])


def test_a_hundred_thousand_points_travel_as_numbers():
    frame = points(20_000)
    told = charts.points_map(frame, 0.3, "cluster", [], AXES).to_dict()["data"][0]
    assert told["marker"]["color"]["dtype"] == "f4" and len(base64.b64decode(told["marker"]["color"]["bdata"])) == 80_000
