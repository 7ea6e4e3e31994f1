"""`python -m tests.screens`: start a studio of its own, do what a person would do in each room, and take the pictures in docs/screens anew.

Every room by day and by night, those that a phone is likely to open also 390 px wide; names on the command line take those alone
(`budget prune` before the rooms that look at the runs: compare, geometry, runs).
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from studio.app import ROOMS
from tests.conftest import BROWSERS
from tests.studio_process import running

SCREENS = Path(__file__).resolve().parent.parent / "docs" / "screens"
LIMIT_MS, RUN_MS = 240_000, 900_000  # limits on a busy machine, never pauses
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
LARGEST_BYTES = 300_000
_COLOURS = (256, 128, 64, 32)  # of a picture's palette: the first whose file is small enough
_BARS = ("20", "35", "55", "60", "65", "50")  # the drawn budget, % a block
_STILL = "* { transition: none !important; animation: none !important; caret-color: transparent !important; }"
_SETTLED = """light => [...document.querySelectorAll('.plotview[data-light]')].every(at => !at.offsetWidth
  || (at.dataset.light === light && at.offsetWidth <= innerWidth && Math.abs(at.querySelector('.svg-container').offsetWidth - at.offsetWidth) < 2))"""


def main(*names: str) -> int:
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        print("No Chromium was found. Install it: sudo apt install chromium", file=sys.stderr)
        return 1
    SCREENS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=LIMIT_MS)
    with (
        tempfile.TemporaryDirectory(prefix="prunarium-screens-", ignore_cleanup_errors=True) as room,
        running(Path(room)) as studio,
        sync_playwright() as play,
    ):
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = chromium.new_page(viewport=DESK, device_scale_factor=1.25)
        page.set_default_timeout(LIMIT_MS)
        page.goto(f"{studio.address}?__theme=light")
        page.wait_for_function("window.prunariumReady")
        page.add_style_tag(content=_STILL)
        for name, work in WALK.items():
            if not names or name in names:
                work(page)
                _shoot(page, name)
        chromium.close()
    pictures = list(SCREENS.glob("*.png"))
    print(f"{len(pictures)} pictures in {SCREENS}, {sum(file.stat().st_size for file in pictures) / 1e6:.1f} MB")
    return 0


def _model(page: Page) -> None:
    expect(page.locator("#brand .open b").first).to_be_visible()
    expect(page.get_by_text("parameters can be pruned")).to_be_visible()


def _xray(page: Page) -> None:
    _go(page, "xray")
    _drawn(page, 5)


def _budget(page: Page) -> None:
    _go(page, "budget")
    bars = page.locator("#equaliser [role=slider]")
    expect(bars).to_have_count(len(_BARS))
    for number, share in enumerate(_BARS):
        bars.nth(number).focus()
        page.keyboard.type(share)
        page.keyboard.press("Enter")
    _drawn(page, 1)


def _prune(page: Page) -> None:
    """Two runs: equal shares, and the budget by hand with a little training."""
    _go(page, "prune")
    page.get_by_role("button", name="Calibration").click()
    _put(page, "#samples input", "16")
    _put(page, "#tokens input", "256")
    page.get_by_role("button", name="Calibration").click()
    _run(page, "Uniform", 50)
    page.get_by_label("LoRA through the mask").check()
    _put(page, "#recovery-steps input[type=number]", "30")
    _run(page, "The budget by hand", None)
    expect(page.locator("#prune-figures article")).to_have_count(3)
    expect(page.locator("#prune-layers .plotview[data-rev]")).to_be_visible()


def _compare(page: Page) -> None:
    _go(page, "compare")
    expect(page.locator("#compare-view .plotview[data-rev]:not(.empty)")).to_be_visible()


def _formula(page: Page) -> None:
    _go(page, "formula")
    page.locator("#formula-known input").click()
    page.get_by_role("option").filter(has_text="Pruner-Zero").click()
    page.locator("#formula-see").click()
    _drawn(page, 2)


def _data(page: Page) -> None:
    _go(page, "data")
    expect(page.locator("#data-samples .sample").first).to_be_visible()
    _drawn(page, 2)


def _geometry(page: Page) -> None:
    """What the first run does to the rows of a question set."""
    _go(page, "geometry")
    page.locator("#geometry-data input").first.click()
    page.get_by_role("option", name="builtin:trec/train").first.click()
    page.locator("#geometry-against input").first.click()
    page.get_by_role("option").filter(has_text="Run ").last.click()
    page.get_by_text("How it is read").click()
    _put(page, "#geometry-rows input[type=number]", "400")
    page.get_by_text("How it is read").click()
    _followed(page, lambda: page.locator("#geometry-go").click())
    expect(page.locator("#geometry-drift .plotview[data-rev]:not(.empty)")).to_be_visible()


def _learn(page: Page) -> None:
    _go(page, "learn")
    expect(page.locator("#lessons article")).to_have_count(3)


def _lesson(page: Page) -> None:
    """A step of a lesson beside the room that it is done in."""
    _go(page, "learn")
    page.get_by_role("button", name="Begin: What is a weight worth?").click()
    expect(page.locator("#lesson .lesson")).to_have_attribute("data-step", "1")
    page.locator(".lesson").get_by_role("button", name="Set the bars for me").click()
    expect(page.locator(".lesson-told")).to_contain_text("The bars are set")
    page.locator("#xray-layer input").first.click()
    page.get_by_role("option", name="blocks.2.mlp.up_proj").first.click()
    page.locator(".lesson-ask input").fill("0.085")
    page.locator(".lesson-ask").get_by_role("button", name="Check").click()
    expect(page.locator("#lesson .lesson")).to_have_attribute("data-state", "right")
    expect(page.locator(f"{ONE_SCREEN['lesson']} .plotview[data-rev]:not(.empty)")).to_be_visible()


def _runs(page: Page) -> None:
    if page.locator(".lesson").is_visible():
        page.get_by_role("button", name="Leave the lesson").click()
    _go(page, "runs")
    page.locator("#runs-table").get_by_text("lora").last.click()
    expect(page.locator("#run-title")).to_contain_text("done")


WALK: dict[str, Callable[[Page], None]] = {
    "model": _model,
    "xray": _xray,
    "budget": _budget,
    "prune": _prune,
    "compare": _compare,
    "formula": _formula,
    "data": _data,
    "geometry": _geometry,
    "learn": _learn,
    "lesson": _lesson,
    "runs": _runs,
}
ON_A_PHONE = ("model", "xray", "budget", "prune", "data", "lesson")
ONE_SCREEN = {
    "lesson": "#xray-weights"
}  # the panel stands still while the room scrolls: what is in the middle of the only screenful


def _drawn(page: Page, count: int) -> None:
    expect(page.locator(".plotview[data-rev]:not(.empty):visible")).to_have_count(count)


def _run(page: Page, spread: str, percent: int | None) -> None:
    """Prune, and wait for the end."""
    page.get_by_label(spread, exact=True).check()
    said = f"Remove {percent} %" if percent is not None else "what your budget says"
    expect(page.locator("#plan .plan")).to_contain_text(said)
    _followed(page, lambda: page.locator("#prune-go").click())


def _followed(page: Page, start: Callable[[], None]) -> None:
    """Start a run, and follow it in the strip to its end."""
    strip: Locator = page.locator("#strip .strip")
    before = strip.get_attribute("data-run") or ""
    start()
    expect(strip).not_to_have_attribute("data-run", before)
    expect(strip).to_have_attribute("data-state", "done", timeout=RUN_MS)


def _put(page: Page, where: str, text: str) -> None:
    page.locator(where).fill(text)
    page.locator(where).press("Tab")


def _go(page: Page, room: str) -> None:
    page.get_by_role("tab", name=dict(ROOMS)[room], exact=True).click()


def _shoot(page: Page, name: str) -> None:
    """The page as it stands: by day, by night, and on a phone."""
    _take(page, name, "light", name)
    _take(page, name, "dark", f"{name}-dark")
    if name in ON_A_PHONE:
        page.set_viewport_size(PHONE)
        _take(page, name, "light", f"{name}-phone")
        page.set_viewport_size(DESK)
    _light(page, "light")


def _light(page: Page, light: str) -> None:
    page.mouse.move(0, 0)
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", light == "dark")
    page.wait_for_function(_SETTLED, arg=light)


def _take(page: Page, room: str, light: str, name: str) -> None:
    _light(page, light)
    page.evaluate("document.activeElement?.blur()")
    if room in ONE_SCREEN:
        page.locator(ONE_SCREEN[room]).evaluate("at => at.scrollIntoView({block: innerWidth < 640 ? 'start' : 'center'})")
    image = Image.open(io.BytesIO(page.screenshot(full_page=room not in ONE_SCREEN))).convert("RGB")
    for colours in _COLOURS:
        small = io.BytesIO()
        image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        if small.tell() <= LARGEST_BYTES:
            break
    (SCREENS / f"{name}.png").write_bytes(small.getvalue())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
