"""Prune & recover and Compare as a person meets them: the plan against the last run, live curves, stop and go on, many runs, a sweep, a report in one file."""

import json
import re
import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core import folder, sweep
from studio.rooms.prune import kept
from tests.browser.conftest import PATIENCE_MS, reload, turn
from tests.browser.test_shell import calibrate, choose, strip

pytestmark = pytest.mark.browser
LONG = 4 * PATIENCE_MS
SWEEP = """recipe: 1
name: three
model: {source: builtin:tiny-cnn}
calibration: {samples: 16}
steps: [{prune: {method: wanda, sparsity: 0.5}}]
measure:
  accuracy: {samples: 120}
  corruptions: {samples: 60, kinds: [noise, blur], severities: [3]}
  geometry: {samples: 60}
sweep: {steps.0.prune.sparsity: [0.3, 1.7, 0.6]}
"""


def ended(page, state="done"):
    expect(strip(page)).to_have_attribute("data-state", state, timeout=LONG)


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def violations(page):
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    found = Axe().run(page).response["violations"]
    return [
        (at["id"], [node["html"][:160] for node in at["nodes"]][:4]) for at in found if at["impact"] in ("serious", "critical")
    ]


def test_a_plan_is_set_against_the_last_run_and_a_stopped_run_goes_on_where_it_was(studio, visit, shots):
    page = visit(studio.address, "prune")
    calibrate(page, 4, 32)
    expect(page.locator("#plan-diff")).to_contain_text("The first run of this workspace")
    expect(page.locator("#plan-diff")).to_contain_text("3.15 M → 1.97 M")
    page.locator("#structure input").click()
    page.get_by_role("option", name="any N and M").click()
    page.locator("#of-m input").fill("7")
    expect(page.locator("#plan .plan.wrong")).to_contain_text(
        "2:7 needs a multiple of 7 inputs; blocks.0.self_attn.q_proj has 192"
    )
    page.locator("#structure input").click()
    page.get_by_role("option", name="single weights").click()
    page.get_by_role("button", name="Which parts of the model").click()
    page.get_by_label("Spare the super weights").check()
    expect(page.locator("#plan .plan")).to_contain_text("sparing the super weights")
    expect(page.locator("#plan-diff")).to_contain_text("3.15 M → 1.97 M")
    page.get_by_label("Norms and biases").check()
    page.locator("#recovery-steps input[type=number]").fill("40")
    page.locator("#recovery-steps input[type=number]").press("Tab")
    expect(page.locator("#plan .plan")).to_contain_text("40 steps")
    page.locator("#prune-go").click()
    live = re.compile(r"Perplexity went from .* the loss went from")
    expect(page.locator("#live-finding")).to_contain_text(live, timeout=LONG)
    page.locator("#strip .halt").click()
    ended(page, "stopped")
    first = strip(page).get_attribute("data-run")
    expect(page.locator("#live-curve .plotview[data-rev]:not(.empty)")).to_be_visible()
    expect(page.locator("#run-stages")).to_contain_text("repeats “Recover: Norms and biases” from its beginning")
    page.screenshot(path=shots / "prune-stopped.png", full_page=True)
    page.locator("#run-resume").click()
    expect(strip(page)).not_to_have_attribute("data-run", first)
    ended(page)
    second = strip(page).get_attribute("data-run")
    events, _ = folder.read_events(studio.runs / second)
    assert any("Taken up from" in event["text"] and "1 of 2 steps" in event["text"] for event in events)
    expect(page.locator("#run-stages")).to_contain_text(re.compile(r"Measure the dense model\s*taken over"))
    expect(page.locator("#prune-divergence")).to_contain_text("It is farthest from the dense model at")
    assert page.locator("#prune-texts .token").count() > 10
    expect(page.locator("#plan-diff")).to_contain_text("The same as the last run")
    page.locator("#sparsity input[type=number]").fill("60")
    page.locator("#sparsity input[type=number]").press("Tab")
    expect(page.locator("#plan-diff")).to_contain_text(re.compile(r"Share removed\s*50 % → 60 %"))
    page.screenshot(path=shots / "prune-done.png", full_page=True)
    assert violations(page) == []


def test_the_plan_is_as_it_was_left_after_a_reload_in_a_second_tab_and_under_a_quick_hand(studio, visit, told, shots):
    def number(page, name, value=None):
        box = page.locator(f"#{name} input[type=number]").first
        if value is None:
            return box
        box.fill(str(value))
        return box.press("Tab")

    page = visit(studio.address, "prune")
    page.locator("#method input").click()
    page.get_by_role("option", name="Magnitude", exact=True).click()
    page.get_by_label("Norms and biases").check()
    number(page, "recovery-steps", 40)
    number(page, "sparsity", 35)
    page.get_by_label("OWL").check()
    page.get_by_role("button", name="About how it is spread").click()
    page.locator("#spread-details").get_by_label("number input").first.fill("7")
    page.locator("#spread-details").get_by_label("number input").first.press("Tab")
    page.get_by_role("button", name="Calibration").click()
    number(page, "samples", 9)
    words = re.compile("Remove 35 % of all weights .* by Magnitude.* looking at 9 sequences.* 40 steps")
    expect(page.locator("#plan .plan")).to_have_text(words)
    said = page.locator("#plan .plan").inner_text()
    wait_until(lambda: kept.read(studio.workspace, "builtin:tiny-llama").get("samples") == 9)
    reload(page, told)
    for one in (page, visit(studio.address, "prune")):
        expect(one.locator("#plan .plan")).to_have_text(said)
        expect(one.locator("#method input")).to_have_value("Magnitude")
        expect(number(one, "sparsity")).to_have_value("35")
        expect(number(one, "recovery-steps")).to_have_value("40")
        expect(one.get_by_label("OWL")).to_be_checked()
        one.get_by_role("button", name="About how it is spread").click()
        expect(one.locator("#spread-details").get_by_label("number input").first).to_have_value("7")
    page.screenshot(path=shots / "prune-kept.png", full_page=True)
    reload(page, told)
    number(page, "sparsity", 61)  # before what was kept has come
    expect(page.locator("#plan .plan")).to_have_text(re.compile(words.pattern.replace("35", "61")))
    expect(number(page, "sparsity")).to_have_value("61")
    wait_until(lambda: kept.read(studio.workspace, "builtin:tiny-llama")["sparsity"] == 61)
    assert kept.read(studio.workspace, "builtin:tiny-llama")["method"] == "magnitude"
    expect(page.locator("#method input")).to_have_value("Magnitude")


def test_a_sweep_runs_its_cells_shows_a_bad_one_and_they_are_compared_and_reported(studio, visit, shots):
    page = visit(studio.address, "compare")
    page.locator("#sweep").get_by_text("Sweep: many recipes as one job").click()
    page.locator("#sweep-write").click()
    expect(page.locator("#sweep-said .plan")).to_contain_text("6 runs, one after another")
    page.locator("#sweep-yaml textarea").fill("sweep: {}")
    expect(page.locator("#sweep-said .plan.wrong")).to_contain_text("no cell")
    expect(page.locator("#sweep-start")).to_be_disabled()
    page.locator("#sweep-yaml textarea").fill(SWEEP.replace("builtin:tiny-cnn", "/etc/passwd"))
    expect(page.locator("#sweep-said .plan.wrong")).to_contain_text("outside the folders")
    page.locator("#sweep-yaml textarea").fill(SWEEP)
    expect(page.locator("#sweep-said .plan")).to_contain_text("2 runs, one after another")
    expect(page.locator("#sweep-said .plan")).to_contain_text("1 cell cannot run")
    page.locator("#sweep-start").click()
    expect(strip(page)).to_have_attribute("data-run", re.compile("^three-"))
    ended(page)
    expect(page.locator("#sweep-table")).to_contain_text("less than or equal to 1")
    expect(page.locator("#sweep-note")).to_contain_text("2 of 3 cells are done")
    place = studio.runs / strip(page).get_attribute("data-run")
    assert [cell["state"] for cell in json.loads((place / folder.REPORT).read_text())["sweep"]["cells"]] == [
        "done",
        "failed",
        "done",
    ]
    assert (place / sweep.FILE).is_file()
    page.locator("#sweep-beside").click()
    expect(page.locator("#compare-table")).to_contain_text("B against A")
    expect(page.locator("#compare-verdict")).to_contain_text("best accuracy")
    for words, said in (("Overlap of the masks", "share"), ("Where two masks differ", "agree on"), ("Corrupted images", "falls most under"),
                        ("Feature geometry", "keep a margin of"), ("Attention heads", "no mask on attention heads")):  # fmt: skip
        page.get_by_label(words, exact=True).check()
        expect(page.locator("#compare-finding")).to_contain_text(said)
        page.screenshot(path=shots / f"compare-{words.split()[0].lower()}.png", full_page=True)
    page.get_by_label("Quality against cost", exact=True).check()
    page.locator("#compare-export").click()
    with page.expect_download() as coming:
        page.locator("#compare-download").click()
    text = (coming.value.path()).read_text()
    assert text.startswith("<!doctype html>") and "<script" not in text and "method: wanda" in text
    turn(page, "dark")
    assert violations(page) == []
    page.screenshot(path=shots / "compare-dark.png", full_page=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=shots / "compare-phone.png", full_page=True)
    choose(page, "runs") if page.get_by_role("tab", name="Runs", exact=True).is_visible() else None


def test_runs_that_cannot_be_compared_leave_the_others_and_a_sentence(studio, visit):
    names = sorted(
        path.name for path in folder.runs(studio.runs) if (path / folder.REPORT).is_file() and not (path / sweep.FILE).exists()
    )
    if not names:
        pytest.fail("the scenarios above left no finished run")
    page = visit(studio.address, "compare")
    runs = page.locator("#compare-runs")
    expect(runs).to_contain_text("three-")
    runs.locator("input").click()
    page.get_by_role("option", name=names[0], exact=True).click()
    page.keyboard.press("Escape")
    expect(page.locator("#compare-apart")).to_contain_text("runs of different models")
    expect(page.locator("#compare-table")).to_contain_text("Perplexity")
    (studio.runs / names[0] / folder.REPORT).write_text("{torn")
    page.get_by_label("Share of each layer", exact=True).check()
    expect(page.locator("#compare-finding")).to_contain_text("differ most in")
