"""The Formula lab as a person meets it: type, see, mend, evolve, adopt."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core import folder

pytestmark = pytest.mark.browser
DRAWN = ".plotview[data-rev]:not(.empty)"


def typed(page, formula):
    page.locator("#formula-text").locator("textarea, input").first.fill(formula)


def put(page, where, number):
    box = page.locator(f"{where} input[type=number]")
    box.fill(str(number))
    box.press("Tab")


def test_a_formula_is_read_seen_compared_and_a_bad_one_is_a_sentence(studio, visit):
    page = visit(studio.address, "formula")
    expect(page.locator("#formula-meaning .plan")).to_contain_text("Reads W (the weight) and X")
    typed(page, "W / X -")
    expect(page.locator("#formula-meaning .plan.wrong")).to_contain_text("cannot be read at its end")
    expect(page.locator("#formula-see")).to_be_disabled()
    typed(page, "__import__('os').system('id')")
    expect(page.locator("#formula-meaning .plan.wrong")).to_contain_text("does not know the function")
    typed(page, "square(W) * X")
    expect(page.locator("#formula-see")).to_be_enabled()
    page.locator("#formula-see").click()
    expect(page.locator("#formula-finding")).to_contain_text("At 60 %, square(W) * X leaves a perplexity of")
    expect(page.locator(f"#formula-bars {DRAWN}")).to_be_visible()
    expect(page.locator(f"#formula-heat {DRAWN}")).to_be_visible()
    expect(page.locator("#formula-heat-finding")).to_contain_text("of the weights that Wanda keeps")
    page.get_by_label("Mean score").check()
    expect(page.locator("#formula-heat-finding")).to_contain_text("scores lowest on average")
    typed(page, "W / X")
    expect(page.locator("#formula-see")).to_be_enabled()
    page.locator("#formula-see").click()
    expect(page.locator("#formula-problem .plan.wrong")).to_contain_text("divides by zero at 'W / X': X can be 0")
    expect(page.locator("#formula-finding")).to_contain_text("square(W) * X")
    typed(page, "square(W) * X")
    expect(page.locator("#formula-use")).to_be_enabled()
    page.locator("#formula-use").click()
    expect(page.locator("#plan .plan")).to_contain_text("Remove 60 % of the weights in every layer of tiny-llama by Own formula")
    page.get_by_role("button", name="About this method").click()
    expect(page.get_by_label("Formula of W, X and G")).to_have_value("square(W) * X")


def test_a_search_evolves_a_formula_that_one_click_puts_into_the_prune_plan(studio, visit, shots):
    page = visit(studio.address, "formula")
    put(page, "#evolve-population", 4)
    put(page, "#evolve-generations", 1)
    page.locator("#evolve-go").click()
    expect(page.locator("#evolve-none")).to_contain_text("The search has begun")
    for stage in (r"The best of \d+ formulas", "at a second look"):  # each within its own patience
        expect(page.locator("#evolve-finding")).to_contain_text(re.compile(stage))
    expect(page.locator("#evolve-finding")).to_contain_text("Behind a real prune step, on 32 test windows that chose nothing")
    expect(page.locator(f"#evolve-curve {DRAWN}")).to_be_visible()
    expect(page.locator("#evolve-go")).to_be_enabled()
    best = folder.read_json(next(studio.runs.glob("evolve-*")) / folder.FORMULAS)["best"][0]["formula"]
    expect(page.locator("#evolve-best")).to_contain_text(best)
    page.screenshot(path=shots / "formula-evolved.png", full_page=True)
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    grave = [at["id"] for at in Axe().run(page).response["violations"] if at["impact"] in ("serious", "critical")]
    assert grave == []
    page.locator("#evolve-use").click()
    expect(page.locator("#plan .plan")).to_contain_text(
        f"Remove 60 % of the weights in every layer of tiny-llama by Own formula ({best})"
    )
    page.locator("#show-command").get_by_text("Show command").click()
    expect(page.locator("#show-command")).to_contain_text("method: formula")
    expect(page.locator("#show-command")).to_contain_text(best)
