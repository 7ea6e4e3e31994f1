"""The Data room as a person meets it: the map is there, the slider moves it, a lasso shows rows, a proof is a run, files come out."""

import csv
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.conftest import PATIENCE_MS

pytestmark = pytest.mark.browser
CHOSEN = "#data-samples .samples"


def opened(visit, studio, **asked):
    """The Data room with its first map drawn."""
    page = visit(studio.address, "data", **asked)
    expect(page.locator("#data-samples .sample").first).to_be_visible()
    drawn(page, "#data-map", 1)
    return page


def rev(page, where):
    return int(page.locator(f"{where} [data-rev]").first.get_attribute("data-rev"))


def drawn(page, where, after):
    """Wait until that plot shows something newer than `after`, with points or bars in it."""
    newer = "([where, after]) => { const at = document.querySelector(where + ' [data-rev]');"
    newer += " return at && Number(at.dataset.rev) > after && at.data && at.data.length > 0; }"
    page.wait_for_function(newer, arg=[where, after])


def put(page, where, text):
    box = page.locator(f"{where} input").first
    box.click()
    box.fill(text)
    box.press("Enter")


def put_choice(page, where, name):
    page.locator(f"{where} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def share(page, percent):
    before = rev(page, "#data-map")
    box = page.locator("#data-keep input[type=number]")
    box.fill(str(percent))
    box.press("Tab")
    drawn(page, "#data-map", before)


def test_the_first_view_is_the_digits_on_their_map_and_the_slider_moves_it_the_sizes_and_the_command_without_a_run(
    studio, visit, shots
):
    page = opened(visit, studio)
    expect(page.locator("#data-about")).to_contain_text("1,797 images in 10 classes")
    expect(page.locator("#data-map-note")).to_contain_text("% of neighbours on this PCA map are real neighbours")
    expect(page.locator("#data-size-note")).to_contain_text("539 of 1,797 rows stay")
    assert page.evaluate("document.querySelector('#data-map [data-rev]')._fullData[0].x.length") == 1797
    expect(page.locator("#data-samples .sample img")).to_have_count(24)
    page.screenshot(path=shots / "data.png", full_page=True)
    share(page, 60)
    expect(page.locator("#data-size-note")).to_contain_text("1,078 of 1,797 rows stay")
    page.locator("#data-command").get_by_text("Show command").click()
    expect(page.locator("#data-command")).to_contain_text("keep: 0.6")


def drawn_round(page, across=60, down=60):
    """Draw a lasso about the middle of the map."""
    box = page.locator("#data-map .nsewdrag").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - across, y - down)
    page.mouse.down()
    for right, below in ((across, -down), (across, down), (-across, down), (-across, -down)):
        page.mouse.move(x + right, y + below, steps=4)
    page.mouse.up()


def in_front(page):
    """How many points stand in front, and how many of the first trace are chosen."""
    return page.evaluate("""() => { const traces = document.querySelector('#data-map [data-rev]')._fullData;
      const front = traces.find(one => one.name === 'chosen'), marked = traces[0].selectedpoints;
      return [front ? front.x.length : 0, marked ? marked.length : null]; }""")


def find(page, words):
    before, box = rev(page, "#data-map"), page.locator("#data-find input, #data-find textarea").first
    box.fill(words)
    box.press("Enter")
    drawn(page, "#data-map", before)


def test_a_lasso_a_colour_a_search_and_neighbours_speak_of_the_same_rows(studio, visit, shots):
    page = opened(visit, studio)
    page.set_viewport_size({"width": 1280, "height": 1400})
    before = rev(page, "#data-map")
    drawn_round(page)
    drawn(page, "#data-map", before)
    title = page.locator(f"{CHOSEN} h3")
    expect(title).to_contain_text("rows chosen:")
    count = int(title.inner_text().split()[0].replace(",", ""))
    assert in_front(page) == [count, count] and 10 < count < 1797
    expect(page.locator(CHOSEN)).to_contain_text("Mostly class")
    before = rev(page, "#data-map")
    page.locator("#data-colour").get_by_text("Error").click()
    drawn(page, "#data-map", before)
    expect(page.locator("#data-map-note")).to_contain_text("of the rows wrongly")
    assert in_front(page) == [count, count]  # another colour, the same rows
    page.locator("#data-room").get_by_text("Table: rows on the map").click()
    expect(page.locator("#data-room").get_by_role("gridcell").first).to_be_visible()
    find(page, "7")
    expect(title).to_contain_text("179 rows with \u201c7\u201d")
    expect(page.locator(CHOSEN)).to_contain_text("All of class 7.")
    assert in_front(page) == [179, 179]
    page.screenshot(path=shots / "data-found.png", full_page=True)
    before = rev(page, "#data-map")
    first = page.locator("#data-samples .sample").first
    first.focus()
    first.press("Enter")  # the keyboard's way
    drawn(page, "#data-map", before)
    expect(page.locator(CHOSEN)).to_contain_text("Nearest to it")
    expect(page.locator("#data-samples .sample")).to_have_count(12)
    assert in_front(page) == [12, 12]
    find(page, "nowhere")
    expect(title).to_have_text("No row with \u201cnowhere\u201d")
    drawn_round(page)
    expect(title).to_contain_text("rows chosen:")
    before = rev(page, "#data-map")
    page.locator("#data-clear").click()
    drawn(page, "#data-map", before)
    expect(title).to_have_text("Both ends of the order")
    assert in_front(page) == [0, None]


def test_rows_without_labels_are_not_offered_classes_or_errors(studio, visit):
    (studio.folder / "here" / "plain.csv").write_text("text\n" + "".join(f"what is number {at}\n" for at in range(40)))
    page = opened(visit, studio)
    put(page, "#data-source", "plain.csv")
    expect(page.locator("#data-about")).to_contain_text("without labels")
    expect(page.locator("#data-colour label")).to_have_text(["Cluster", "Score", "Stays"])
    find(page, "NUMBER 3")
    expect(page.locator(f"{CHOSEN} h3")).to_contain_text("11 rows with")  # 3, 30 .. 39
    put(page, "#data-source", "builtin:digits")
    expect(page.locator("#data-about")).to_contain_text("1,797 images")
    expect(page.locator("#data-colour label")).to_have_count(5)


def test_a_proof_and_a_selection_are_runs_and_the_files_hold_what_was_seen(studio, visit):
    page = opened(visit, studio)
    share(page, 20)
    page.locator("#data-learner input").first.click()
    page.get_by_role("option", name="MLP").click()
    page.locator("#data-shares textarea, #data-shares input").first.fill("60 %")
    page.locator("#data-seeds input[type=number]").fill("2")
    page.locator("#data-seeds input[type=number]").press("Tab")
    page.locator("#data-prove").click()
    expect(page.locator("#strip .strip")).to_contain_text("proof")
    expect(page.locator("#data-proof-note")).to_contain_text(
        "At 20 % kept, Prototypes (hard)", timeout=5 * PATIENCE_MS
    )  # 22 fits
    for where in ("#data-proof", "#data-proof-time", "#data-proof-law"):
        drawn(page, where, 0)
    expect(page.locator("#data-proof-time-note")).to_contain_text("all rows")
    expect(page.locator("#data-proof-law-note")).to_contain_text("rows")
    expect(page.locator("#data-csv")).to_be_visible()  # the proof's run made the selection too
    with page.expect_download() as coming:
        page.locator("#data-csv").click()
    with Path(coming.value.path()).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 1797 and sum(line["kept"] == "True" for line in lines) == 359
    page.reload()
    expect(page.locator("#data-proof-note")).to_contain_text("kept, Prototypes (hard)")


def test_bad_rows_are_named_and_skipped_only_when_told_and_text_of_a_file_is_drawn_as_text(studio, visit):
    folder = studio.folder / "here"
    rows = [f"what is number {at},a\nwho lives at {at},b\n" for at in range(30)]
    (folder / "bad.csv").write_text("text,label\none two\n" + "".join(rows) + ",a\n")
    page = opened(visit, studio)
    put(page, "#data-source", "bad.csv")
    problem = page.locator("#data-problem .plan")
    expect(problem).to_contain_text(
        "2 of bad.csv's 62 rows cannot be used: row 0 line 2 has 1 field, the header has 2; row 61 has no text"
    )
    expect(page.locator("#data-about")).to_contain_text("1,797 images")
    page.get_by_label("Skip bad rows").check()
    page.locator("#data-open").click()
    expect(page.locator("#data-about")).to_contain_text("60 texts in 2 classes")
    expect(page.locator("#data-about")).to_contain_text("2 bad rows were skipped")
    expect(problem).to_be_hidden()
    evil = "<img src=x onerror=document.title='owned'>"
    rows = "".join(f'"{evil} number {at}","<b>{at % 2}</b>"\n' for at in range(20))
    (folder / "evil.csv").write_text("text,label\n" + rows)
    put(page, "#data-source", "evil.csv")
    expect(page.locator("#data-samples .sample").first).to_contain_text(evil)
    assert page.locator("#data-room img[src='x'], #data-samples b b").count() == 0
    expect(page).to_have_title("Prunarium")
    put(page, "#data-source", "builtin:digits")
    expect(page.locator("#data-about")).to_contain_text("1,797 images")


def test_the_drawn_room_is_accessible_by_day_and_night_and_fits_a_phone(studio, visit, shots):
    page = opened(visit, studio)
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    for light in ("first", "second"):
        found = Axe().run(page).response["violations"]
        page.screenshot(path=shots / f"data-drawn-{light}.png", full_page=True)
        grave = [at for at in found if at["impact"] in ("serious", "critical")]
        assert [(at["id"], [node["html"][:200] for node in at["nodes"]][:3]) for at in grave] == []
        page.locator("#night").click()
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#data-map")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=shots / "data-phone.png", full_page=True)


def test_another_score_has_its_own_controls_and_moving_one_orders_the_rows_anew(studio, visit, shots):
    page = opened(visit, studio)
    before = rev(page, "#data-map")
    page.locator("#data-way input").click()
    page.get_by_role("option", name="EL2N (easy)", exact=True).click()
    drawn(page, "#data-map", before)
    before = rev(page, "#data-map")
    page.locator("#data-details").get_by_text("How rows are scored").click()
    expect(page.locator("#data-details")).to_contain_text("When it lies")
    expect(page.locator("#data-details").get_by_label("Keep first")).to_have_count(0)  # the way says it already
    box = page.locator("#data-details input[type=number]").first
    box.fill("2")
    box.press("Tab")
    drawn(page, "#data-map", before)
    page.locator("#data-command").get_by_text("Show command").click()
    expect(page.locator("#data-command")).to_contain_text("seeds: 2")
    expect(page.locator("#data-command")).to_contain_text("prefer: easy")
    page.screenshot(path=shots / "data-score.png", full_page=True)
    page.locator("#data-way input").click()
    page.get_by_role("option", name="Wording of a target (DSIR)", exact=True).click()
    expect(page.locator("#data-problem")).to_contain_text("dsir aims at a second data set, and target does not say which")


def test_bars_below_one_per_cent_leave_the_room_usable_and_another_order_keeps_them(studio, visit, shots):
    page = opened(visit, studio)
    put_choice(page, "#data-selector", "Cluster quotas by hand")
    bar = page.locator("#data-quotas .eq-number").first
    expect(bar).to_be_visible()
    bar.fill("5")
    bar.press("Enter")
    page.locator("#data-quotas .eq-global input").fill("0")
    keep = page.locator("#data-keep input[type=number]")
    expect(keep).to_have_value(re.compile(r"^0\.\d+$"))
    few = int(page.locator("#data-quotas .eq").get_attribute("data-kept"))
    note = page.locator("#data-size-note")
    expect(note).to_contain_text(f"{few} of 1,797 rows stay")
    before = rev(page, "#data-map")
    page.locator("#data-colour").get_by_text("Stays", exact=True).click()  # the slider's value goes with every event
    drawn(page, "#data-map", before)
    put_choice(page, "#data-way", "EL2N (easy)")
    expect(page.locator(CHOSEN)).to_contain_text("EL2N (easy)")
    expect(note).to_contain_text(f"{few} of 1,797 rows stay")
    page.locator("#data-command").get_by_text("Show command").click()
    expect(page.locator("#data-command")).to_contain_text("selector: cluster_quotas")
    expect(page.locator("#data-command")).to_contain_text("0: 0.05")
    bar.fill("90")
    bar.press("Enter")
    expect(note).not_to_contain_text(f"{few} of 1,797 rows")
    share(page, 1)
    expect(page.locator("#data-selector-note")).to_contain_text("The bars keep more than the slider allows")
    expect(note).to_contain_text("By the order alone")
    page.screenshot(path=shots / "data-bars.png", full_page=True)
    first = page.locator("#data-tree .tm-zoom").first
    first.focus()
    first.press("c")
    page.locator("#data-tree .tm-shots button").first.click()
    expect(page.locator(CHOSEN)).to_contain_text("Nearest to it")
    page.wait_for_function("document.querySelector('#data-map [data-rev]')._fullData.some(one => one.name === 'chosen')")
    assert in_front(page) == [12, 12]  # what lies beside the map stands out on it
