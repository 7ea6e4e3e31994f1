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
