"""What every test stands on: quiet threads, no model hub, this checkout, and a real Chromium."""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # before anything imports torch
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("prunarium", deadline=None)  # kernels compile at their first call, and these machines are shared
settings.load_profile("prunarium")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The folder the program runs from."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium. None found: the test is skipped with the remedy; with CI set it fails."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        said = "No Chromium was found, so no page is tested here. Install it: sudo apt install chromium"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    return found


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any], chromium: str) -> dict[str, Any]:
    """pytest-playwright drives the system's Chromium, in a container too, and lets it send nothing home."""
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"]
    return {**browser_type_launch_args, "executable_path": chromium, "args": flags}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly that the page was not tested: a skipped browser test must not look like a passed one."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "No Chromium" in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} BROWSER TESTS SKIPPED: no Chromium here (sudo apt install chromium)", yellow=True, bold=True
        )
