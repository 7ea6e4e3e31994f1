"""The lessons as a person plays them: each from its first step to its last with real runs, and what can go wrong on the way."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core import lesson
from core.lesson import figures as lesson_figures
from core.lesson.figures import extreme
from studio import known
from studio.rooms.learn.progress import FILE
from studio.workspace import Workspace
from tests.browser.conftest import PATIENCE_MS, reload

pytestmark = pytest.mark.browser
HOSTILE = "Mine ${alert(1)}<img src=x onerror=alert(2)>"
OWN = f"""---
lesson: 1
title: "{HOSTILE}"
about: "{HOSTILE}"
minutes: 3
model: builtin:tiny-llama
paper: {{authors: "{HOSTILE}", year: 2024, title: "{HOSTILE}"}}
---

## {HOSTILE}

**{HOSTILE}**

```yaml
ask: {{choose: Which?, among: [one, "{HOSTILE}"]}}
check: {{prediction: {{}}}}
```
"""
BROKEN = OWN.replace("prediction", "predicktion")
RUN_MS = 240_000  # a run on two busy cores: a limit, never a pause


@pytest.fixture(scope="module")
def house(studio):
    """The studio, with lessons of one's own in the folder that is open to it."""
    (studio.opened / "mine.md").write_text(OWN)
    (studio.opened / "broken.md").write_text(BROKEN)
    (studio.opened / "README.md").write_text("# No lesson\n")
    return studio


@pytest.fixture
def fresh(house, visit):
    """fresh(lesson="weights", step="2") -> the page, with nobody's progress."""

    def to(room="", **asked):
        (house.workspace / FILE).unlink(missing_ok=True)
        return visit(house.address, room, **asked)

    return to


def panel(page):
    return page.locator("#lesson .lesson")


def at_step(page, number):
    expect(panel(page)).to_have_attribute("data-step", str(number))


def right(page, timeout=PATIENCE_MS):
    expect(panel(page)).to_have_attribute("data-state", "right", timeout=timeout)
    return page.locator(".lesson-said").inner_text()


def on(page):
    """To the next step, whose room is then in front."""
    now = int(panel(page).get_attribute("data-step"))
    page.get_by_role("button", name="Next", exact=True).click()
    at_step(page, now + 1)


def answer(page, text):
    page.locator(".lesson-ask input").fill(str(text))
    page.locator(".lesson-ask").get_by_role("button", name="Check").click()


def choose(page, text):
    page.locator(".lesson-ask").get_by_role("button", name=text, exact=True).click()


def run_it(page):
    """Press the step's own button and wait for what the check says of the run."""
    strip = page.locator("#strip .strip")
    before = strip.get_attribute("data-run") or ""
    page.locator(".lesson").get_by_role("button", name="Run it", exact=True).click()
    expect(strip).not_to_have_attribute("data-run", before)
    expect(strip).to_have_attribute("data-state", "done", timeout=RUN_MS)


def front(page):
    return page.locator("#rooms [role=tab][aria-selected=true]").first.inner_text()


def seen():
    return json.loads((known.DEMOS / "tiny-llama" / "observations.json").read_text())


def figures(name):
    return json.loads(lesson_figures.beside(lesson.FOLDER / f"{name}.md").read_text())


def measured(house, name):
    """The report of the newest run of that name."""
    path = max(house.runs.glob(f"{name}-*/report.json"), key=lambda file: file.stat().st_mtime)
    return json.loads(path.read_text())


def same_as_told(house, name, recipe):
    """What the lesson's words say of a run is what the run measures here."""
    here, told = measured(house, f"{name}-{recipe}"), figures(name)[recipe]
    for moment in ("dense", "pruned", "recovered"):
        if told[moment]:
            assert here[moment]["perplexity"] == pytest.approx(told[moment]["perplexity"], rel=0.01)
            assert here[moment]["parameters"] == told[moment]["parameters"]


def bar(page, index):
    return page.get_by_role("slider", name=f"Block {index}", exact=True)


def set_bar(page, index, percent):
    bar(page, index).focus()
    page.keyboard.type(str(percent))
    page.keyboard.press("Enter")
    expect(bar(page, index)).to_have_attribute("aria-valuenow", str(percent))


def test_what_is_a_weight_worth_from_start_to_end(fresh, house):
    page = fresh("learn")
    page.get_by_role("button", name="Begin: What is a weight worth?").click()
    at_step(page, 1)
    assert front(page) == "X-ray"
    page.get_by_role("button", name="Set the bars for me").click()
    expect(page.locator(".lesson-told")).to_contain_text("The bars are set")
    assert Workspace(house.workspace).read().budget.shares["blocks.2"] == 0.5
    answer(page, 1)
    expect(page.locator(".lesson-said")).to_contain_text("too large")
    answer(page, "0,085")
    assert "0.08" in right(page)
    on(page)
    answer(page, "about 90")
    assert "90" in right(page)
    on(page)
    assert front(page) == "Prune & recover"
    run_it(page)
    assert "You said 90" in right(page)
    same_as_told(house, "weights", "magnitude-half")
    on(page)
    run_it(page)
    assert "Wanda left" in right(page)
    same_as_told(house, "weights", "wanda-half")
    on(page)
    worst = extreme(seen()["blocks"], "block_influence", "most")["index"]
    choose(page, f"Block {worst - 1 if worst else 1}")
    expect(page.locator(".lesson-said")).to_contain_text("another has more")
    choose(page, f"Block {worst}")
    assert f"block {worst}" in right(page)
    on(page)
    expect(page.locator(".lesson-paper")).to_contain_text("arXiv 2306.11695")
    expect(page.locator(".lesson-told")).to_have_text("")
    page.get_by_role("button", name="Finish").click()
    expect(panel(page)).to_be_hidden()
    page.get_by_role("tab", name="Learn", exact=True).click()
    expect(page.locator("[data-lesson=weights]")).to_contain_text("5 of 5 tasks done")
    page.get_by_role("button", name="Do it again: What is a weight worth?").click()
    at_step(page, 1)
    expect(page.locator(".lesson-dots .done")).to_have_count(0)


def test_layers_that_repeat_each_other_from_start_to_end(fresh, house):
    page = fresh(lesson="blocks")
    at_step(page, 1)
    assert front(page) == "X-ray"
    least = extreme(seen()["blocks"], "block_influence", "least")["index"]
    choose(page, f"Block {least}")
    assert f"block {least}" in right(page)
    on(page)
    answer(page, 60)
    right(page)
    on(page)
    run_it(page)
    assert "You said 60" in right(page)
    on(page)
    run_it(page)
    assert "does not speak any more" in right(page)
    on(page)
    run_it(page)
    assert "after training" in right(page)
    report = measured(house, "blocks-two-blocks-healed")
    assert report["recovered"]["perplexity"] < report["pruned"]["perplexity"]
    for recipe in ("one-block", "first-block", "two-blocks-healed"):
        same_as_told(house, "blocks", recipe)
    on(page)
    expect(page.locator(".lesson-paper")).to_contain_text("arXiv 2403.03853")


def test_a_budget_by_hand_against_the_machine_from_start_to_end(fresh, house):
    page = fresh(lesson="budget", step="1")
    at_step(page, 1)
    assert front(page) == "Budget"
    page.get_by_role("button", name="Set the bars for me").click()
    expect(bar(page, 5)).to_have_attribute("aria-valuenow", "50")
    answer(page, page.locator("#equaliser .eq").get_attribute("data-quality"))
    right(page)
    on(page)
    for index, percent in enumerate((35, 53, 53, 53, 53, 53)):
        set_bar(page, index, percent)
    assert "against" in right(page)
    expect(page.locator(".lesson-said")).to_contain_text("at 50 %")  # the last bar too
    on(page)
    run_it(page)
    assert "Equal shares" in right(page)
    on(page)
    run_it(page)
    assert "better, with the same number of weights" in right(page)
    on(page)
    run_it(page)
    assert "the machine’s" in right(page).replace("'", "’")
    same_as_told(house, "budget", "equal")
    same_as_told(house, "budget", "machine")
    on(page)
    expect(page.locator(".lesson-paper")).to_contain_text("arXiv 2308.10438")


def test_the_link_holds_the_whole_state_and_survives_a_reload(fresh, told):
    page = fresh(lesson="weights", step="2")
    at_step(page, 2)
    expect(page.locator(".lesson-told")).to_contain_text("Step 1 is still open")
    answer(page, 77)
    assert "77" in right(page)
    reload(page, told)
    at_step(page, 2)
    assert "77" in right(page)
    expect(page.locator(".lesson-ask input")).to_have_value("77")
    assert "lesson=weights" in page.url and "step=2" in page.url
    page.get_by_role("button", name="Back", exact=True).click()
    at_step(page, 1)
    page.go_back()
    at_step(page, 2)
    page.get_by_role("button", name="Leave the lesson").click()
    expect(panel(page)).to_be_hidden()
    assert "lesson=" not in page.url


def test_a_bad_link_is_a_sentence(fresh):
    """As the page's address, and by going back and forth to it: the same words."""
    for asked, said in (
        ({"lesson": "weights", "step": "99"}, "This lesson has no step 99; it has 6. Here is step 6."),
        ({"lesson": "weights", "step": "two"}, "This lesson has no step 0; it has 6. Here is step 1."),
        ({"lesson": "nothing"}, "There is no lesson called 'nothing'. Choose one in the Learn room."),
        ({"lesson": "broken"}, "There is no lesson check called 'predicktion'. Did you mean 'prediction'?"),
    ):
        page = fresh(**asked)
        expect(panel(page)).to_contain_text(said)
    page.evaluate("() => { history.pushState(null, '', '?lesson=nothing'); dispatchEvent(new PopStateEvent('popstate')); }")
    expect(panel(page)).to_contain_text("There is no lesson called 'nothing'")


def test_two_tabs_keep_what_both_have_done(fresh, visit, house):
    first = fresh(lesson="weights", step="2")
    second = visit(house.address, lesson="blocks", step="2")
    at_step(first, 2), at_step(second, 2)
    answer(second, 61)
    right(second)
    answer(first, 62)
    right(first)
    kept = json.loads((house.workspace / FILE).read_text())
    assert kept["weights"]["answers"] == {"2": "62"} and kept["blocks"]["answers"] == {"2": "61"}


def test_another_model_open_is_told_and_the_lessons_own_is_one_press_away(fresh, house):
    Workspace(house.workspace).change(model="builtin:tiny-cnn")
    page = fresh(lesson="weights", step="3")
    at_step(page, 3)
    expect(panel(page)).to_contain_text("This lesson is about builtin:tiny-llama, and builtin:tiny-cnn is open.")
    page.get_by_role("button", name="Open builtin:tiny-llama").click()
    expect(page.locator("#brand .open")).to_contain_text("tiny-llama")
    expect(panel(page).get_by_role("button", name="Run it")).to_be_visible()


def test_a_lesson_of_ones_own_is_drawn_as_text_and_a_broken_one_says_why(fresh):
    page = fresh("learn")
    expect(page.locator("[data-lesson=broken]")).to_contain_text("Line 10, step 1")
    expect(page.locator("[data-lesson=mine] h3")).to_have_text(HOSTILE)
    expect(page.locator("[data-lesson=README]")).to_have_count(0)
    page.locator("[data-lesson=mine] button").click()
    at_step(page, 1)
    expect(panel(page).locator("h3")).to_have_text(HOSTILE)
    expect(panel(page).locator("strong")).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_by_keyboard_alone_and_an_answer_that_is_no_number_is_told_and_kept(fresh):
    page = fresh(lesson="weights", step="2")
    at_step(page, 2)
    page.locator(".lesson-ask input").focus()
    page.keyboard.type("quite a lot")
    page.keyboard.press("Enter")
    expect(page.locator(".lesson-said")).to_contain_text("This asks for one number, not “quite a lot”.")
    expect(page.locator(".lesson-ask input")).to_have_value("quite a lot")
    page.locator(".lesson-ask input").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("88")
    page.keyboard.press("Enter")
    right(page)
    page.get_by_role("button", name="Next", exact=True).focus()
    page.keyboard.press("Enter")
    at_step(page, 3)
    expect(panel(page).locator("h3")).to_be_focused()


def test_the_panel_and_the_cards_have_no_serious_finding_by_day_or_night(fresh, shots):
    page = fresh("learn", __theme="light")
    page.locator("[data-lesson=weights] button").first.click()
    at_step(page, 1)
    page.get_by_role("tab", name="Learn", exact=True).click()
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    for theme in ("light", "dark"):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        page.screenshot(path=shots / f"learn-{theme}.png")
        found = Axe().run(page, context="#lesson, #lessons").response["violations"]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_at_390_pixels_the_panel_leaves_room_and_folds_away(fresh, shots):
    page = fresh(lesson="budget", step="2")
    page.set_viewport_size({"width": 390, "height": 844})
    at_step(page, 2)
    box = panel(page).bounding_box()
    assert box["width"] == 390 and box["y"] > 400
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#equaliser").bounding_box()["width"] > 300  # the room has the whole width again
    page.screenshot(path=shots / "learn-phone.png")
    page.get_by_role("button", name="Hide").click()
    expect(panel(page).get_by_role("button", name="Next")).to_be_hidden()
    assert panel(page).bounding_box()["height"] < 90


def test_every_control_that_a_lesson_names_is_there(fresh):
    """`**Name**` in a lesson's words is the name of something on the page: in the panel, or in the step's room, which is in front."""
    page = fresh("learn")
    for file in sorted(lesson.FOLDER.glob("*.md")):
        taught = lesson.read(file)
        page.get_by_role("tab", name="Learn", exact=True).click()
        page.locator(f"[data-lesson={taught.name}] button").last.click()
        for number, step in enumerate(taught.steps, 1):
            at_step(page, number)
            for name in re.findall(r"\*\*([^*]+)\*\*", f"{step.words} {step.doing.hint}"):
                told = f"{taught.name}, {step.title}: {name}"
                beyond = len(
                    re.findall(rf"\\*\\*{re.escape(name)}\\*\\*", step.words)
                )  # the words themselves are on the page too
                expect(page.get_by_text(name, exact=True).locator("visible=true").nth(beyond), told).to_be_visible()
            page.get_by_role("button", name=re.compile("^(Next|Finish)$")).click()
