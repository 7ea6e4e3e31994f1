"""Runs side by side: what is compared, what cannot be and why, intervals, masks laid over each other, and the report in one file."""

import html
import json
import math
import re
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from safetensors.numpy import save_file

from core import compare, folder
from core.compare import Side
from core.compare import masks as compare_masks
from core.compare import page as comparison_page
from core.compare import words as compare_words
from core.errors import ResourceError
from core.events import Progress
from core.report import final
from studio.charts import compare as charts
from studio.charts import robust

pytestmark = pytest.mark.quick
HOSTILE = '</pre><script>alert("x")</script><img src=//example.com/a.png>'
RECIPE = (
    "{{recipe: 1, name: {name}, model: {{source: 'builtin:{model}'}}, steps: [{{prune: {{method: magnitude, sparsity: 0.5}}}}], "
    "measure: {{generate: ['In the']}}}}"
)


class Tags(HTMLParser):
    """Names of all tags and attributes in a page."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def made(root, name, losses=(3.0, 4.0), protocol=None, model="tiny-llama", masks=None, **more):
    """A finished run folder."""
    path = folder.create(root / name)
    mean = sum(losses) / len(losses)
    figures = {
        "perplexity": math.exp(mean),
        "nonzero": 500,
        "parameters": 1000,
        "window_losses": list(losses),
        **more.pop("final", {}),
    }
    report = {
        "name": name,
        "dense": {"perplexity": 20.0, "nonzero": 1000, "parameters": 1000, "samples": ["In the end."], **more.pop("dense", {})},
        "pruned": {"samples": ["In the the."], **figures},
        "recovered": None,
        "layers": [{"name": "blocks.0.a", "sparsity": 0.5, "asked": 0.5}],
        "protocol": {"perplexity": protocol or {"source": "t", "tokens": 64}, **more.pop("protocols", {})},
    }
    (path / folder.RECIPE).write_text(RECIPE.format(name=name, model=model))
    (path / folder.REPORT).write_text(json.dumps(report))
    if masks:
        save_file(masks, path / folder.MASK)
    folder.append_event(path, Progress("start", kind="note"))
    folder.end(path, "done")
    return compare.side(path)


def test_a_difference_has_an_interval_that_pairs_the_windows(tmp_path):
    """Windows of very different difficulty, each 0.1 nats worse: unpaired, nothing could be said; paired, it is exact."""
    a, b = made(tmp_path, "a", (1.0, 3.0, 5.0)), made(tmp_path, "b", (1.1, 3.1, 5.1))
    found = compare.difference("perplexity", a, b)
    assert found.change == pytest.approx(math.expm1(0.1))
    assert (found.low, found.high) == (pytest.approx(math.expm1(0.1)), pytest.approx(math.expm1(0.1)))
    assert "surely better than B" in compare_words.verdict([a, b])
    noisy = made(tmp_path, "c", (1.5, 2.6, 5.0))
    assert compare.difference("perplexity", a, noisy).low < 0 < compare.difference("perplexity", a, noisy).high
    assert "within the noise" in compare_words.verdict([a, noisy])


def test_accuracy_is_paired_image_by_image():
    one, two = (
        {"right": np.packbits(np.array(bits, dtype=bool)).tobytes().hex()} for bits in ([1] * 8 + [0] * 8, [1] * 4 + [0] * 12)
    )
    low, high = compare.interval("accuracy", one, two)
    assert low < -0.25 < high < 0.01
    assert compare.interval("accuracy", one, {"right": "no hex"}) is None
    assert compare.interval("accuracy", one, {}) is None


def test_figures_that_were_measured_otherwise_are_not_compared_and_it_is_said_why(tmp_path):
    a, b = made(tmp_path, "a"), made(tmp_path, "b", protocol={"source": "t", "tokens": 128})
    assert compare.difference("perplexity", a, b).why == "measured otherwise: tokens 64 and 128"
    assert compare.apart([a, b]) == ["Perplexity of A and B cannot be compared (measured otherwise: tokens 64 and 128)."]
    row = next(row for row in compare_words.figure_rows([a, b]) if row[0] == "Perplexity")
    assert row[-1] == "not comparable"
    other = made(tmp_path, "c", model="tiny-moe", dense={"parameters": 2000})
    assert "different models (builtin:tiny-llama, builtin:tiny-moe)" in compare.apart([a, other])[0]
    assert compare.difference("perplexity", a, other).why == "other models, which may read other tokens"
    latency = {"latency": {"batch": 1, "quartiles_ms": {"dense": [1, 2]}}}
    x, y = (made(tmp_path, n, protocols=latency, final={"latency_ms": ms}) for n, ms in (("x", 2.0), ("y", 3.0)))
    assert compare.difference("latency_ms", x, y).change == 0.5


def test_runs_that_cannot_be_compared_are_named_and_the_others_stand(tmp_path):
    good = made(tmp_path, "good")
    folder.create(tmp_path / "unfinished")
    (folder.create(tmp_path / "damaged") / folder.REPORT).write_text("{torn")
    (folder.create(tmp_path / "other") / folder.REPORT).write_text('{"dense": null, "pruned": null}')
    found, bad = compare.sides([(name, tmp_path / name) for name in ("good", "unfinished", "damaged", "other", "gone")])
    assert [at.name for at in found] == [good.name]
    assert [re.search(r"no report|damaged|pruned no model", words)[0] for words in bad] == [
        "no report",
        "damaged",
        "pruned no model",
        "no report",
    ]
    with pytest.raises(ResourceError, match="at most 8"):
        compare.sides([("a", tmp_path)] * 9)


def test_overlap_of_two_masks_by_hand():
    """Four weights: A prunes {0, 1}, B prunes {1, 2}: 1 shared of 3 = 1/3; chance expects 1 shared of 4."""
    a, b = np.array([0, 0, 1, 1], bool), np.array([1, 0, 0, 1], bool)
    found = compare_masks.overlap(a, b)
    assert found["jaccard"] == pytest.approx(1 / 3)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["agree"] == 0.5
    assert compare_masks.overlap(a, b[:2]) is None
    assert compare_masks.overlap(np.ones(3, bool), np.ones(3, bool))["jaccard"] == 1.0
    tiles = compare_masks.difference_map(np.array([[0, 1], [1, 1]], bool), np.array([[1, 1], [1, 0]], bool))
    assert tiles.tolist() == [[-1.0, 0.0], [0.0, 1.0]]


def test_masks_of_any_size_are_compared_where_they_lie(tmp_path):
    """Two of 40 MB differ in the last row alone; 8 MiB and some is all that is held of them."""
    a = np.ones((5, 2000, 4000), bool)
    b = a.copy()
    b[-1, -1] = False
    save_file({"experts": a}, tmp_path / "a")
    save_file({"experts": b}, tmp_path / "b")
    lying = [folder_of(tmp_path, name, file) for name, file in (("one", "a"), ("two", "b"))]
    del a, b
    one, two = (compare_masks.masks(path)["experts"] for path in lying)
    tracemalloc.start()
    found, tiles = compare_masks.overlap(one, two), compare_masks.difference_map(one, two)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["jaccard"] == 0.0 and found["agree"] == pytest.approx(1 - 4000 / 40_000_000)
    assert tiles.shape == (5, 96) and np.count_nonzero(tiles) == 1
    assert tiles.sum() == pytest.approx(4000 / (8_000_000 / 96), rel=0.01)
    assert peak < 12 * 2**20


def folder_of(root, name, file):
    (root / name).mkdir()
    (root / file).rename(root / name / folder.MASK)
    return root / name


def test_heads_are_read_from_masks_of_weights_and_of_whole_heads(tmp_path):
    told = {"heads": {"blocks.0": {"count": 2, "weights": [["q.weight", 0], ["o.weight", 1]]}}}
    q, o = np.array([[0, 0], [1, 1]], bool), np.array([[1, 1], [0, 1]], bool)
    at = made(tmp_path, "weights", protocols=told, masks={"q.weight": q, "o.weight": o})
    assert compare_masks.heads(at) == {"blocks.0": [0.75, 0.0]}
    whole = made(tmp_path, "whole", masks={"blocks.1.attention.heads": np.array([True, False])})
    assert compare_masks.heads(whole) == {"blocks.1": [0.0, 1.0]}


def test_a_damaged_mask_is_no_mask(tmp_path):
    at = made(tmp_path, "a")
    (at.path / folder.MASK).write_bytes(b"\xff" * 20)
    assert compare_masks.masks(at.path) == {}


def test_the_front_holds_what_no_other_beats_in_both():
    points = [(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 1.0)]
    assert compare.front(points, less_is_better=True) == [0, 1, 3]
    assert compare.front(points, less_is_better=False) == [0]
    assert compare.front([(1000.0, 9.0), (1001.0, 5.0), (1001.0, 5.0)], less_is_better=True) == [
        1
    ]  # a weight in a thousand is none


def test_every_picture_has_a_finding_and_a_table_or_says_why_it_is_empty(tmp_path):
    masks = {"model.layers.0.a.weight": np.array([[0, 1], [1, 1]], bool)}
    a, b = made(tmp_path, "a", masks=masks), made(tmp_path, "b", (3.2, 4.4), masks={name: ~mask for name, mask in masks.items()})
    for picture in (
        charts.pareto([a, b]),
        charts.sparsity([a, b]),
        charts.overlap([a, b]),
        charts.difference_map([a, b], 1, next(iter(masks))),
    ):
        assert picture.finding and picture.figure is not None and picture.rows and len(picture.rows[0]) == len(picture.headers)
    assert charts.overlap([a, b]).finding == "A and B share 0 % of all they prune between them; chance would give 23 %"
    for empty in (charts.heads([a, b], 1), robust.corruptions([a, b]), robust.geometry([a, b])):
        assert empty.figure is None and empty.finding.endswith((".", "classifier."))


def test_the_report_is_one_file_that_asks_nobody_for_anything_and_escapes_every_word(tmp_path):
    a, b = made(tmp_path, "a"), made(tmp_path, "b", (3.3, 4.1), final={"samples": [HOSTILE]})
    hostile = Side(HOSTILE, b.path, {**b.report, "layers": [{"name": HOSTILE, "sparsity": 0.2}]}, b.recipe)
    page = comparison_page.page([a, hostile])
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    seen = Tags()
    seen.feed(page)
    assert {"svg", "table", "pre"} < seen.names and not seen.names & {"script", "img", "link", "iframe", "object", "use", "image"}
    assert not seen.attributes & {"src", "href", "xlink:href", "onload", "onclick", "data", "action"}
    assert "url(" not in page and "@import" not in page
    assert "method: magnitude" in page and "<svg" in page and "default-src 'none'" in page
    file = comparison_page.write([a, b], tmp_path / "reports")
    assert file.read_text().startswith("<!doctype html>") and len(file.read_text()) < 100_000


def test_the_report_holds_every_picture_of_the_room_with_its_finding_and_its_table(tmp_path):
    """Two heads of one row each in a matrix of two rows; features and corrupted images by hand."""
    mask = {"model.layers.0.a.weight": np.array([[0, 1], [1, 1]], bool)}
    figure = {"at": [0.1, 0.2, 0.3, 0.4, 0.5]}
    measured = {
        "corruptions": {"clean": 0.9, "noise": {"3": 0.7}}, "geometry": dict.fromkeys(("angle", "norm", "margin"), figure),
        "size_bytes": 900, "divergence": [{"kl": [0.5, None], "tokens": ["<b>", "x"], "dense": [0.5, 0.1], "pruned": [0.4, 0.1]}],
    }  # fmt: skip
    protocols = {"heads": {"blocks.0": {"count": 2, "weights": [["model.layers.0.a.weight", 0]]}}}
    a, b = (
        made(tmp_path, name, losses, masks={key: value ^ flip for key, value in mask.items()}, final={**measured, "size_bytes": size},
             dense={**measured, "size_bytes": 1000}, protocols=protocols)
        for name, losses, flip, size in (("a", (3.0, 4.0), False, 900), ("b", (3.3, 4.1), True, 800))
    )  # fmt: skip
    page = comparison_page.page([a, b])
    seen = [charts.pareto([a, b]), charts.pareto([a, b], "size_bytes"), charts.sparsity([a, b]), charts.overlap([a, b]),
            charts.difference_map([a, b], 1, next(iter(mask))), charts.heads([a, b], 0), charts.heads([a, b], 1), robust.corruptions([a, b]),
            robust.geometry([a, b])]  # fmt: skip
    assert all(picture.figure is not None for picture in seen)
    for picture in seen:
        assert f"<b>{html.escape(picture.finding)}</b>" in page
        assert all(f"<td>{html.escape(cell)}</td>" in page for row in picture.rows for cell in row)
    assert (
        page.count("<details>") == len(seen) and page.count("<svg") == len(seen) + 2
    )  # of geometry one for each of its three figures
    assert 'title="0.500 nats"' in page and "&lt;b&gt;</span>" in page


def test_the_command_writes_the_report_and_says_in_a_sentence_what_is_wrong(tmp_path):
    a = made(tmp_path, "a")
    words = [sys.executable, "-m", "core.compare.page"]
    done = subprocess.run([*words, str(a.path), "--out", str(tmp_path / "a.html")], capture_output=True, text=True)
    assert (done.returncode, (tmp_path / "a.html").is_file()) == (0, True), done.stderr
    wrong = subprocess.run([*words, str(tmp_path / "none"), "--out", str(tmp_path / "b.html")], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1) and "no report" in wrong.stderr


def test_the_final_model_is_what_the_last_step_left(tmp_path):
    """Pruned, recovered, and pruned again: the middle one is not what is saved."""
    steps = [{"kind": "prune"}, {"kind": "recover"}, {"kind": "prune"}]
    report = {"steps": steps, "pruned": {"nonzero": 40}, "recovered": {"nonzero": 70}}
    assert final(report) == ("pruned", {"nonzero": 40})
    assert final({**report, "steps": steps[:2]}) == ("recovered", {"nonzero": 70})
    assert final({"pruned": {"nonzero": 40}, "recovered": None}) == ("pruned", {"nonzero": 40})
    assert final({}) == ("pruned", {})


def test_what_fills_up_the_last_byte_is_no_image(tmp_path):
    """Ten images, all right and all wrong: the difference is one, without a doubt."""
    one, two = ({"right": np.packbits(np.array(bits, dtype=bool)).tobytes().hex()} for bits in ([1] * 10, [0] * 10))
    assert compare.interval("accuracy", one, two, 10) == (-1.0, -1.0)


def test_bits_a_byte_of_unlike_windows_have_no_interval(tmp_path):
    a, b = (made(tmp_path, name, protocol={"source": "t", "bytes": count}, final={"bits_per_byte": bits})
            for name, count, bits in (("a", 1000, 1.0), ("b", 700, 1.25)))  # fmt: skip
    found = compare.difference("bits_per_byte", a, b)
    assert (found.change, found.low, found.high) == (pytest.approx(0.25), None, None)


def test_models_whose_images_were_damaged_otherwise_are_not_in_one_picture(tmp_path):
    def measured(name, severity, share):
        told = {"clean": 0.9, "noise": {str(severity): share}}
        protocols = {"corruptions": {"source": "digits", "severities": [severity]}}
        return made(tmp_path, name, final={"corruptions": told}, dense={"corruptions": told}, protocols=protocols)

    found = [made(tmp_path, "none"), measured("light", 1, 0.8), measured("heavy", 5, 0.2)]
    assert [(name, n) for name, n, _ in compare.measured_alike(found, "corruptions")] == [("dense", None), ("light", 1)]
    assert any("Corrupted images of C were measured otherwise" in said for said in compare.apart(found))
    assert {row[0] for row in robust.corruptions(found).rows} == {"dense", compare.lettered(found)[1]}
    assert compare.measured_alike(found, "geometry") == []
