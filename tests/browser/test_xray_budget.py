"""Model, X-ray and Budget as a person meets them: looking, clicking, dragging, typing, and the worker behind them."""

import json
import os
import random
import re
import signal

import pytest
from playwright.sync_api import expect

from core import budget, folder
from studio import known
from studio.workspace import FILE
from tests.browser.conftest import PATIENCE_MS
from tests.model_folders import saved
from tests.studio_process import CHECKOUT, running

pytestmark = pytest.mark.browser
HOSTILE = "a.${alert(1)}<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A folder that the page may read, with a small model in it."""
    place = tmp_path_factory.mktemp("opened")
    saved(place / "small", tokenizer=True, vocab_size=256)
    return place


@pytest.fixture(scope="module")
def house(tmp_path_factory, chromium, opened):
    expect.set_options(timeout=PATIENCE_MS)
    with running(tmp_path_factory.mktemp("house"), "--open", str(opened)) as at:
        yield at


@pytest.fixture
def room(house, visit):
    """room("budget") -> the page with that room of a fresh workspace in front."""

    def to(name, **kept):
        write_workspace(house, **kept)
        page = visit(house.address, name)
        first = {"model": "#anatomy [data-rev]", "xray": "#xray-similarity [data-rev]", "budget": "#equaliser [data-units]"}[name]
        page.wait_for_selector(first)
        return page

    return to


def write_workspace(house, model="builtin:tiny-llama", shares=None):
    """What is open, as the studio itself writes it."""
    told = {"shares": shares or {}, "locked": []}
    state = {
        "revision": random.randrange(10**6),
        "model": model,
        "data": None,
        "run": None,
        "budget": told,
        "undo": [],
        "redo": [],
    }
    folder.write_json(house.workspace / FILE, state)


def on_disk(house):
    return json.loads((house.workspace / FILE).read_text())["budget"]


def bar(page, index):
    return page.get_by_role("slider", name=f"Block {index}", exact=True)


def now(page, index):
    return int(bar(page, index).get_attribute("aria-valuenow"))


def board(page):
    return page.locator("#equaliser .eq")


def saved_after(page, act):
    """Do something that changes the budget, and wait until the workspace has it."""
    before = board(page).get_attribute("data-rev")
    act()
    page.wait_for_function("rev => document.querySelector('#equaliser .eq').dataset.rev !== rev", arg=before)


def invented(blocks, name):
    """A description as the worker gives it, of a model that nobody has."""
    whole = {
        "name": name,
        "family": name,
        "dtype": "float32",
        "tokenizer": None,
        "kind": "decoder",
        "hidden": 8,
        "context": 0,
        "norms": [],
        "tied": [],
    }
    layer = {"path": name, "role": "up", "kind": "linear", "shape": [16, 8], "parameters": 128}
    block = {"path": "", "layers": [], "attention": None, "norms": [], "parameters": 128}
    return {
        **whole,
        "parameters": 128 * blocks,
        "size_bytes": 512 * blocks,
        "refused": {name: name},
        "layers": [{**layer, "name": f"blocks.{i}.{name}", "block": i} for i in range(blocks)],
        "blocks": [{**block, "name": f"blocks.{i}", "index": i} for i in range(blocks)],
        "elsewhere": [{"name": name, "shape": [2, 2], "parameters": 4, "tied": False}],
    }


def test_the_page_and_the_engine_work_out_the_same_budgets(page):
    chance, cases = random.Random(0), []
    for _ in range(150):
        units = [f"blocks.{i}" for i in range(chance.randrange(1, 12))]
        sizes = {unit: chance.randrange(1, 10**6) for unit in units}
        levels = sorted({0.0, *(round(chance.random(), 2) for _ in range(4))} | {1.0})
        cost = {unit: [0.0, *(chance.uniform(-0.1, 3) for _ in levels[1:])] for unit in units[1:] or units}
        shares = {unit: chance.choice([0.0, 1.0, 0.5, levels[1], chance.random()]) for unit in units if chance.random() < 0.8}
        locked = [unit for unit in units if chance.random() < 0.3]
        cases.append(
            {
                "curves": {"levels": levels, "cost": cost, "dense": 30.0},
                "sizes": sizes,
                "shares": shares,
                "locked": locked,
                "target": chance.random(),
            }
        )
    code = (CHECKOUT / "studio" / "budget.js").read_text()
    both = "[Budget.estimate(c.curves, c.sizes, c.shares), Budget.redistribute(c.shares, c.sizes, c.target, c.locked)]"
    found = page.evaluate(f"cases => {{ {code}; return cases.map(c => {both}); }}", cases)
    for case, (estimate, moved) in zip(cases, found, strict=True):
        curves = budget.CostCurves(
            tuple(case["curves"]["levels"]), {unit: tuple(c) for unit, c in case["curves"]["cost"].items()}, 30.0
        )
        own = budget.estimate(curves, case["sizes"], case["shares"])
        assert (estimate["kept"], estimate["total"]) == (own.kept, own.total)
        assert estimate["quality"] == pytest.approx(own.quality, rel=1e-12)
        assert moved == pytest.approx(
            budget.redistribute(case["shares"], case["sizes"], case["target"], frozenset(case["locked"])), abs=1e-12
        )


def test_a_dragged_bar_changes_the_prediction_and_the_server_confirms_it(room, house):
    page = room("budget")
    dense = float(board(page).get_attribute("data-quality"))
    box = bar(page, 1).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.3, steps=6)
    assert now(page, 1) == 70
    assert float(board(page).get_attribute("data-quality")) != dense
    saved_after(page, page.mouse.up)
    page.wait_for_function(
        "() => { const d = document.querySelector('#equaliser .eq').dataset; return Math.abs(d.confirmed / d.quality - 1) < 1e-9; }"
    )
    assert on_disk(house)["shares"] == {"blocks.1": 0.7}


def test_keys_move_lock_and_walk_along_the_bars(room, house):
    page = room("budget")
    bar(page, 0).focus()
    for key in (
        "ArrowUp",
        "ArrowUp",
        "Shift+ArrowUp",
        "ArrowDown",
        "ArrowRight",
        "End",
        "l",
        "ArrowDown",
        "ArrowRight",
        "PageUp",
    ):
        page.keyboard.press(key)
    assert [now(page, index) for index in range(3)] == [11, 95, 10]
    expect(bar(page, 1)).to_have_attribute("aria-valuetext", "remove 95 %, locked")
    expect(page.get_by_role("button", name="Lock Block 1", exact=True)).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("() => !('saving' in document.querySelector('#equaliser .eq').dataset)")
    saved_after(page, lambda: page.keyboard.type("33\n"))
    assert on_disk(house) == {"shares": {"blocks.0": 0.11, "blocks.1": 0.95, "blocks.2": 0.33}, "locked": ["blocks.1"]}


@pytest.mark.parametrize("text", ["lots", "130", "-3", ""])
def test_what_is_no_percentage_is_told_and_changes_nothing(room, house, text):
    page = room("budget", shares={"blocks.0": 0.25})
    field = page.get_by_label("Block 0: percent to remove")
    field.fill(text)
    field.press("Enter")
    expect(page.locator(".eq-told")).to_contain_text("type a percentage between 0 and 95")
    expect(field).to_have_value("25")
    assert on_disk(house)["shares"] == {"blocks.0": 0.25}


def test_the_global_handle_moves_the_unlocked_bars_only_and_a_shape_is_kept(room):
    page = room("budget", shares={"blocks.0": 0.2, "blocks.1": 0.4})
    page.get_by_role("button", name="Lock Block 0", exact=True).click()
    handle = page.get_by_role("slider", name=re.compile("All blocks"))
    saved_after(page, lambda: handle.fill("50"))
    shares = [now(page, index) for index in range(6)]
    assert shares[0] == 20 and shares[1] > shares[2] == shares[5] > 40
    expect(page.locator(".eq-global output")).to_have_text("50 %")


def test_undo_goes_back_one_change_and_redo_comes_forth(room):
    page = room("budget")
    saved_after(page, page.get_by_role("button", name="Uniform 20 %").click)
    saved_after(page, page.get_by_role("button", name="Uniform 50 %").click)
    saved_after(page, page.get_by_role("button", name="Undo").click)
    assert now(page, 3) == 20
    saved_after(page, page.get_by_role("button", name="Redo").click)
    assert now(page, 3) == 50
    expect(page.get_by_role("button", name="Redo")).to_be_disabled()


def test_the_budget_survives_a_reload(room, told):
    page = room("budget")
    saved_after(page, page.get_by_role("button", name="Uniform 20 %").click)
    page.goto("about:blank")
    page.go_back()
    expect(bar(page, 2)).to_have_attribute("aria-valuenow", "20")
    told.clear()  # leaving a page in the middle of an event aborts it, which Gradio logs as an error


def test_the_later_tab_wins_and_the_other_is_told(room, house, visit):
    first = room("budget")
    second = visit(house.address, "budget")
    second.wait_for_selector("#equaliser [data-units]")
    saved_after(first, first.get_by_role("button", name="Uniform 20 %").click)
    saved_after(second, second.get_by_role("button", name="Uniform 50 %").click)
    expect(second.locator(".eq-told")).to_contain_text("Another tab")
    assert now(second, 0) == 20 and on_disk(house)["shares"]["blocks.0"] == 0.2


def test_an_edited_table_moves_the_bars(room, house):
    page = room("budget")
    page.get_by_role("button", name="Table: the budget").click()
    cell = page.locator("#budget-table [data-testid='cell-2-1']")
    cell.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("45")
    page.keyboard.press("Enter")
    expect(bar(page, 2)).to_have_attribute("aria-valuenow", "45")
    assert on_disk(house)["shares"] == {"blocks.2": 0.45}


def test_two_hundred_bars_of_a_model_with_a_hostile_name_are_drawn_as_text(room, house, told):
    source = "invented/two-hundred"
    known.remember(source, invented(200, HOSTILE), house.workspace)
    page = room("budget", model=source)
    expect(page.locator(".eq-bar")).to_have_count(200)
    expect(page.locator(".eq-figure.lead")).to_contain_text("measure the curves first")
    saved_after(page, lambda: (bar(page, 0).focus(), page.keyboard.press("Shift+ArrowUp")))
    assert on_disk(house)["shares"] == {"blocks.0": 0.1}
    page.get_by_role("tab", name="Model", exact=True).click()
    expect(page.locator("#anatomy")).to_contain_text(HOSTILE)
    page.get_by_role("tab", name="X-ray", exact=True).click()
    expect(page.locator("#xray-note")).to_contain_text("Not looked at yet")
    assert page.locator("img[src=x]").count() == 0


def test_prune_with_this_budget_goes_to_the_prune_room_and_chooses_the_budget(room):
    page = room("budget", shares={"blocks.0": 0.3})
    page.get_by_role("button", name="Prune with this budget").click()
    expect(page.get_by_role("tab", name="Prune & recover")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("The budget by hand")).to_be_checked()
    expect(page.locator("#plan .plan")).to_contain_text("what your budget says")


def test_a_finished_run_of_the_budget_stands_beside_its_prediction(room, house):
    run = house.runs / "tried"
    run.mkdir(parents=True, exist_ok=True)
    shares = {f"blocks.{i}": 0.5 for i in range(6)}
    example = CHECKOUT / "assets" / "demo" / "tiny-llama" / "example"
    text = (example / folder.RECIPE).read_text()
    (run / folder.RECIPE).write_text(
        re.sub(r"shares:.*?(?=\n\S|\n {0,6}\w|\Z)", "shares: " + json.dumps(shares), text, count=1, flags=re.DOTALL)
    )
    (run / folder.REPORT).write_text((example / folder.REPORT).read_text())
    assert known.last_trial("builtin:tiny-llama", house.runs).shares == shares
    page = room("budget", shares=shares)
    report = json.loads((run / folder.REPORT).read_text())
    times = report["pruned"]["perplexity"] / report["dense"]["perplexity"]
    expect(page.locator(".eq-figures")).to_contain_text(f"× {times:.3f} of dense by wanda, predicted ×")
    saved_after(page, page.get_by_role("button", name="Uniform 20 %").click)
    expect(page.locator(".eq-figures")).to_contain_text("the dotted marks")


def test_another_metric_gives_another_finding(room):
    page = room("xray")
    expect(page.locator("#xray-importance-finding h3")).to_contain_text("change")
    page.get_by_label("Magnitude").click()
    expect(page.locator("#xray-importance-finding h3")).to_contain_text("smallest weights on average")
    expect(page.locator("#xray-importance-finding .badge")).to_have_text("precomputed demo")


def click_bar(page, index):
    """A click at the foot of a bar (a bar that dwarfs the others is cut at its top); plotly listens on a layer above it."""
    bar_of_block = page.locator("#xray-importance .bars .point path").nth(index)
    bar_of_block.scroll_into_view_if_needed()
    box = bar_of_block.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4)


def test_a_click_on_a_bar_shows_a_layer_of_that_block_and_its_weights(room):
    page = room("xray")
    click_bar(page, 2)
    expect(page.locator("#xray-card h3")).to_contain_text("blocks.2.")
    page.wait_for_selector("#xray-weights [data-rev]")
    expect(page.locator("#xray-card")).to_contain_text("Shape (outputs × inputs)")


def test_a_killed_worker_costs_a_notice_and_nothing_else(room, house):
    page = room("xray")
    click_bar(page, 1)
    page.wait_for_selector("#xray-weights [data-rev]")
    os.kill(worker_of(house), signal.SIGKILL)
    before = page.locator("#xray-weights .plotview").get_attribute("data-rev")
    click_bar(page, 0)
    page.wait_for_function("rev => document.querySelector('#xray-weights .plotview').dataset.rev !== rev", arg=before)
    expect(page.get_by_text("The worker had stopped and was started again.")).to_be_visible()


def worker_of(house):
    """The worker's process: the studio's child that runs core.serve."""
    import psutil

    return next(child.pid for child in psutil.Process(house.process.pid).children() if "core.serve" in child.cmdline())


def choose_source(page, text):
    field = page.locator("#model-source input")
    field.fill(text)
    field.press("Enter")


def test_a_folder_is_looked_into_before_it_is_opened_and_then_drawn(room, house, opened):
    page = room("model")
    choose_source(page, str(opened / "small"))
    expect(page.locator("#model-told")).to_contain_text("Memory to open it")
    page.locator("#model-open").click()
    expect(page.locator("#brand .open")).to_contain_text("small")
    expect(page.locator("#model-finding h3")).to_contain_text("A language model of")
    page.get_by_role("tab", name="X-ray", exact=True).click()
    page.get_by_role("button", name="X-ray this model").click()
    expect(page.locator("#xray-importance-finding .badge")).to_have_text("measured", timeout=180_000)
    expect(page.locator("#xray-similarity-finding h3")).to_contain_text("most alike")


@pytest.mark.parametrize(
    ("text", "said"),
    [("nowhere-to-be-found", "There is no"), ("/etc", "outside the folders"), ("builtin:tiny-lama", "nothing built in")],
)
def test_what_cannot_be_opened_is_told_in_a_sentence(room, text, said):
    page = room("model")
    choose_source(page, text)
    expect(page.locator("#model-told")).to_contain_text(said)
    page.locator("#model-open").click()
    expect(page.locator("#model-told")).to_contain_text(said)
    expect(page.locator("#brand .open")).to_contain_text("builtin:tiny-llama")
