"""How soon the first picture is there after the command, and how fast the estimate follows a dragged bar."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.bench import Figure
from tests.conftest import BROWSERS
from tests.studio_process import running

STARTS, MOVES = 3, 40
ABOUT = (
    f"From the command to the drawn demo in a browser that is already open, median of {STARTS} starts. Then {MOVES} moves of one bar: from the key "
    "press to the changed figure in the page (the component's own arithmetic), and the server's confirmation computed by core.budget."
)
_MOVE = """async (selector) => {
  const bar = document.querySelector(selector), read = () => document.querySelector('#equaliser').innerText;
  const before = read(), start = performance.now();
  bar.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp', bubbles: true}));
  while (read() === before) { if (performance.now() - start > 5000) return -1; await new Promise(r => setTimeout(r, 0)); }
  return performance.now() - start;
}"""


def first_paint_s(page: Page, room: Path) -> float:
    """Seconds from starting the process to the demo's drawing in the page."""
    start = time.monotonic()
    with running(room) as studio:
        page.goto(studio.address)
        page.wait_for_selector("#anatomy svg, #anatomy [data-rev]", state="visible", timeout=60_000)
        return time.monotonic() - start


def server_ms() -> float:
    """Median milliseconds of core.budget.estimate on the demo's curves."""
    from core.budget import estimate
    from studio import known

    seen = known.observations("builtin:tiny-llama", Path("runs-of-nobody"), curves=True)
    parts = known.parts(known.description("builtin:tiny-llama", Path("nowhere")), seen)
    curves, sizes = known.cost_curves(seen.data, parts), parts.sizes
    times = []
    for share in range(MOVES):
        start = time.perf_counter()
        estimate(curves, sizes, dict.fromkeys(sizes, share / 100))
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def measure() -> list[Figure]:
    browser = next(path for path in map(shutil.which, BROWSERS) if path)
    with tempfile.TemporaryDirectory() as room, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = chromium.new_page()
        paints = [first_paint_s(page, Path(room) / str(number)) for number in range(STARTS)]
        with running(Path(room) / "moves") as studio:
            page.goto(f"{studio.address}?room=budget")
            page.wait_for_selector("#equaliser [role=slider]", state="visible", timeout=60_000)
            moves = [page.evaluate(_MOVE, "#equaliser [role=slider]") for _ in range(MOVES)]
        chromium.close()
    paint, move = statistics.median(paints), statistics.median(moves)
    return [
        Figure(
            "first paint after the command", f"{paint:.1f} s (of {', '.join(f'{p:.1f}' for p in paints)})", "<= 5 s", paint <= 5
        ),
        Figure(
            "estimate after a key on a bar, in the page", f"{move:.1f} ms (worst {max(moves):.0f})", "<= 50 ms", 0 <= move <= 50
        ),
        Figure("the same sum on the server", f"{server_ms():.3f} ms"),
    ]
