"""The studio: `python -m studio.app`. build() puts the rooms in order; serve() answers on this machine until Quit or Ctrl-C."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from studio.address import One, chosen_port, show  # light: a second start must not wait for gradio

if TYPE_CHECKING:
    import gradio as gr

    from studio.worker import Worker

ROOMS = (
    ("model", "Model"),
    ("xray", "X-ray"),
    ("budget", "Budget"),
    ("prune", "Prune & recover"),
    ("compare", "Compare"),
    ("formula", "Formula lab"),
    ("data", "Data"),
    ("geometry", "Geometry"),
    ("learn", "Learn"),
    ("runs", "Runs"),
)


@dataclass(frozen=True)
class Place:
    """Where one studio lives: its workspace folder, its runs, and the folders that its page may read."""

    workspace: Path
    runs: Path
    folders: tuple[Path, ...]


def build(place: Place, quit_now: threading.Event) -> tuple[gr.Blocks, Worker]:
    """The page: header, job strip, rooms."""
    from studio import quick  # noqa: F401 - first: it makes the next import quick

    import gradio as gr  # isort: skip

    from studio.bench import Bench
    from studio.parts import header, strip
    from studio.rooms.learn import panel as lesson_panel
    from studio.worker import Worker
    from studio.workspace import Workspace

    worker = Worker(place.workspace / "worker")
    with gr.Blocks(title="Prunarium", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        signals = {name: gr.State(None) for name in ("model", "data", "budget", "by_hand", "formula", "picked", "run", "ended")}
        alive, timer, seen = gr.State([]), gr.Timer(0.5, active=False), gr.State(0)
        top = header.component()
        bar = strip.component()
        panel, step = lesson_panel.component(), gr.State(None)
        with gr.Tabs(elem_id="rooms") as tabs:
            spots = {name: gr.Tab(label, id=name) for name, label in ROOMS}
        bench = Bench(Workspace(place.workspace), worker, place.runs, place.folders, page, tabs, **signals)
        for name, spot in spots.items():
            with spot:
                importlib.import_module(f"studio.rooms.{name}").build(bench)
        strip.wire(bench, bar, timer, alive)
        lesson_panel.wire(bench, panel, step, dict(ROOMS))
        header.wire(bench, top, spots, seen, quit_now)
    _unmarked(page)
    return page, worker


def _unmarked(page: gr.Blocks) -> None:
    """An event that shows no progress marks nobody as waiting. Gradio would still walk through the whole page for every component that any event so far has
    written to, each time that any event begins or ends: that was half of the processor time of a page's first seconds."""
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = []


def launch(page, port: int, host: str, token: str | None) -> str:  # noqa: ANN001 - gr.Blocks, imported late
    """Serve the page. Returns its address, with the token where there is one."""
    import gradio as gr
    from starlette.middleware import Middleware

    from studio import theme
    from studio.guard import OWN_HOSTS, Guard
    from studio.parts import plotview

    gr.set_static_paths([plotview.SCRIPT])
    hosts = frozenset() if host in ("0.0.0.0", "::") else OWN_HOSTS | {host.lower()}
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        theme=theme.theme(),
        css_paths=[theme.CSS],
        head=plotview.HEAD,
        favicon_path=theme.LOGO,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        max_file_size="2gb",
        app_kwargs={"middleware": [Middleware(Guard, hosts=hosts, token=token)], "docs_url": None, "redoc_url": None},
    )
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def serve(options: argparse.Namespace) -> int:
    """Exit codes: 0 after Quit; 1 where the studio could not start, said in a sentence."""
    place = _place(options)
    one = One(place.workspace)
    if not one.hold():
        print(f"Prunarium is already running for this workspace: {one.address()}", flush=True)
        show(one.address(), browser=not options.no_browser, window=options.window)
        return 0
    port = chosen_port(options.host, options.port)
    private = place.workspace / "page"
    private.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(private / "files")
    (private / "empty").mkdir(exist_ok=True)
    os.chdir(private / "empty")  # Gradio would serve files of the folder it stands in
    if os.environ.get("PRUNARIUM_METHODS"):
        _own_methods(place.workspace / "catalogue.json")
    quit_now = threading.Event()
    page, worker = build(place, quit_now)
    address = launch(page, port, options.host, options.token)
    one.announce(address)
    print(f"Prunarium is at {address}   (Quit in the page or Ctrl-C here ends it)", flush=True)
    show(address, browser=not options.no_browser, window=options.window)
    try:
        _wait(quit_now)
    finally:
        _close(page, worker, one)
    return 0


def _own_methods(file: Path) -> None:
    """With methods of the person's own, the cards come from the methods themselves. Another process imports them: the screen never does."""
    root = Path(__file__).resolve().parent.parent
    around = {**os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    said = subprocess.run([sys.executable, "-m", "core.catalogue", "--json"], env=around, capture_output=True, text=True)
    if said.returncode:
        raise OSError(f"your methods could not be read: {(said.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    file.write_text(f'{{"methods": {said.stdout}}}', encoding="utf-8")
    os.environ["PRUNARIUM_CATALOGUE"] = str(file)


def _place(options: argparse.Namespace) -> Place:
    workspace = Path(os.environ.get("PRUNARIUM_WORKSPACE") or ".prunarium").resolve()
    runs, here = options.runs.resolve(), Path.cwd()
    for folder in (workspace, runs):
        folder.mkdir(parents=True, exist_ok=True)
    cache = Path(os.environ.get("PRUNARIUM_CACHE") or Path.home() / ".cache" / "prunarium")
    opened = [Path(folder).expanduser().resolve() for folder in options.open or ()]
    return Place(workspace, runs, tuple(dict.fromkeys([here, runs, cache, *opened])))


def _wait(quit_now: threading.Event) -> None:
    from core.watch import endings

    def ended(signum: int, frame: FrameType | None) -> None:
        quit_now.set()

    for number in endings()[1:]:  # a terminal that closes ends the studio as Quit does; its runs go on
        signal.signal(number, ended)
    while not quit_now.wait(1.0):
        continue


def _close(page, worker, one: One) -> None:  # noqa: ANN001
    """End everything of ours but the runs, which live on their own."""
    from studio import jobs

    if dump := os.environ.get("PRUNARIUM_DUMP_MODULES"):
        Path(dump).write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
    jobs.SPARE.close()
    _end(worker)
    page.close(verbose=False)
    one.release()


def _end(worker) -> None:  # noqa: ANN001
    """End the worker at once, in the middle of an answer too: nobody is left to read it."""
    while worker.busy and worker.pid:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGTERM)
        time.sleep(0.05)
    worker.close()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="studio", description="The Prunarium studio.", allow_abbrev=False)
    parser.add_argument("--port", type=int, help="default: 7860 or the next free one; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="another address than this machine's own needs --token")
    parser.add_argument("--token", help="ask this word of every visitor")
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--window", action="store_true", help="an app window instead of a tab")
    parser.add_argument("--open", action="append", metavar="DIR", help="a folder that the page may read from (repeatable)")
    parser.add_argument("--methods", metavar="DIR", help="a folder of your own methods")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args(arguments)
    if options.methods:
        os.environ["PRUNARIUM_METHODS"] = str(Path(options.methods).resolve())
    wrong = _wrong(options)
    if wrong:
        print(wrong, file=sys.stderr)
        return 1
    try:
        return serve(options)
    except OSError as error:
        print(f"The studio could not start: {error}.", file=sys.stderr)
        return 1


def _wrong(options: argparse.Namespace) -> str:
    """What cannot be done as asked, in a sentence; nothing where all is well."""
    if options.host not in ("127.0.0.1", "localhost", "::1") and not options.token:
        return f"Answering on {options.host} lets others in. Give a word that they must know: --token WORD."
    if options.token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{4,128}", options.token):
        return "The token is part of an address and of a cookie: use 4 to 128 letters, digits, and . _ ~ -"
    for folder in options.open or ():
        if not Path(folder).expanduser().is_dir():
            return f"There is no folder {folder}. Give --open a folder."
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
