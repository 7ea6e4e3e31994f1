"""The Geometry room as a person meets it: look, read the curves, set pruned against dense, take the most changed rows to the Data room."""

import os
import re
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
DRAWN = ".plotview[data-rev]:not(.empty)"


def choose(page, where, words):
    """By keyboard: open the list, take the entry."""
    page.locator(f"{where} input").first.click()
    page.get_by_role("option", name=words).first.click()


def small(page):
    """Few rows, so that a look takes seconds."""
    page.get_by_text("How it is read").click()
    box = page.locator("#geometry-rows input[type=number]")
    box.fill("100")
    box.press("Tab")


def test_rows_are_looked_at_in_all_blocks_and_the_changed_ones_go_to_the_data_room(studio, visit, shots):
    page = visit(studio.address, "geometry")
    expect(page.locator("#geometry-none")).to_contain_text("Not looked at yet")
    expect(page.locator("#geometry-data input")).to_have_value("builtin:trec/train")
    choose(page, "#geometry-data", "builtin:digits")
    page.locator("#geometry-go").click()
    expect(page.locator(".strip")).to_contain_text("reads texts, and builtin:digits has none")
    choose(page, "#geometry-data", "builtin:trec/train")
    small(page)
    page.locator("#geometry-go").click()
    expect(page.locator("#geometry-finding")).to_contain_text(
        re.compile(r"The intrinsic dimension (falls|rises) from .* \(Gaussian vectors")
    )
    expect(page.locator(f"#geometry-curves {DRAWN}")).to_be_visible()
    expect(page.locator("#geometry-cka-finding")).to_contain_text("The rows are rearranged most between")
    expect(page.locator("#geometry-note")).to_contain_text("100 of 5,452 rows, drawn class by class")
    choose(page, "#geometry-measure", "Neural collapse 1: spread")
    expect(page.locator("#geometry-finding")).to_contain_text("shuffled classes")
    choose(page, "#geometry-layer", "Block 2")
    expect(page.locator("#geometry-drift-finding")).to_contain_text(
        re.compile(r"After block 2 a row keeps \d+ % of its neighbours; the 5 most changed")
    )
    page.locator("#geometry-show").click()
    expect(page.locator("#geometry-samples .sample")).to_have_count(5)
    expect(page.locator("#geometry-samples")).to_contain_text("keeps")
    page.screenshot(path=shots / "geometry.png", full_page=True)
    page.locator("#geometry-take").click()
    expect(page.locator("#data-about")).to_contain_text("5,452 texts in 6 classes")
    expect(page.locator("#data-samples")).to_contain_text("5 rows chosen")
    expect(page.locator("#data-samples")).to_contain_text("Neighbourhoods that change most after block 2")


def test_dense_against_pruned_stand_on_the_same_axes_at_any_width_and_in_the_dark(studio, visit, shots, checkout):
    asked = studio.folder / "halved.yaml"
    steps = "[{prune: {method: magnitude, sparsity: 0.5}}]"
    asked.write_text(f"recipe: 1\nname: halved\nmodel: {{source: builtin:tiny-llama}}\nsteps: {steps}\n")
    words = [sys.executable, "-m", "core.run", str(asked), "--out", str(studio.runs / "halved")]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(checkout)})
    page = visit(studio.address, "geometry")
    choose(page, "#geometry-against", "Run halved")
    small(page)
    page.locator("#geometry-go").click()
    expect(page.locator("#geometry-finding")).to_contain_text(
        re.compile(r"Most neighbours change at .* % are kept between tiny-llama and halved")
    )
    expect(page.locator("#geometry-cka-finding")).to_contain_text("The two models differ most after")
    expect(page.locator(f"#geometry-drift {DRAWN}")).to_be_visible()
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    for night, width in ((False, 1280), (True, 1280), (True, 390)):
        page.evaluate("night => document.body.classList.toggle('dark', night)", night)
        page.set_viewport_size({"width": width, "height": 1100})
        page.wait_for_function("document.querySelector('#geometry-curves .plotview').offsetWidth < innerWidth")
        page.screenshot(path=shots / f"geometry-pruned-{width}{'-dark' if night else ''}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    grave = [at["id"] for at in Axe().run(page).response["violations"] if at["impact"] in ("serious", "critical")]
    assert grave == []
