"""`python -m studio.check`: start the studio, load its demo over HTTP as the page would, say one line, end it. Exit code 0 or 1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHECKOUT = Path(__file__).resolve().parent.parent
LIMIT_S = 90.0


class Broken(Exception):
    """What did not work, in a sentence."""


def check() -> str:
    """The line that says how it went. Raises Broken."""
    with tempfile.TemporaryDirectory(prefix="prunarium-check-") as room:
        start_s = time.monotonic()
        process = _start(Path(room))
        try:
            address = _address(process, start_s)
            config = _page(address)
            answered_s = time.monotonic() - start_s
            figures = _demo(address, config)
            drawn_s = time.monotonic() - start_s
        finally:
            _end(process)
    port = urlsplit(address).port
    return (
        f"ok: the studio answered in {answered_s:.1f} s, its demo was drawn in {drawn_s:.1f} s ({figures} figures), port {port}"
    )


def _start(room: Path) -> subprocess.Popen[str]:
    around = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", "PRUNARIUM_WORKSPACE": str(room / "workspace")}
    command = [sys.executable, "-m", "studio.app", "--port", "0", "--no-browser", "--runs", str(room / "runs")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=around, cwd=room)


def _address(process: subprocess.Popen[str], start_s: float) -> str:
    said = []
    for line in process.stdout:  # ends when the process does
        said.append(line.strip())
        if "http://" in line:
            return next(word for word in line.split() if word.startswith("http://"))
        if time.monotonic() - start_s > LIMIT_S:
            break
    raise Broken(f"The studio gave no address. It said: {' / '.join(said[-3:]) or 'nothing'}")


def _get(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    if body is not None:
        request.data = json.dumps(body).encode()
    try:
        return urllib.request.urlopen(request, timeout=LIMIT_S)
    except urllib.error.URLError as error:
        raise Broken(f"{url} did not answer: {error}.") from None


def _page(address: str) -> dict[str, Any]:
    page = _get(address).read().decode()
    if "gradio" not in page:
        raise Broken("The address answered with something that is not the page.")
    return json.loads(_get(address + "config").read())


def _demo(address: str, config: dict[str, Any]) -> int:
    """Fire the page's load events, then the change events of the signals they set, as the page does. Returns how many figures were drawn."""
    api, session = address + "gradio_api", uuid.uuid4().hex[:12]
    figures, waiting, seen = 0, [at for at in config["dependencies"] if _on(at, "load", None)], set()
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    if not waiting:
        raise Broken("The page has nothing to load.")
    while waiting:
        at = waiting.pop(0)
        if at["id"] in seen or not at["backend_fn"]:
            continue
        seen.add(at["id"])
        body = {
            "data": [values.get(part) for part in at["inputs"]],
            "fn_index": at["id"],
            "session_hash": session,
            "trigger_id": None,
            "event_data": None,
        }
        _get(f"{api}/queue/join", body).close()
        output = _answer(f"{api}/queue/data?session_hash={session}", at)
        figures += sum(_is_figure(value) for value in output.get("data") or [])
        changed = output.get("changed_state_ids") or []
        waiting += [other for other in config["dependencies"] if any(_on(other, "change", state) for state in changed)]
    if not figures:
        raise Broken("The page loaded, but drew no figure of the demo.")
    return figures


def _on(at: dict[str, Any], event: str, target: int | None) -> bool:
    return any(name == event and (target is None or own == target) for own, name in at["targets"])


def _answer(url: str, at: dict[str, Any]) -> dict[str, Any]:
    with _get(url) as stream:
        for line in stream:
            if not line.startswith(b"data:"):
                continue
            told = json.loads(line[5:])
            if told.get("msg") == "process_completed":
                if not told.get("success"):
                    raise Broken(f"An event of the page failed: {(told.get('output') or {}).get('error') or at['api_name']}.")
                return told["output"]
    raise Broken("The page's events did not end.")


def _is_figure(value: Any) -> bool:
    """Is this the value of a PlotlyView with something in it?"""
    shown = value.get("value", value) if isinstance(value, dict) else None
    return isinstance(shown, dict) and bool(shown.get("fig"))


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def main() -> int:
    try:
        print(check())
    except Broken as broken:
        print(f"not ok: {broken}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
