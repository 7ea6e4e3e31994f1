"""The Formula lab without a page: what is said of a typed formula, findings and their twins, the worker's answer, the run of a search."""

import json

import pytest

from core import folder, serve, summary
from core.catalogue import resolve
from core.errors import PrunariumError
from core.events import Progress
from core.recipe import parse, to_yaml
from studio import jobs
from studio.bench import Bench
from studio.charts import formula as charts
from studio.rooms.formula import evolving, formulas
from studio.workspace import DEMO, Workspace

SEEN = {
    "expression": "W * X",
    "protocol": {"share": 0.6},
    "blocks": [{"name": "blocks.0", "index": 0}, {"name": "blocks.1", "index": 1}],
    "layers": [
        {"name": f"blocks.{i}.mlp.{name}", "block": f"blocks.{i}", "parameters": 100 * (1 + at),
         "scores": {"agreement": 0.9 - 0.1 * i - 0.05 * at, "share_kept": 0.2 + 0.3 * i, "mean_score": -1.0 + i + at}}
        for i in range(2) for at, name in enumerate(("up_proj", "down_proj"))
    ],
    "perplexity": {"dense": 40.0, "formula": 60.0, "magnitude": 61.0, "wanda": 55.0},
}  # fmt: skip
FOUND = {
    "tried": 52, "worked": 40, "generations": 3, "references": {"dense": 40.0, "wanda": 55.0, "magnitude": 60.0},
    "best": [{"formula": "abs(W) * X", "perplexity": 54.5, "generation": 2, "size": 4, "again": 54.0}], "again": {"wanda": 55.5, "magnitude": 60.0},
    "held_out": {"source": "builtin:wikitext2/test", "samples": 32, "tokens": 128, "dense": 41.0, "wanda": 56.0, "magnitude": 62.0,
                 "best": "abs(W) * X", "formula": 56.2},
}  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "runs").mkdir()
    return Bench(Workspace(tmp_path / "work"), None, tmp_path / "runs", (), *[None] * 10)


def searched(bench, name="evolve-a", state="", found=FOUND):
    """A run folder as a search leaves it."""
    recipe = resolve(parse(formulas.search_recipe(DEMO, 60, 8, 3, "abs(W)")))
    path = folder.create(bench.runs / name)
    folder.write_text(path / folder.RECIPE, to_yaml(recipe, full=True))
    folder.append_event(path, Progress("evolve", 0, 32))
    for done, best in ((1, 90.0), (2, 90.0), (3, 54.5)):
        folder.append_event(path, Progress("evolve", done, 32, values={"best_perplexity": best}))
    if found:
        folder.write_json(path / folder.FORMULAS, found)
    if state:
        folder.end(path, state, "It ended." if state == "failed" else "", "Mend it." if state == "failed" else "")
    return path


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "says", "wrong"),
    [
        ("abs(W) * X", "Reads W (the weight) and X (the norm of its input).", False),
        ("W * X * G", "Reads W (the weight), X (the norm of its input) and G (the norm of its gradient).", False),
        ("exp(log(abs(W)))", "As understood: abs(W)", False),
        ("W - W", "comes to 0 for every weight", True),
        ("abs(W) / (X - X) + G", "divides by zero, for it comes to abs(W) / 0", True),
        ("", "is empty", True),
        ("W *", "cannot be read", True),
        ("__import__('os')", "does not know the function", True),
        ("W * y", "does not know 'y'", True),
    ],
)
def test_what_is_typed_is_read_back_in_a_sentence(text, says, wrong):
    said = formulas.read_as(text)
    assert says in said["text"] and said["wrong"] is wrong


@pytest.mark.quick
def test_findings_are_computed_from_the_picture():
    assert (
        charts.finding(SEEN)
        == "At 60 %, W * X leaves a perplexity of 60.00, worse than Wanda's 55.00 and better than magnitude's 61.00"
    )
    both = {**SEEN, "perplexity": {**SEEN["perplexity"], "formula": 50.0}}
    assert charts.finding(both).endswith("50.00, better than Wanda's 55.00 and magnitude's 61.00")
    broken = {**SEEN, "perplexity": {**SEEN["perplexity"], "formula": None}, "expression": "W * " * 12 + "X"}
    assert charts.finding(broken) == "At 60 %, this formula ruins the model: its perplexity is no number"
    assert (
        charts.heat_finding(SEEN, "agreement")
        == "It keeps 82 % of the weights that Wanda keeps, fewest in blocks.1.mlp.down_proj (75 %)"
    )
    assert (
        charts.heat_finding(SEEN, "share_kept")
        == "Were all layers to compete, blocks.1.mlp.up_proj would keep 50 % and blocks.0.mlp.down_proj 20 %"
    )
    assert charts.heat_finding(SEEN, "mean_score").startswith("blocks.0.mlp.up_proj scores lowest on average (-1)")


@pytest.mark.quick
def test_the_twins_say_what_the_pictures_show():
    for view, scale in (("agreement", 100), ("share_kept", 100), ("mean_score", 1)):
        picture = charts.heat(SEEN, view).data[0]
        assert list(picture.y) == ["mlp.up_proj", "mlp.down_proj"] and list(picture.x) == ["0", "1"]
        assert picture.z[1][0] == pytest.approx(scale * SEEN["layers"][1]["scores"][view])
    twin = charts.table(SEEN)
    assert list(twin["Layer"]) == [row["name"] for row in SEEN["layers"]] and twin["Agreement with Wanda"][3] == "75.0 %"
    bars, words = charts.bars(SEEN).data[0], charts.perplexity_table(SEEN)
    assert dict(zip(bars.y, bars.x, strict=True)) == {"Dense": 40.0, "Wanda": 55.0, "Magnitude": 61.0, "This formula": 60.0}
    assert set(words["Perplexity"]) == {"40.000", "60.000", "61.000", "55.000"}
    lines = charts.evolution([(1, 90.0), (2, 54.5)], FOUND["references"])
    assert list(lines.data[-1].y) == [90.0, 54.5] and {line.name for line in lines.data[:-1]} == {"Wanda", "Magnitude"}
    assert charts.evolution([], {}) is None and charts.best_rows(FOUND) == [["abs(W) * X", "54.50", "54.00", "4"]]


@pytest.mark.quick
def test_a_search_is_told_by_the_figure_that_counts():
    assert (
        charts.evolution_finding(FOUND, True)
        == "The best of 52 formulas leaves 54.00, better than Wanda's 55.50, at a second look at more text"
    )
    assert charts.proof(FOUND).endswith("it leaves 56.20 (Wanda 56.00, Magnitude 62.00, Dense 41.00): there Wanda is better.")
    assert charts.proof({**FOUND, "held_out": None}) == "" and "begun" in charts.evolution_finding(None, False)
    text = summary.text({"formulas": FOUND})
    assert (
        "52 formulas tried, 40 work" in text and "54.50        54.00  abs(W) * X" in text and "wanda 56.00, formula 56.20" in text
    )


@pytest.mark.quick
def test_the_newest_search_is_read_from_its_folder_and_can_be_taken_up_again(bench):
    assert formulas.newest(bench, DEMO) is None
    searched(bench, state="stopped", found={**FOUND, "generations": 1, "held_out": None})
    search = formulas.newest(bench, DEMO)
    assert search.curve == [(1, 90.0), (2, 90.0), (3, 54.5)] and search.best[0]["formula"] == "abs(W) * X"
    assert "was stopped in generation 2 of 3; Go on takes it up" in evolving._note(search)
    assert formulas.newest(bench, "builtin:other") is None
    on = formulas.again(bench, "evolve-a").evolve
    assert on.resume == str(bench.runs / "evolve-a") and on.generations == 3
    with pytest.raises(PrunariumError):
        formulas.again(bench, "../evolve-a")
    searched(bench, "evolve-b", "failed", None)
    assert evolving._note(formulas.newest(bench, DEMO)) == "The search failed. It ended. Mend it."
    with pytest.raises(PrunariumError, match="no search to go on with"):
        formulas.again(bench, "evolve-b")


@pytest.mark.quick
def test_a_search_that_was_only_just_asked_for_is_followed(bench):
    """Its folder holds nothing yet, and the page must not wait for the end to hear of it."""
    searched(bench, state="done")
    recipe = resolve(parse(formulas.search_recipe(DEMO, 60, 8, 3, None)))
    folder.create(bench.runs / "evolve-new")
    (bench.runs / jobs.ASKED).mkdir()
    folder.write_text(bench.runs / jobs.ASKED / "evolve-new.yaml", to_yaml(recipe))
    search = formulas.newest(bench, DEMO, "evolve-new")
    assert search.status.name == "evolve-new" and search.status.state == "waiting" and search.found is None
    assert formulas.newest(bench, DEMO, "gone").status.name == "evolve-a"


@pytest.mark.quick
def test_a_finished_search_is_given_as_many_generations_more(bench):
    searched(bench, state="done")
    assert formulas.again(bench, "evolve-a").evolve.generations == 6


@pytest.mark.quick
def test_a_large_model_or_one_without_tokens_is_tried_on_the_built_in_one(bench):
    from studio import known

    small = {"kind": "decoder", "parameters": 5_000_000, "tokenizer": "X"}
    for source, described, used in (
        ("small", small, "small"), ("large", {**small, "parameters": 135_000_000}, DEMO), ("mute", {**small, "tokenizer": None}, DEMO),
        ("pictures", {**small, "kind": "image_classifier"}, DEMO),
    ):  # fmt: skip
        known.remember(source, described, bench.workspace.folder)
        assert formulas.model_for(bench, source) == used
        assert ("carries over" in formulas.where(used, source)) == (used != source)
    assert formulas.model_for(bench, None) == DEMO


def test_the_worker_answers_formulas_and_survives_bad_ones(tmp_path):
    session = serve.Session(tmp_path)

    def ask(**args):
        return serve.answer(session, json.dumps({"id": 1, "ask": "formula", "args": {"source": DEMO, **args}}))

    first = ask(expression="abs(W) * X", share=0.6)["answer"]
    assert first["perplexity"]["formula"] == first["perplexity"]["wanda"] > first["perplexity"]["dense"]
    assert all(row["scores"]["agreement"] == 1.0 for row in first["layers"]) and len(first["layers"]) == 42
    for expression, says in (
        ("W / (X - X)", "divides by zero"),
        ("W +", "cannot be read"),
        ("W - W", "alike"),
        ("sqrt(W)", "not a number"),
    ):
        told = ask(expression=expression)
        assert says in told["problem"] and told["remedy"]
    again = ask(expression="abs(W) * X", share=0.6)["answer"]
    assert {**again, "seconds": 0} == {**first, "seconds": 0} and session.loaded is None


@pytest.mark.quick
def test_where_all_agree_the_heat_map_still_ends_at_a_hundred_percent():
    layers = [{**layer, "scores": {**layer["scores"], "agreement": 1.0}} for layer in SEEN["layers"]]
    for seen in ({**SEEN, "layers": layers}, SEEN):
        heat = charts.heat(seen, "agreement").data[0]
        assert heat.zmax == 100 and heat.zmin <= min(min(row) for row in heat.z) and heat.zmin < heat.zmax
