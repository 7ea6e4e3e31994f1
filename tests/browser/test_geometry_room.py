"""The Geometry room as a person meets it: look, read the curves, set pruned against dense, take the most changed rows to the Data room."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from studio.charts import damage as charts
from tests.browser.conftest import PATIENCE_MS
from tests.browser.equaliser_page import write_workspace

pytestmark = pytest.mark.browser
KINDS = [("match", "stadium"), ("game", "league"), ("song", "theatre"), ("concert", "hall"), ("film", "cinema"), ("tune", "studio"), ("final", "cup"),
         ("solo", "opera")]  # fmt: skip
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


def test_the_damage_of_a_budget_says_who_pays_and_a_click_takes_their_rows(studio, visit, shots):
    """A small file, a budget of one block: map, click, Data room, and the sentence beside the bars, right to the percent."""
    write_workspace(studio, shares={"blocks.4": 0.75})
    rows = studio.folder / "here" / "texts.csv"
    rows.write_text(
        "text\n" + "\n".join(f"The {a} played a fine {b} in the {c}." for a in ("team", "club", "band") for b, c in KINDS)
    )
    page = visit(studio.address, "geometry")
    box = page.locator("#geometry-data input")
    box.fill(str(rows))
    box.press("Enter")
    page.locator("#damage-go").click()
    pays = re.compile(r"\) pays most: .* of blocks\.4\..* goes|No group of rows pays")
    expect(page.locator("#damage-finding h3")).to_contain_text(pays, timeout=3 * PATIENCE_MS)
    found = json.loads(next(studio.runs.glob("damage-*/damage.json")).read_text())
    assert all(len(group["words"]) == 3 for group in found["groups"])
    order = charts.groups(found, 0.0)
    page.locator("#damage-map .nsewdrag").first.click(position={"x": 6, "y": 4})  # the first line: who pays most
    expect(page.get_by_role("tab", name="Data")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#data-samples")).to_contain_text(f"{len(found['groups'][order[0]]['rows'])} rows chosen")
    expect(page.locator("#data-samples")).to_contain_text(charts.group_name(found, order[0]).capitalize()[:12])
    page.get_by_role("tab", name="Budget").click()
    together, worst = next(cell for cell in found["cells"] if cell["layer"] == "*")["loss"], charts.named(found, 0.0)[0]
    said = [f"{100 * math.expm1(together[at]):+.0f} %" for at in (len(found["groups"]), worst)]
    sentence = f"With this budget, measured on texts.csv: {said[0]} perplexity over all rows, {said[1]} on {charts.group_name(found, worst)}"
    expect(page.locator("#budget-note")).to_contain_text(sentence)
    page.get_by_role("button", name="Uniform 20 %").click()
    expect(page.locator("#budget-note")).to_contain_text("With another budget, measured on texts.csv")
