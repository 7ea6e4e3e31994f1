"""The studio in a real Chromium. Every test fails on a console error, and on any request that leaves this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from studio.rooms.prune.kept import PLANS
from tests.studio_process import Studio, running

PATIENCE_MS = 60_000  # two busy cores: a limit, never a pause
_LEAVING = ("AbortError: signal is aborted", "Connection errored out")
_SILENT = ("data", "blob", "about")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Studio]:
    """One studio for each file of browser tests: what one file has opened or run is not another's first page."""
    expect.set_options(timeout=PATIENCE_MS)
    with running(tmp_path_factory.mktemp("studio")) as at:
        yield at


@pytest.fixture(autouse=True)
def no_plan_before(request: pytest.FixtureRequest) -> None:
    """What one test has chosen in the room for pruning is not another's first plan."""
    if "studio" in request.fixturenames:
        shutil.rmtree(request.getfixturevalue("studio").workspace / PLANS, ignore_errors=True)


@pytest.fixture
def told() -> list[str]:
    """Console errors and foreign requests of this test's pages. A test that provokes one on purpose clears it."""
    return []


@pytest.fixture
def visit(context: BrowserContext, told: list[str]) -> Iterator[Callable[..., Page]]:
    """visit(address, room="prune") -> a page with that room in front, its first events done."""
    context.set_default_timeout(PATIENCE_MS)

    def opened(address: str, room: str = "", **asked: str) -> Page:
        page = context.new_page()
        watch(page, told)
        query = "&".join(f"{name}={value}" for name, value in {**({"room": room} if room else {}), **asked}.items())
        page.goto(f"{address}?{query}" if query else address)
        ready(page)
        return page

    yield opened
    assert told == []


def watch(page: Page, told: list[str]) -> None:
    """Write down what must not happen."""
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: None if _local(request.url) else told.append(f"left this machine: {request.url}"))


def reload(page: Page, told: list[str]) -> None:
    """Load the page anew. What Gradio says about its own streams, cut by leaving the page, is no fault of ours."""
    before = len(told)
    page.reload()
    ready(page)
    told[before:] = [said for said in told[before:] if not any(words in said for words in _LEAVING)]


def ready(page: Page) -> None:
    """The page has read the workspace."""
    expect(page.locator("#brand .open b").first).to_be_visible()


def turn(page: Page, light: str) -> None:
    """Make the page light or dark, and wait until its pictures are drawn so."""
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", light == "dark")
    page.wait_for_function(
        "light => [...document.querySelectorAll('.plotview[data-light]')].every(at => !at.offsetWidth || at.dataset.light === light)",
        arg=light,
    )


def _local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in _SILENT or parts.hostname in ("127.0.0.1", "localhost")


@pytest.fixture
def shots() -> Path:
    """Where tests leave pictures to look at; not committed."""
    folder = Path(__file__).resolve().parent.parent / "shots"
    folder.mkdir(exist_ok=True)
    return folder
