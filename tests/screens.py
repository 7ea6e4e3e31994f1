"""`python -m tests.screens`: start a studio of its own, do what a person would do in each room, and take the pictures in docs/screens anew."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

from studio.app import ROOMS
from tests.conftest import BROWSERS
from tests.studio_process import running

SCREENS = Path(__file__).resolve().parent.parent / "docs" / "screens"
LIMIT_MS = 240_000
_BARS = ("20", "35", "55", "60", "65", "50")  # the drawn budget, % a block


def main() -> int:
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        print("No Chromium was found. Install it: sudo apt install chromium", file=sys.stderr)
        return 1
    SCREENS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=LIMIT_MS)
    with (
        tempfile.TemporaryDirectory(prefix="prunarium-screens-") as room,
        running(Path(room)) as studio,
        sync_playwright() as play,
    ):
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = chromium.new_page(viewport={"width": 1280, "height": 860}, device_scale_factor=1.5)
        page.set_default_timeout(LIMIT_MS)
        page.goto(f"{studio.address}?__theme=light")
        _walk(page)
        page.goto(f"{studio.address}?__theme=dark")
        _first(page, "model-dark")
        page.goto(f"{studio.address}?__theme=light")
        page.set_viewport_size({"width": 390, "height": 844})
        _first(page, "model-phone")
        chromium.close()
    print(f"{len(list(SCREENS.glob('*.png')))} pictures in {SCREENS}")
    return 0


def _walk(page: Page) -> None:
    """Through the rooms in order, as a first visit goes."""
    _first(page, "model")
    _go(page, "xray")
    expect(page.locator(".plotview[data-rev]:not(.empty):visible")).to_have_count(5)
    _shoot(page, "xray")
    _go(page, "budget")
    _draw_budget(page)
    expect(page.locator(".plotview[data-rev]:not(.empty):visible")).to_have_count(1)
    _shoot(page, "budget")
    _go(page, "prune")
    _run(page, "Uniform", 50)
    page.get_by_label("LoRA through the mask").check()
    _run(page, "The budget by hand", None)
    expect(page.locator("#prune-figures article")).to_have_count(3)
    expect(page.locator("#prune-layers .plotview[data-rev]")).to_be_visible()
    _shoot(page, "prune")
    _go(page, "compare")
    expect(page.locator("#compare-view .plotview[data-rev]:not(.empty)")).to_be_visible()
    _shoot(page, "compare")
    _go(page, "formula")
    page.locator("#formula-known input").click()
    page.get_by_role("option").filter(has_text="Pruner-Zero").click()
    page.locator("#formula-see").click()
    expect(page.locator(".plotview[data-rev]:not(.empty):visible")).to_have_count(2)
    _shoot(page, "formula")
    _go(page, "data")
    expect(page.locator(".plotview[data-rev]:not(.empty):visible")).to_have_count(2)
    _shoot(page, "data")
    _go(page, "learn")
    expect(page.locator("#lessons article")).to_have_count(3)
    _shoot(page, "learn")
    _go(page, "runs")
    page.locator("#runs-table").get_by_text("lora").last.click()
    expect(page.locator("#run-title")).to_contain_text("done")
    _shoot(page, "runs")


def _first(page: Page, name: str) -> None:
    expect(page.locator("#brand .open b").first).to_be_visible()
    expect(page.get_by_text("parameters can be pruned")).to_be_visible()
    _shoot(page, name)


def _draw_budget(page: Page) -> None:
    bars = page.locator("#equaliser [role=slider]")
    expect(bars).to_have_count(len(_BARS))
    for number, share in enumerate(_BARS):
        bars.nth(number).focus()
        page.keyboard.type(share)
        page.keyboard.press("Enter")


def _run(page: Page, spread: str, percent: int | None) -> None:
    """Prune, and wait for the end."""
    strip: Locator = page.locator("#strip .strip")
    before = strip.get_attribute("data-run") or ""
    page.get_by_label(spread, exact=True).check()
    if percent is not None:
        expect(page.locator("#plan .plan")).to_contain_text(f"Remove {percent} %")
    else:
        expect(page.locator("#plan .plan")).to_contain_text("what your budget says")
    page.locator("#prune-go").click()
    expect(strip).not_to_have_attribute("data-run", before)
    expect(strip).to_have_attribute("data-state", "done")


def _go(page: Page, room: str) -> None:
    page.get_by_role("tab", name=dict(ROOMS)[room], exact=True).click()


def _shoot(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.add_style_tag(
        content="* { transition: none !important; animation: none !important; caret-color: transparent !important; }"
    )
    page.screenshot(path=SCREENS / f"{name}.png", full_page=True)


if __name__ == "__main__":
    sys.exit(main())
