"""The X-ray room as a person meets it: down from blocks to single weights and back, questions, deeds, and models that are large or lack things."""

import json
import math

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import TimeoutError, expect

from core import folder
from studio import known
from tests.browser.conftest import PATIENCE_MS, turn
from tests.browser.equaliser_page import invented, write_workspace
from tests.browser.test_xray_budget import HOSTILE, click_bar

pytestmark = pytest.mark.browser
VIEW, LOOK = "#xray-importance .plotview", "#xray-look .plotview"


@pytest.fixture(scope="module")
def house(studio):
    return studio


@pytest.fixture
def room(house, visit):
    """room(model=..., shares=...) -> the page with the X-ray room in front, its first picture drawn."""

    def to(**kept):
        write_workspace(house, **kept)
        page = visit(house.address, "xray")
        page.wait_for_selector("#xray-importance [data-rev]")
        return page

    return to


def drawn_after(page, act, view=VIEW):
    """Do something that redraws a picture, and wait until it is there."""
    before = page.locator(view).get_attribute("data-rev") if page.locator(view).count() else None
    act()
    page.wait_for_function("([view, rev]) => { const at = document.querySelector(view); return at && at.dataset.rev && at.dataset.rev !== rev; }",
                           arg=[view, before], timeout=3 * PATIENCE_MS)  # fmt: skip


def deeper(page, index):
    """Click a bar; again, as a person would, where the picture was just being redrawn."""
    before = page.locator(VIEW).get_attribute("data-rev")
    for _ in range(4):
        click_bar(page, index)
        try:
            page.wait_for_function(
                "([view, rev]) => document.querySelector(view).dataset.rev !== rev", arg=[VIEW, before], timeout=PATIENCE_MS
            )
            return
        except TimeoutError:
            continue
    raise AssertionError(f"no click on bar {index} was answered")


def crumb(page, label):
    return page.locator("#xray-crumbs").get_by_role("button", name=label, exact=True)


def title(page):
    return page.locator("#xray-importance-finding h3")


def ask(page, question, view=LOOK):
    drawn_after(page, page.get_by_label(question).check, view)


def test_clicks_lead_from_blocks_to_single_weights_and_the_trail_leads_back(room):
    page = room(shares={"blocks.1": 0.5})
    deeper(page, 1)
    expect(crumb(page, "Block 1")).to_have_attribute("aria-current", "location")
    expect(title(page)).to_contain_text("In block 1,")
    deeper(page, 0)
    expect(page.locator("#xray-card h3")).to_contain_text("blocks.1.")
    expect(title(page)).to_contain_text("The budget's 50 %")
    drawn_after(page, lambda: page.locator(VIEW).click(position={"x": 260, "y": 160}))
    expect(page.locator("#xray-crumbs")).to_contain_text("rows")
    drawn_after(page, crumb(page, "Block 1").click)
    drawn_after(page, crumb(page, "Neurons").click)
    expect(title(page)).to_contain_text("neurons of block 1")
    drawn_after(page, crumb(page, "Blocks").click)
    expect(title(page)).to_contain_text("change")


def test_by_keyboard_alone_one_comes_to_a_layer_its_heads_and_a_typed_window(room):
    page = room()
    field = page.locator("#xray-layer input")
    field.focus()
    field.fill("blocks.2.self_attn.q_proj")
    drawn_after(page, lambda: page.keyboard.press("Enter"))
    expect(page.locator("#xray-crumbs")).to_contain_text("Weights of self_attn.q_proj")
    window = page.locator("#xray-window input, #xray-window textarea").first
    window.fill("0:32, 64:96")
    drawn_after(page, lambda: window.press("Enter"))
    expect(page.locator("#xray-crumbs")).to_contain_text("rows 0–31, columns 64–95")
    window.fill("a lot")
    window.press("Enter")
    expect(page.get_by_text("is no window")).to_be_visible()
    crumb(page, "Blocks").focus()
    for _ in range(5):  # Block 2, weights, window, Modules, Heads
        page.keyboard.press("ArrowRight")
    expect(crumb(page, "Heads")).to_be_focused()
    drawn_after(page, lambda: page.keyboard.press("Enter"))
    expect(title(page)).to_contain_text("heads of block 2")
    drawn_after(page, crumb(page, "The next block").click)
    expect(title(page)).to_contain_text("heads of block 3")


def test_what_a_model_does_not_have_is_said_and_not_left_blank(room):
    page = room()
    deeper(page, 1)
    expect(crumb(page, "Experts")).to_have_attribute("aria-disabled", "true")
    crumb(page, "Experts").focus()  # it says that it is disabled, and still answers
    page.keyboard.press("Enter")
    expect(title(page)).to_contain_text("is not a mixture of experts")
    page.get_by_label("What do the experts share?").check()
    expect(page.locator("#xray-look-finding")).to_contain_text("is not a mixture of experts")


def test_every_question_has_an_answer_with_a_table_and_a_run_is_chosen_by_keyboard_too(room):
    page = room()
    page.wait_for_selector(f"{LOOK}[data-rev]")
    expect(page.locator("#xray-look-finding h3")).to_contain_text("Spearman")
    expect(page.locator("#xray-look2-finding h3")).to_contain_text("divides the scores most")
    ask(page, "Which units are near copies?")
    expect(page.locator("#xray-look-finding h3")).to_contain_text("neurons of block 0")
    ask(page, "How many directions does a layer use?")
    expect(page.locator("#xray-look-finding h3")).to_contain_text("effective rank")
    expect(page.locator("#xray-look2-finding h3")).to_contain_text("nput feature")
    ask(page, "Which runs of blocks could go?")
    expect(page.locator("#xray-look-finding h3")).to_contain_text("turns the hidden state least")
    page.get_by_role("button", name="Table: the answer").click()
    expect(page.get_by_role("columnheader", name="Angular distance").first).to_be_visible()
    box = page.get_by_label("Run of blocks")
    box.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("Blocks 1 to 3")
    drawn_after(page, lambda: page.keyboard.press("Enter"), LOOK)
    expect(page.locator("#xray-deed")).to_have_text("Prune blocks 1 to 3 (a run)")
    ask(page, "Do the scores agree?")
    expect(box).to_be_hidden()


def test_a_run_chosen_in_the_map_is_pruned_as_a_run_of_its_own(room, house):
    page = room()
    ask(page, "Which runs of blocks could go?")
    page.locator("#xray-look .nsewdrag").scroll_into_view_if_needed()
    box = page.locator("#xray-look .nsewdrag").bounding_box()
    drawn_after(page, lambda: page.mouse.click(box["x"] + box["width"] * 0.41, box["y"] + box["height"] * 0.7), LOOK)
    button = page.locator("#xray-deed")
    expect(button).to_have_text("Prune blocks 2 to 3 (a run)")
    button.click()
    expect(page.locator("#strip .strip")).to_have_attribute("data-state", "done", timeout=180_000)
    run = next(path for path in folder.runs(house.runs) if "without-2-to-3" in path.name)
    report = json.loads((run / folder.REPORT).read_text())
    assert report["steps"][0]["removed_in_order"] == ["blocks.2", "blocks.3"]
    assert report["pruned"]["perplexity"] > report["dense"]["perplexity"]


def test_a_super_weight_left_out_shows_both_sentences(room):
    page = room()
    page.get_by_label("Are there super weights?").check()
    expect(page.locator("#xray-look-finding h3")).to_contain_text("super weight")
    page.locator("#xray-deed").click()
    expect(page.locator("#xray-texts article")).to_have_count(2)
    expect(page.locator("#xray-ablated h3")).to_contain_text("Without this one weight")
    expect(page.locator("#xray-texts")).to_contain_text("The city was founded in")


def observations(blocks, layers):
    """Observations as an old X-ray left them, of a model that nobody has: `layers` names of layers a block, one score not a number."""
    rows = [
        {"name": f"blocks.{i}.{name}", "block": f"blocks.{i}", "role": "up", "shape": [16, 8], "parameters": 128, "scores": {"wanda": 1.0 + math.sin(i)}}
        for i in range(blocks)
        for name in layers
    ]  # fmt: skip
    rows[0]["scores"]["wanda"] = None
    made = [
        {"name": f"blocks.{i}", "index": i, "parameters": 128, "scores": {"wanda": 1.0 + math.sin(i) if i else None}}
        for i in range(blocks)
    ]
    told = {
        "model": {"name": "x", "fingerprint": "x", "parameters": 128 * blocks, "kind": "decoder"},
        "protocol": {},
        "blocks": made,
        "layers": rows,
    }
    return {**told, "similarity": None, "curves": None}


@pytest.mark.parametrize(
    ("source", "blocks", "layers"), [("invented/ten-thousand", 5000, (HOSTILE, "b")), ("invented/one", 1, (HOSTILE,))]
)
def test_a_huge_model_and_one_of_a_single_layer_are_drawn(room, house, source, blocks, layers):
    known.remember(source, {**invented(min(blocks, 50), HOSTILE), "refused": {}}, house.workspace)
    run = house.runs / source.replace("/", "-")
    run.mkdir(parents=True)
    recipe = f"recipe: 1\nname: seen\nmodel: {{source: {source}}}\nobserve: {{}}\n"
    (run / folder.RECIPE).write_text(recipe)
    folder.write_json(run / folder.OBSERVATIONS, observations(blocks, layers))
    page = room(model=source)
    expect(title(page)).to_contain_text("lowest Wanda score" if blocks > 1 else "No block has a score that is a number")
    if blocks > 1:
        expect(page.locator("#xray-note")).to_contain_text("Of 5,000 blocks a bar shows the lowest of")
    page.get_by_label("Which runs of blocks could go?").check()
    expect(page.locator("#xray-look-finding h3")).to_contain_text("No runs of blocks were compared")
    assert page.locator("img[src=x]").count() == 0


def test_inside_a_block_nothing_serious_is_inaccessible_and_a_phone_shows_it_whole(room, shots):
    page = room(shares={"blocks.1": 0.4})
    deeper(page, 1)
    drawn_after(page, crumb(page, "Weights").click)
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    for light in ("light", "dark"):
        turn(page, light)
        found = Axe().run(page).response["violations"]
        page.screenshot(path=shots / f"xray-weights-{light}.png", full_page=True)
        serious = [at for at in found if at["impact"] in ("serious", "critical")]
        assert [(at["id"], [node["html"][:160] for node in at["nodes"]][:4]) for at in serious] == [], light
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=shots / "xray-weights-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
