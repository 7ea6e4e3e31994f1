"""PlotlyView alone: drawn when seen, clicked, lassoed, out of date, in both lights."""

import itertools
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from studio import quick  # noqa: F401 - before gradio
from tests.browser.conftest import PATIENCE_MS, watch

pytestmark = pytest.mark.browser
_EMIT = "(at) => document.querySelector('#view .plotview').emit(...at)"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    import gradio as gr
    import plotly.graph_objects as go

    from studio.address import chosen_port
    from studio.app import launch
    from studio.parts import plotview
    from studio.parts.plotview import PlotlyView, picked

    plotview._revisions = itertools.count(1)  # another file's tests in this process may have drawn before

    def bars(*heights: float) -> go.Figure:
        return go.Figure(go.Bar(x=["a", "b", "c"], y=heights))

    with gr.Blocks(analytics_enabled=False) as page:
        with gr.Tab("First"):
            new = gr.Button("New figure")
            told = gr.Textbox(label="Told", elem_id="told")
        with gr.Tab("Second"):
            view = PlotlyView(bars(1, 2, 3), alt='A "quoted" ${alt} {{text}}', height=300, elem_id="view")
        new.click(lambda: (bars(3, 2, 1), "made"), None, [view, told])

        def chosen(event: gr.EventData) -> str:
            at = picked(event)
            return f"{at.x} {at.y:g} of {at.rev}"

        def lassoed(event: gr.EventData) -> str:
            return f"rows {picked(event).rows}"

        view.select(chosen, None, told)
        view.option_select(lassoed, None, told)
        view.clear(lambda: "cleared", None, told)
    yield launch(page, chosen_port("127.0.0.1", 0), "127.0.0.1", None)
    threading.Thread(target=page.close, daemon=True).start()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def page(address: str, page: Page, told: list[str]) -> Iterator[Page]:
    page.set_default_timeout(PATIENCE_MS)
    watch(page, told)
    page.goto(f"{address}?__theme=light")
    yield page
    assert told == []


def shown(page: Page):
    page.get_by_role("tab", name="Second").click()
    view = page.locator("#view .plotview")
    expect(view).to_have_attribute("data-rev", "1", timeout=PATIENCE_MS)
    return view


def told_is(page: Page, text: str) -> None:
    expect(page.locator("#told textarea")).to_have_value(text, timeout=PATIENCE_MS)


def bar(page: Page, number: int):
    return page.locator("#view .bars .point path").nth(number)


def test_a_figure_in_a_room_that_is_not_shown_is_drawn_when_it_is(page):
    view = shown(page)
    page.get_by_role("tab", name="First").click()
    page.get_by_role("button", name="New figure").click()
    told_is(page, "made")
    expect(view).to_have_attribute("data-rev", "1")
    page.get_by_role("tab", name="Second").click()
    expect(view).not_to_have_attribute("data-rev", "1")
    expect(page.locator("#view .bars .point path")).to_have_count(3)
    assert bar(page, 0).bounding_box()["height"] > 100


def test_a_click_tells_what_was_clicked_and_in_which_drawing(page):
    shown(page)
    box = bar(page, 1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.get_by_role("tab", name="First").click()
    told_is(page, "b 2 of 1")


def test_a_lasso_sends_indices_only_and_clearing_it_is_told(page):
    shown(page)
    points = [{"pointIndex": 0, "curveNumber": 0}, {"pointIndex": 2, "curveNumber": 0}]
    page.evaluate(_EMIT, ["plotly_selected", {"points": points}])
    told_is(page, "rows (0, 2)")
    page.evaluate(_EMIT, ["plotly_deselect"])
    told_is(page, "cleared")


def test_an_event_of_an_older_drawing_is_dropped(page):
    shown(page)
    page.evaluate(
        "() => { window.kept = Plotly.react; Plotly.react = (...a) => new Promise(go => { window.release = () => go(kept(...a)); }); }"
    )
    page.get_by_role("tab", name="First").click()
    page.get_by_role("button", name="New figure").click()
    page.get_by_role("tab", name="Second").click()
    page.wait_for_function("() => !!window.release")
    click = {"points": [{"curveNumber": 0, "pointIndex": 0, "x": "a", "y": 1}]}
    page.evaluate(_EMIT, ["plotly_click", click])
    page.evaluate("release()")
    expect(page.locator("#view .plotview")).not_to_have_attribute("data-rev", "1", timeout=PATIENCE_MS)
    now = page.locator("#view .plotview").get_attribute("data-rev")
    page.evaluate(_EMIT, ["plotly_click", {"points": [{"curveNumber": 0, "pointIndex": 0, "x": "a", "y": 3}]}])
    told_is(page, f"a 3 of {now}")


def test_dark_turns_the_words_of_the_figure_light(page):
    shown(page)
    colour = "() => getComputedStyle(document.querySelector('#view .xtick text')).fill"
    light = page.evaluate(colour)
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_function(f"({colour})() !== '{light}'", timeout=PATIENCE_MS)


def test_a_new_address_does_not_take_the_lines_away(page):
    shown(page)
    page.evaluate("history.replaceState(null, '', '?room=elsewhere')")
    clips = page.evaluate("[...document.querySelectorAll('#view [clip-path]')].map(node => node.getAttribute('clip-path'))")
    assert clips
    assert all(clip.startswith("url(#") for clip in clips)


def test_the_words_for_those_who_cannot_see_it_are_text(page):
    view = shown(page)
    expect(view).to_have_attribute("aria-label", 'A "quoted" ${alt} {{text}}')
