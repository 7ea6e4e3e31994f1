"""Model, X-ray and Budget as a person meets them: looking, clicking, dragging, typing, and the worker behind them."""

import os
import signal

import pytest
from playwright.sync_api import expect

from studio import known
from tests.browser.equaliser_page import bar, invented, on_disk, saved_after, write_workspace
from tests.model_folders import saved

pytestmark = pytest.mark.browser
HOSTILE = "a.${alert(1)}<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def house(studio):
    return studio


@pytest.fixture(scope="module")
def opened(studio):
    """A folder that the page may read, with a small model in it."""
    saved(studio.opened / "small", tokenizer=True, vocab_size=256)
    return studio.opened


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


def click_bar(page, index):
    """A click at the foot of a bar (a bar that dwarfs the others is cut at its top); plotly listens on a layer above it."""
    bar_of_block = page.locator("#xray-importance .bars .point path").nth(index)
    bar_of_block.scroll_into_view_if_needed()
    box = bar_of_block.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4)


def test_another_metric_gives_another_finding_and_a_click_on_a_bar_a_layer_of_that_block_and_its_weights(room):
    page = room("xray")
    expect(page.locator("#xray-importance-finding h3")).to_contain_text("change")
    before = page.locator("#xray-importance .plotview").get_attribute("data-rev")
    page.get_by_label("Magnitude").click()
    page.wait_for_function("rev => document.querySelector('#xray-importance .plotview').dataset.rev !== rev", arg=before)
    expect(page.locator("#xray-importance-finding h3")).to_contain_text("smallest weights on average")
    expect(page.locator("#xray-importance-finding .badge")).to_have_text("precomputed demo")
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


def test_what_cannot_be_opened_is_told_in_a_sentence(room):
    page = room("model")
    for text, said in (
        ("nowhere-to-be-found", "There is no"),
        ("/etc", "outside the folders"),
        ("builtin:tiny-lama", "nothing built in"),
    ):
        choose_source(page, text)
        expect(page.locator("#model-told")).to_contain_text(said)
        page.locator("#model-open").click()
        expect(page.locator("#model-told")).to_contain_text(said)
        expect(page.locator("#brand .open")).to_contain_text("builtin:tiny-llama")


def test_the_bars_are_there_for_who_comes_by_the_tab_long_after_the_page_was_loaded(house, visit):
    """A room that nobody has opened is given its last value only, and that may be the one after a change of the budget."""
    write_workspace(house)
    page = visit(house.address, "model")
    expect(page.get_by_text("parameters can be pruned")).to_be_visible()
    page.get_by_role("tab", name="X-ray", exact=True).click()
    expect(
        page.locator(".plotview[data-rev]:not(.empty):visible").first
    ).to_be_visible()  # what the page's load asked for is here by now
    page.get_by_role("tab", name="Budget", exact=True).click()
    expect(page.locator("#equaliser [role=slider]").first).to_be_visible()
