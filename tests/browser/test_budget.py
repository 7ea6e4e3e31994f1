"""The Budget room as a person meets it: bars, keys, tools, targets, proposals, and what survives."""

import json
import math
import re
import shutil

import pytest
from playwright.sync_api import expect

from core import folder
from studio import known
from tests.browser.conftest import PATIENCE_MS
from tests.browser.equaliser_page import bar, board, invented, many_layers, now, on_disk, predicted, saved_after, write_workspace
from tests.studio_process import CHECKOUT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def house(studio):
    return studio


@pytest.fixture
def room(house, visit):
    """room("budget") -> the page with that room of a fresh workspace in front."""

    def to(name="budget", patience_ms=PATIENCE_MS, **kept):
        write_workspace(house, **kept)
        page = visit(house.address, name)
        page.wait_for_selector("#equaliser [data-units]", timeout=patience_ms)
        return page

    return to


def press(page, name):
    saved_after(page, page.get_by_role("button", name=name, exact=True).click)


def solve(page, kind, wish):
    """Ask for a target, and return what is told."""
    before = board(page).get_attribute("data-solved")
    page.get_by_label("Kind of target").select_option(kind)
    page.get_by_label("Target", exact=True).fill(wish)
    page.get_by_role("button", name="Solve for this target").click()
    page.wait_for_function("n => (document.querySelector('#equaliser .eq').dataset.solved ?? null) !== n", arg=before)
    return page.locator(".eq-told").inner_text()


def test_shapes_say_what_they_cannot_reach_and_escape_in_a_field_changes_nothing(room, house):
    page = room(shares={f"blocks.{i}": 0.5 for i in range(6)})
    front = page.locator(".eq-frontier figcaption")
    expect(front).to_contain_text("stimated")
    expect(front).to_contain_text("perplexity")
    expect(page.get_by_role("button", name="Show Best by these curves")).to_contain_text(re.compile(r"perplexity \d"))
    bar(page, 1).press("7")
    page.keyboard.press("Escape")
    expect(bar(page, 1)).to_be_focused()
    field = page.get_by_label("Block 1: percent to remove")
    field.fill("63")
    field.press("Escape")
    expect(field).to_have_value("50")
    saved_after(page, lambda: page.keyboard.type("7\n"))  # what is saved is this, and neither of those
    assert on_disk(house)["shares"] == {f"blocks.{i}": 0.07 if i == 1 else 0.5 for i in range(6)}
    saved_after(page, lambda: page.get_by_label("Shapes", exact=True).select_option("Attention only"))
    expect(page.locator(".eq-told")).to_contain_text("cannot be reached so; the nearest is")
    shares = on_disk(house)["shares"]
    assert shares["blocks.0.self_attn.q_proj"] == 0.95 and not any(".mlp." in name for name in shares)


def test_a_dragged_bar_changes_the_prediction_the_server_confirms_it_and_an_edited_table_moves_the_bars(room, house):
    page = room("budget")
    dense = float(board(page).get_attribute("data-quality"))
    bar(page, 1).scroll_into_view_if_needed()
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
    page.get_by_role("button", name="Table: the budget").click()
    cell = page.locator("#budget-table [data-testid='cell-2-1']")
    cell.dblclick()
    page.keyboard.press("Control+a")
    page.keyboard.type("45")
    page.keyboard.press("Enter")
    expect(bar(page, 2)).to_have_attribute("aria-valuenow", "45")
    assert on_disk(house)["shares"] == {"blocks.1": 0.7, "blocks.2": 0.45}


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


def test_what_is_no_percentage_is_told_and_changes_nothing(room, house):
    page = room("budget", shares={"blocks.0": 0.25})
    field = page.get_by_label("Block 0: percent to remove")
    for text in ("lots", "130", "-3", ""):
        field.fill(text)
        field.press("Enter")
        expect(page.locator(".eq-told")).to_contain_text(f"type a percentage between 0 and 95, not “{text}”")
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


def test_undo_goes_back_one_change_redo_comes_forth_and_a_reload_keeps_it(room, told):
    page = room("budget")
    saved_after(page, page.get_by_role("button", name="Uniform 20 %").click)
    saved_after(page, page.get_by_role("button", name="Uniform 50 %").click)
    saved_after(page, page.get_by_role("button", name="Undo").click)
    assert now(page, 3) == 20
    saved_after(page, page.get_by_role("button", name="Redo").click)
    assert now(page, 3) == 50
    expect(page.get_by_role("button", name="Redo")).to_be_disabled()
    saved_after(page, page.get_by_role("button", name="Undo").click)
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


def test_prune_with_this_budget_goes_to_the_prune_room_and_chooses_the_budget(room, house):
    page = room("budget", shares={"blocks.0": 0.3})
    what = page.locator("#equaliser").get_by_label("What goes")
    saved_after(page, lambda: what.select_option("heads"))
    expect(page.locator(".eq-told")).to_contain_text("Undo brings the former budget back")
    expect(page.locator(".eq-guards")).to_contain_text("2 groups a block, so a bar moves in steps of 50 %")
    expect(page.locator(".eq-figure", has_text="KV cache")).to_contain_text("721 kB")  # of 786: one of 12 groups
    expect(page.locator(".eq-frontier")).to_be_hidden()
    assert on_disk(house)["shares"] == {"blocks.0": 0.5}
    page.get_by_role("button", name="Prune with this budget").click()
    expect(page.locator("#structure input")).to_have_value("attention heads")
    expect(page.get_by_role("tab", name="Prune & recover")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("The budget by hand")).to_be_checked()
    expect(page.locator("#plan .plan")).to_contain_text("what your budget says")


def test_whole_neurons_have_a_prediction_of_their_own_or_say_how_to_get_one(room, house):
    page, lead = room("budget", shares={"blocks.1": 0.5}), ".eq-figure.lead"
    page.locator("#equaliser").get_by_label("What goes").select_option("neurons")
    expect(page.locator(lead)).to_contain_text("none yet for whole neurons: press Measure curves of neurons")
    expect(page.locator(f"{lead} .badge")).to_be_hidden()
    expect(page.locator("#budget-measure")).to_have_text("Measure curves of neurons")
    assert "Press Measure curves of neurons first" in solve(page, "quality", "10")
    run = house.runs / "curves-of-neurons"  # as such a run leaves them: half of a block's neurons cost 0.1, of block 0's 0.3
    run.mkdir(parents=True)
    (run / folder.RECIPE).write_text(
        "recipe: 1\nname: c\nmodel: {source: builtin:tiny-llama}\nobserve: {curves: {structure: neurons}}\n"
    )
    demo = known.observations("builtin:tiny-llama", house.runs, curves=True).data
    cost = {f"blocks.{i}": [0.0, 0.1 + 0.2 * (i == 0), 0.2 + 0.4 * (i == 0)] for i in range(6)}
    made = {"structure": "neurons", "method": "wanda", "metric": "perplexity", "dense": 50.0, "levels": [0.0, 0.5, 1.0], "cost": cost, "scale": 1.0,
            "power": 1.0, "within": 0.2, "floor": 0.0, "error": 0.05, "measured": {"together": [{}] * 6}}  # fmt: skip
    folder.write_json(run / folder.OBSERVATIONS, {**demo, "curves": made})
    try:
        page = room("budget", shares={"blocks.1": 0.5})
        page.locator("#equaliser").get_by_label("What goes").select_option("neurons")
        expect(page.locator(lead)).to_contain_text("55.26")  # 50 * exp(0.1)
        expect(page.locator(lead)).to_contain_text("54.27 to 56.50")  # exp(0.1 * exp(-0.2)), exp(0.1 * exp(0.2))
        expect(page.locator("#budget-note")).to_contain_text(
            "What each block's output loses without some of its neurons (wanda, neurons)"
        )
        saved_after(page, lambda: bar(page, "0").press("Shift+ArrowUp"))  # 51 of 512
        assert predicted(page) == pytest.approx(50 * math.exp(0.1 + 0.6 * 51 / 512))
        page.wait_for_function(
            "() => { const d = document.querySelector('#equaliser .eq').dataset; return Math.abs(d.confirmed / d.quality - 1) < 1e-9; }"
        )
        assert "go, for perplexity +10.0 %, as predicted" in solve(page, "quality", "10")
        assert 1.098 < predicted(page) / 50 < 1.1
        page.locator("#equaliser").get_by_label("What goes").select_option("")
        expect(page.locator("#budget-measure")).to_have_text("Measure curves again")
        expect(page.locator(lead)).to_contain_text("dense 55.23")  # of single weights, as the demo has it
    finally:
        shutil.rmtree(run)


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
    assert known.trials("builtin:tiny-llama", house.runs)[0].shares == shares
    page = room("budget", shares=shares)
    report = json.loads((run / folder.REPORT).read_text())
    times = report["pruned"]["perplexity"] / report["dense"]["perplexity"]
    expect(page.locator(".eq-figures")).to_contain_text(f"× {times:.3f} of dense by wanda, predicted ×")
    saved_after(page, page.get_by_role("button", name="Uniform 20 %").click)
    expect(page.locator(".eq-figures")).to_contain_text("the dotted marks")


def test_an_unfolded_block_is_set_layer_by_layer_and_folds_to_its_mean(room, house):
    page = room(shares={"blocks.1": 0.4})
    bar(page, 1).press("u")
    expect(page.locator(".eq-bar.layer")).to_have_count(7)
    saved_after(page, lambda: bar(page, "1 down_proj").press("Shift+ArrowUp"))
    assert on_disk(house)["shares"]["blocks.1.mlp.down_proj"] == 0.5 and on_disk(house)["shares"]["blocks.1.mlp.up_proj"] == 0.4
    bar(page, "1 down_proj").press("u")
    expect(bar(page, 1)).to_have_attribute("aria-valuetext", re.compile("its layers 40 % to 50 %"))
    saved_after(page, lambda: bar(page, 1).press("Home"))
    assert on_disk(house)["shares"] == {}
    press(page, "Undo (Ctrl+Z)")
    assert on_disk(house)["shares"]["blocks.1.mlp.down_proj"] == 0.5


def test_the_handle_moves_attention_alone_and_a_soloed_bar_alone(room, house):
    page = room()
    handle = page.get_by_role("slider", name=re.compile("All blocks"))
    page.get_by_label("Which layers the handle moves").select_option("attention")
    saved_after(page, lambda: handle.fill("30"))
    shares = on_disk(house)["shares"]
    assert shares["blocks.0.self_attn.q_proj"] == 0.3 and "blocks.0.mlp.up_proj" not in shares
    page.get_by_label("Which layers the handle moves").select_option("all")
    press(page, "Set every unlocked bar to 0 %")
    bar(page, 2).press("s")
    saved_after(page, lambda: handle.fill("10"))
    assert list(on_disk(house)["shares"]) == ["blocks.2"]


def test_a_curve_is_drawn_across_the_bars_mirrored_and_snapped(room, house):
    page = room()
    page.get_by_role("button", name="Draw a curve across the bars by dragging").click()
    bar(page, 0).scroll_into_view_if_needed()
    boxes = [bar(page, index).bounding_box() for index in (0, 5)]
    page.mouse.move(boxes[0]["x"] + 10, boxes[0]["y"] + boxes[0]["height"] * 0.9)
    page.mouse.down()
    page.mouse.move(boxes[1]["x"] + 10, boxes[1]["y"] + boxes[1]["height"] * 0.4, steps=3)
    saved_after(page, page.mouse.up)
    drawn = [now(page, index) for index in range(6)]
    assert 8 <= drawn[0] <= 12 and 58 <= drawn[5] <= 62 and drawn == sorted(drawn) and len(set(drawn)) == 6
    press(page, "Mirror: the last block’s bars become the first’s")
    assert [now(page, index) for index in range(6)] == drawn[::-1]
    press(page, "Snap to shares of N:4 patterns")
    assert all(now(page, index) % 25 == 0 for index in range(6))


def test_a_proposal_is_shown_as_ghosts_blended_and_adopted(room, house):
    page = room(shares={f"blocks.{i}": 0.4 for i in range(6)})
    page.wait_for_selector("#equaliser [data-proposed]")
    before = predicted(page)
    page.get_by_role("button", name="Show Best by these curves").click()
    expect(page.locator(".eq-idea:visible")).to_have_count(6)
    blend = page.get_by_label("Blend: from this budget to the proposal")
    saved_after(page, lambda: blend.fill("50"))
    between = predicted(page)
    saved_after(page, lambda: blend.fill("0"))
    assert predicted(page) == pytest.approx(before)  # the way back is the same way
    press(page, "Adopt the proposal")
    assert predicted(page) <= between <= before
    assert float(board(page).get_attribute("data-sparsity")) == pytest.approx(0.4, abs=1e-3)


def test_targets_are_solved_and_an_unreachable_one_says_the_nearest(room, house):
    page = room()
    assert "best budget for 5 MB" in solve(page, "size", "5 MB")
    assert float(page.locator(".eq-figure", has_text="Bytes that are not zero").locator("dd").first.inner_text().split()[0]) == 5
    assert "at most +10 %" in solve(page, "quality", "10")
    dense = json.loads((CHECKOUT / "assets" / "demo" / "tiny-llama" / "observations.json").read_text())["curves"]["dense"]
    assert math.log(predicted(page) / dense) == pytest.approx(math.log(1.1), abs=2e-4)
    assert re.search(r"0\.1 MB cannot be reached: the nearest that can be had is \d", solve(page, "size", "0.1"))
    assert "Zeros alone make nothing faster" in solve(page, "faster", "1.3")
    assert "A target is a number, not 'tiny'" in solve(page, "size", "tiny")


def test_snapshots_and_both_sides_of_a_b_survive_a_restart_of_the_page(room, house, told):
    page = room()
    press(page, "Uniform 20 %")
    page.get_by_label("Name of the snapshot").fill("<b>gentle</b>")
    page.get_by_role("button", name="Keep this budget under a name").click()
    expect(page.get_by_role("button", name="Restore <b>gentle</b>")).to_have_text("<b>gentle</b>")
    press(page, "Uniform 50 %")
    saved_after(page, lambda: bar(page, 0).press(" "))
    assert now(page, 0) == 0
    expect(page.locator(".eq-turn")).to_have_text("B")
    page.goto("about:blank")
    page.go_back()
    page.wait_for_selector("#equaliser [data-units]")
    expect(page.locator(".eq-turn")).to_have_text("B")
    saved_after(page, lambda: bar(page, 0).press(" "))
    assert now(page, 0) == 50
    press(page, "Restore <b>gentle</b>")
    assert now(page, 3) == 20
    page.get_by_role("button", name="Forget <b>gentle</b>").click()
    expect(page.get_by_role("button", name="Restore <b>gentle</b>")).to_have_count(0)
    told.clear()  # leaving a page in the middle of an event aborts it, which Gradio logs as an error


def test_keys_pressed_a_moment_before_turning_undoing_or_reloading_are_not_lost(room, house, told):
    page = room()
    bar(page, 0).focus()
    page.evaluate("""() => { const press = (key, more) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, ...more}));
      for (let i = 0; i < 5; i++) press('ArrowUp');
      press(' '); press(' ', {repeat: true}); }""")
    expect(page.locator(".eq-turn")).to_have_text("B")
    assert now(page, 0) == 0
    for _ in range(2):
        page.keyboard.press("ArrowUp")
    saved_after(page, lambda: page.keyboard.press("Control+z"))
    expect(bar(page, 0)).to_have_attribute("aria-valuenow", "0")
    press(page, "Redo (Ctrl+Shift+Z)")
    assert now(page, 0) == 2
    saved_after(page, lambda: bar(page, 0).press(" "))
    assert now(page, 0) == 5
    bar(page, 0).press("PageUp")
    page.reload()
    expect(bar(page, 0)).to_have_attribute("aria-valuenow", "15")
    assert on_disk(house)["shares"] == {"blocks.0": 0.15}
    told.clear()  # leaving a page in the middle of an event aborts it, which Gradio logs as an error


def test_guards_say_what_a_budget_would_do_and_everything_is_within_reach_on_a_phone(room):
    page = room(shares={"blocks.2": 0.92})
    expect(page.locator(".eq-guards")).to_contain_text("Layer collapse: blocks.2.self_attn.q_proj")
    expect(page.locator(".eq-guards")).to_contain_text("no speed-up on this machine")
    press(page, "Set every unlocked bar to 0 %")
    expect(page.locator(".eq-guards")).to_have_text("")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    saved_after(page, lambda: bar(page, 1).press("PageUp"))
    assert now(page, 1) == 10


def test_ten_thousand_layers_are_shown_in_windows_and_all_of_them_count(room, house):
    source = "invented/ten-thousand"
    known.remember(source, many_layers(500, 20), house.workspace)
    page = room(model=source, patience_ms=4 * PATIENCE_MS)
    expect(page.locator(".eq-bar")).to_have_count(200)
    press(page, "Uniform 50 %")
    page.get_by_role("button", name="Show a bar a layer, or a bar a block").click()
    expect(page.locator(".eq-pager")).to_contain_text("Bars 1 to 200 of 10,000")
    page.get_by_role("button", name="Later bars").click()
    saved_after(page, lambda: bar(page, "19 l19").press("Home"))
    bar(page, "19 l19").press("ArrowRight")
    expect(bar(page, "20 l0")).to_be_focused()
    assert float(board(page).get_attribute("data-sparsity")) == pytest.approx(0.5 * 9_999 / 10_000)
    shares = on_disk(house)["shares"]
    assert len(shares) == 499 + 19 and "blocks.19.l19" not in shares and shares["blocks.499"] == 0.5


def test_a_model_of_one_layer_has_one_bar_that_does_all(room, house):
    source = "invented/one"
    known.remember(source, invented(1, "lin"), house.workspace)
    page = room(model=source)
    saved_after(page, lambda: bar(page, 0).press("PageUp"))
    bar(page, 0).press("u")
    expect(page.locator(".eq-told")).to_contain_text("Block 0 is one layer")
    assert "needs cost curves" in solve(page, "quality", "10")
    assert on_disk(house)["shares"] == {"blocks.0": 0.1}
