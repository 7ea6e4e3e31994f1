"""Channels in the room for pruning: refused for a language model before it is asked, and pruned for an image classifier."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS

WORDS = "whole channels"


def choose_channels(page: Page) -> None:
    page.locator("#structure input").click()
    page.get_by_role("option", name=WORDS).click()


def test_a_language_model_has_no_channels_and_the_plan_says_so(studio, visit, shots):
    page = visit(studio.address, "prune")
    choose_channels(page)
    expect(page.locator("#plan .plan.wrong")).to_contain_text("LlamaForCausalLM takes no image")
    expect(page.locator("#prune-go")).to_be_disabled()
    page.screenshot(path=shots / "channels-refused.png", full_page=True)


def test_channels_of_the_built_in_classifier_go_and_the_strip_says_done(studio, visit, shots):
    page = visit(studio.address, "model")
    page.wait_for_selector("#anatomy [data-rev]")
    page.locator("#model-source input").fill("builtin:tiny-cnn")
    page.locator("#model-source input").press("Enter")
    expect(page.locator("#model-told")).to_contain_text("Memory to open it")
    page.locator("#model-open").click()
    expect(page.locator("#brand .open b").first).to_contain_text("tiny-cnn")
    page.get_by_role("tab", name="Prune & recover", exact=True).click()
    choose_channels(page)
    page.get_by_label("Global ranking").check()
    expect(page.locator("#plan .plan")).to_contain_text("spread over the layers by Global ranking")
    page.locator("#prune-go").click()
    expect(page.locator("#strip .strip")).to_have_attribute("data-state", "done", timeout=4 * PATIENCE_MS)
    expect(page.locator("#prune-figures article").first).to_be_visible()
    page.screenshot(path=shots / "channels-done.png", full_page=True)
