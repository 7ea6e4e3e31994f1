"""The shell of the studio: header, strip, rooms, runs, as a person meets them."""

import json
import re
import subprocess

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core import folder
from core.events import Progress
from studio.app import ROOMS
from studio.workspace import Workspace
from tests.browser.conftest import ready, reload, turn, watch
from tests.studio_process import command, running

pytestmark = pytest.mark.browser
NAMES = [name for name, _ in ROOMS]
FORBIDDEN = {"torch", "transformers", "numba", "umap", "sklearn", "peft", "datasets"}


def strip(page):
    return page.locator("#strip .strip")


def choose(page, room):
    page.get_by_role("tab", name=dict(ROOMS)[room], exact=True).click()


def calibrate(page, samples, tokens):
    """Type the calibration, and wait until the plan says it."""
    page.get_by_role("button", name="Calibration").click()
    page.locator("#samples input").fill(str(samples))
    page.locator("#tokens input").fill(str(tokens))
    page.locator("#tokens input").press("Tab")
    expect(page.locator("#plan .plan")).to_contain_text(f"{samples} sequences of {tokens} tokens")


@pytest.mark.parametrize("light", ["light", "dark"])
def test_no_serious_accessibility_finding_in_any_room_by_day_or_night(studio, visit, light, shots):
    folder.end(
        folder.create(studio.runs / f"seen-{light}"), "failed", "A run of this test.", "Nothing to do."
    )  # its table has more controls then
    page = visit(studio.address, NAMES[0], __theme="light")  # by night too: a drawn room is turned
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    for room in NAMES:
        choose(page, room)
        expect(page.get_by_role("tab", name=dict(ROOMS)[room], exact=True)).to_have_attribute("aria-selected", "true")
        turn(page, light)
        if room == "runs":
            expect(page.locator("#runs-table").get_by_text(f"seen-{light}").last).to_be_visible()
        found = Axe().run(page).response["violations"]
        page.screenshot(path=shots / f"{room}-{light}.png", full_page=True)
        serious = [
            (at["id"], [node["html"][:160] for node in at["nodes"]][:4])
            for at in found
            if at["impact"] in ("serious", "critical")
        ]
        assert serious == [], room
        turn(page, "light")


def test_the_page_loads_with_nothing_from_outside_and_a_phones_width_needs_no_sideways_scrolling(studio, visit):
    page = visit(studio.address)
    expect(page).to_have_title("Prunarium")
    expect(page.locator("#brand .open")).to_contain_text("builtin:tiny-llama")
    expect(strip(page)).to_be_hidden()
    page.set_viewport_size({"width": 390, "height": 844})
    for room, label in ROOMS:
        tab = page.get_by_role("tab", name=label, exact=True)
        if not tab.is_visible():
            page.get_by_role("button", name="More tabs").first.click()
            tab = page.locator("#rooms .overflow-dropdown button").get_by_text(label, exact=True)
        tab.click()
        expect(page.get_by_role("tabpanel").get_by_role("heading", name=label, exact=True)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, room


def test_the_room_stands_in_the_address_and_with_the_chosen_light_survives_a_reload(studio, visit, told):
    page = visit(studio.address)
    page.wait_for_function("window.prunariumReady")
    choose(page, "runs")
    expect(page).to_have_url(re.compile("room=runs"))
    before = page.evaluate("document.body.classList.contains('dark')")
    page.locator("#night").click()
    reload(page, told)
    expect(page.get_by_role("tab", name="Runs")).to_have_attribute("aria-selected", "true")
    page.wait_for_function(f"document.body.classList.contains('dark') === {json.dumps(not before)}")


def test_a_bad_value_or_an_empty_budget_by_hand_is_a_sentence_and_prune_waits_for_a_good_one(studio, visit):
    page = visit(studio.address, "prune")
    calibrate(page, 4, 32)
    page.locator("#tokens input").fill("1")
    page.locator("#tokens input").press("Tab")
    expect(page.locator("#plan .plan.wrong")).to_contain_text("greater than or equal to 2")
    expect(page.locator("#prune-go")).to_be_disabled()
    page.locator("#tokens input").fill("32")
    page.locator("#tokens input").press("Tab")
    expect(page.locator("#prune-go")).to_be_enabled()
    expect(page.locator("#plan .plan")).to_contain_text("Remove 50 %")
    page.get_by_label("The budget by hand").check()
    expect(page.locator("#plan .plan.wrong")).to_contain_text("needs shares")


def test_what_another_window_has_opened_is_not_pruned_by_a_plan_for_the_old_model(studio, visit):
    page = visit(studio.address, "prune")
    expect(page.locator("#plan .plan")).to_contain_text("tiny-llama")
    before, there = set(folder.runs(studio.runs)), Workspace(studio.workspace)
    there.change(model="builtin:tiny-cnn")
    try:
        page.locator("#prune-go").click()
        expect(page.get_by_text("Another window has opened builtin:tiny-cnn meanwhile")).to_be_visible()
        expect(page.locator("#plan .plan")).to_contain_text("tiny-cnn")
        assert set(folder.runs(studio.runs)) == before
    finally:
        there.change(model="builtin:tiny-llama")


def test_a_run_is_followed_through_a_reload_and_in_a_second_tab_to_its_figures(studio, visit, told, shots):
    page = visit(studio.address, "prune")
    calibrate(page, 4, 32)
    page.locator("#prune-go").click()
    expect(strip(page)).to_be_visible()
    name = strip(page).get_attribute("data-run")
    reload(page, told)
    expect(strip(page)).to_have_attribute("data-run", name)
    second = visit(studio.address)
    expect(strip(second)).to_have_attribute("data-run", name)
    for one in (page, second):
        expect(strip(one)).to_have_attribute("data-state", "done")
    expect(page.locator("#prune-figures article")).to_have_count(2)
    expect(page.locator("#prune-figures")).to_contain_text("measured")
    expect(page.locator("#prune-texts article")).to_have_count(2)
    expect(page.locator("#prune-layers [data-rev]")).to_be_visible()
    page.screenshot(path=shots / "prune-done.png", full_page=True)
    choose(page, "runs")
    page.locator("#runs-table").get_by_text(name).last.click()
    expect(page.locator("#run-title")).to_contain_text(f"{name}: done")
    expect(page.locator("#run-recipe")).to_contain_text("samples: 4")
    page.screenshot(path=shots / "runs-chosen.png", full_page=True)


def test_stop_ends_a_run_and_says_so(studio, visit):
    page = visit(studio.address, "prune")
    calibrate(page, 2000, 512)
    page.locator("#prune-go").click()
    expect(strip(page)).to_have_attribute("data-state", "running")
    strip(page).get_by_role("button", name="Stop").click()
    expect(strip(page)).to_have_attribute("data-state", "stopped")
    expect(strip(page)).to_contain_text("start it again")
    strip(page).get_by_role("button", name="Put away").click()
    expect(strip(page)).to_be_hidden()


def test_words_of_a_run_are_text_never_markup(studio, visit):
    bad = "<img src=x onerror=window.pwned=1>${window.pwned=1}"
    path = folder.create(studio.runs / "x<img src=q onerror=window.pwned=1>")
    folder.append_event(path, Progress(bad, 1, 2, values={bad: 1.0}))
    folder.end(path, "failed", bad, bad)
    (path / folder.LOG).write_text(bad)
    page = visit(studio.address, "runs", run=path.name.replace(" ", "%20"))
    expect(strip(page)).to_have_attribute("data-state", "failed")
    expect(strip(page)).to_contain_text(bad)
    page.locator("#runs-table").get_by_text("x<img").last.click()
    expect(page.locator("#run-title")).to_contain_text(bad)
    assert page.evaluate("window.pwned") is None


def test_a_tab_that_comes_back_is_told_what_another_has_opened(studio, visit):
    page = visit(studio.address, "runs")
    page.wait_for_function("window.prunariumReady")
    Workspace(studio.workspace).change(data="builtin:trec")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(page.get_by_text("Another tab has opened something else")).to_be_visible()  # first: it goes away by itself
    expect(page.locator("#brand .open")).to_contain_text("builtin:trec")
    Workspace(studio.workspace).change(data="builtin:digits")


def test_a_second_start_opens_the_running_one_and_says_so(studio):
    words, around = command(studio.folder)
    said = subprocess.run(words, env=around, cwd=studio.folder / "here", capture_output=True, text=True, timeout=60)
    assert said.returncode == 0
    assert said.stdout == f"Prunarium is already running for this workspace: {studio.address}\n"


def test_quit_ends_everything_but_a_run_that_is_to_finish_and_the_screen_never_imported_the_engine(tmp_path, context, told):
    dump = tmp_path / "modules"
    with running(tmp_path, PRUNARIUM_DUMP_MODULES=str(dump)) as own:
        path = folder.create(own.runs / "long")
        folder.append_event(path, Progress("load", 1, 3))
        with folder.held(path):
            page = context.new_page()
            watch(page, told)
            page.goto(own.address)
            ready(page)
            for room in NAMES:
                choose(page, room)
            expect(page.get_by_role("tab", name="Runs")).to_have_attribute("aria-selected", "true")
            page.locator("#quit").click()
            expect(page.locator("#leave")).to_contain_text("A run is still going")
            page.get_by_role("button", name="Quit, let the run finish").click()
            expect(page.locator("#farewell")).to_contain_text("has ended")
            assert own.process.wait(60) == 0
            assert not folder.stop_asked(path)
        assert not (own.workspace / "address").exists()
    loaded = {name.split(".")[0] for name in dump.read_text().split()}
    assert "gradio" in loaded
    assert loaded & FORBIDDEN == set()
