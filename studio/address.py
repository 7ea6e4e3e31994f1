"""Where the studio answers: one instance for each workspace, its port, and how it is shown. Standard library and a lock, so that it is quick."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

FIRST_PORT, TRIED_PORTS = 7860, 100
_WINDOWS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge", "chrome")


class One:
    """The sign that a studio lives for this workspace: a lock that ends with the process, and beside it the address."""

    def __init__(self, workspace: Path):
        self._lock, self._file = FileLock(workspace / "studio.lock", timeout=0), workspace / "address"

    def hold(self) -> bool:
        """Become the one. False where another lives."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        self._file.unlink(missing_ok=True)
        return True

    def announce(self, address: str) -> None:
        self._file.touch(mode=0o600)
        self._file.write_text(address, encoding="utf-8")

    def address(self) -> str:
        """The living one's address; a sentence where it is only just starting."""
        with suppress(OSError):
            return self._file.read_text(encoding="utf-8")
        return "(it is starting and has no address yet)"

    def release(self) -> None:
        self._file.unlink(missing_ok=True)
        self._lock.release()


def chosen_port(host: str, wanted: int | None) -> int:
    """The wanted port; without a wish 7860 or the next free one; for 0 any free one. Raises OSError where it is taken."""
    if wanted == 0:
        return _free(host, 0)
    if wanted is not None:
        try:
            return _free(host, wanted)
        except OSError:
            raise OSError(f"port {wanted} is taken or not allowed; choose another with --port") from None
    for port in range(FIRST_PORT, FIRST_PORT + TRIED_PORTS):
        with suppress(OSError):
            return _free(host, port)
    raise OSError(f"none of the ports {FIRST_PORT} to {FIRST_PORT + TRIED_PORTS - 1} is free; choose one with --port")


def _free(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return probe.getsockname()[1]


def show(address: str, *, browser: bool, window: bool) -> None:
    """Open the page in a tab, or in a window of its own where a browser that can do that is found."""
    if not address.startswith("http") or not (browser or window):
        return
    found = next((path for path in map(shutil.which, _WINDOWS) if path), None) if window else None
    if found:
        subprocess.Popen(
            [found, f"--app={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    elif browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
