"""The studio in a real Chromium. Every test fails on a console error, and on any request that leaves this machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from core import folder as runs
from studio import jobs
from studio.rooms.prune.kept import PLANS
from tests.studio_process import Studio, running

PATIENCE_MS = 60_000  # two busy cores: a limit, never a pause
_LEAVING = ("AbortError: signal is aborted", "Connection errored out")
_SILENT = ("data", "blob", "about")
OWN = ("address", "studio.lock", "page", "worker")  # what a studio at work holds of its workspace


@pytest.fixture(scope="session")
def household(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Studio]:
    """One studio for all files of browser tests of this process: each costs its imports, a warm spare and a worker, ten seconds of a processor."""
    expect.set_options(timeout=PATIENCE_MS)
    folder = tmp_path_factory.mktemp("studio")
    (folder / "opened").mkdir()
    with running(folder, "--open", str(folder / "opened")) as at:
        yield at


@pytest.fixture(scope="module")
def studio(household: Studio) -> Studio:
    """The studio as if just started in an empty folder: what one file has opened or run is not another's first page."""
    for at in jobs.running(household.runs):
        runs.ask_stop(at.path)
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while jobs.running(household.runs) and time.monotonic() < deadline:
        time.sleep(0.05)
    for place in (household.runs, household.opened, *(at for at in household.workspace.iterdir() if at.name not in OWN)):
        _emptied(place)
    return household


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


def _emptied(place: Path) -> None:
    """No such file; of a folder nothing but the folder."""
    if not place.is_dir():
        return place.unlink(missing_ok=True)
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in _SILENT or parts.hostname in ("127.0.0.1", "localhost")


@pytest.fixture
def shots() -> Path:
    """Where tests leave pictures to look at; not committed."""
    folder = Path(__file__).resolve().parent.parent / "shots"
    folder.mkdir(exist_ok=True)
    return folder
