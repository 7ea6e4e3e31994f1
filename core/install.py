"""The environment (`.venv`) that the program runs in: made from exact pins, checked, repaired. Standard library only: launch.py uses it.

A stamp that names the pins and the Python is written last, so a set-up that was cut off is taken up again by the next start.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
VENV = HERE / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LOG = VENV / "prunarium-setup.log"
LOCK = HERE / ".prunarium" / "setup.lock"
PINS, EXTRAS = "requirements.txt", "requirements-test.txt"
STAMPS = {PINS: VENV / "prunarium-ready", EXTRAS: VENV / "prunarium-ready-tests"}
DRIVER = Path("/proc/driver/nvidia/version")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIZE_GB, CUDA_GB, FREE_GB = 2.1, 3, 4  # on disk; what CUDA adds; what a first set-up must find free
AGAIN = "run it again; what is done already is kept"
FAILURES = (  # what pip or the system writes -> what is wrong and what to do; the first that fits is said
    (r"No space left|Errno 28|Disk quota", f"The disk is full: free about {FREE_GB} GB and {AGAIN}."),
    (
        r"Read-only file system|Permission denied|Errno 13|Errno 30",
        f"{HERE} may not be written: copy it to a folder of your own.",
    ),
    (r"CERTIFICATE_VERIFY|SSLError", "The package registry's certificate is not trusted here: check the clock, or set PIP_CERT."),
    (
        r"Retrying \(Retry|ConnectionError|Failed to establish|name resolution|timed out|ProxyError|Max retries",
        f"The package registry cannot be reached: check the network or the proxy, and {AGAIN}.",
    ),
    (
        r"No matching distribution|requires a different Python",
        f"A package is not to be had for Python {sys.version_info[0]}.{sys.version_info[1]} on this machine: "
        "use Python 3.11, 3.12 or 3.13 on 64-bit Linux, Windows or an Apple-silicon Mac.",
    ),
)


class Refused(Exception):
    """Set-up cannot go on; the message is one plain sentence with the remedy."""


def say(text: str) -> None:
    """To standard error: standard output belongs to the command."""
    print(text, file=sys.stderr, flush=True)


def explain(text: str) -> str:
    """One sentence for what pip, venv or the system wrote before it gave up."""
    for pattern, sentence in FAILURES:
        if re.search(pattern, text):
            return sentence
    last = [line for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return f"Set-up failed: {last[-1].strip()[:300]} (the rest is in {LOG}). Delete {VENV} and run it again."


def bring(names: list[str], fetch: list[str], around: dict[str, str]) -> None:
    """Make sure the packages of these requirements files are there. `fetch`: the command that brings the demo's text, run in `around`.

    Takes no time where the stamps fit. Raises Refused with one sentence; two at once wait for each other.
    """
    if not _missing(names):
        return
    try:
        with _locked() as lock:
            lacking = _missing(names)
            if lacking:
                _set_up(lacking, lock, fetch, around)
    except OSError as error:
        raise Refused(explain(str(error))) from None


def enough_disk(free_bytes: float) -> None:
    """Raises Refused where a first set-up would not fit."""
    if free_bytes < FREE_GB * 1e9:
        free = f"{free_bytes / 1e9:.1f} GB are free"
        raise Refused(
            f"Set-up needs {FREE_GB} GB of disk at {HERE} and {free}: free some space, or move the folder to a larger disk."
        )


def _version() -> str:
    """The version of the environment's Python, such as "3.11"; "" where there is none that runs."""
    try:
        return _quietly(["-I", "-S", "-c", "import sys; print(*sys.version_info[:2], sep='.')"]).stdout.strip()
    except OSError:
        return ""


def _quietly(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python without input, its output kept."""
    return subprocess.run(
        [str(PYTHON), *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_clean(), check=False
    )


def _identity(name: str) -> str:
    return f"{hashlib.sha256((HERE / name).read_bytes()).hexdigest()} python {_version()}\n"


def _missing(names: list[str]) -> list[str]:
    """Of these requirements files, the ones whose packages are not there as the file now stands."""
    return [name for name in names if not STAMPS[name].is_file() or STAMPS[name].read_text() != _identity(name)]


def _stamp(name: str) -> None:
    beside = STAMPS[name].with_suffix(".new")
    beside.write_text(_identity(name))
    beside.replace(STAMPS[name])


@contextmanager
def _locked() -> Iterator[int]:
    """Hold the set-up lock and yield its descriptor. pip inherits it: a set-up whose launch.py was killed counts as long as pip works."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("a+") as file:
        waiting = False
        while not _take(file.fileno()):
            if not waiting:
                say("Another set-up of this folder is at work; waiting for it.")
            waiting = True
            time.sleep(0.2)
        yield file.fileno()


def _take(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clean() -> dict[str, str]:
    """The environment for venv and pip: the person's own, less what would lead them astray."""
    astray = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in astray}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_PROGRESS_BAR": "off"}


def _set_up(names: list[str], lock: int, fetch: list[str], around: dict[str, str]) -> None:
    """Bring the environment to what these requirements files say."""
    started = time.monotonic()
    for name in names:
        STAMPS[name].unlink(missing_ok=True)
    if PINS in names:
        say(
            f"Setting up {VENV}: about {SIZE_GB} GB on disk (more with an NVIDIA GPU), once, a few minutes.\n  1 of 3: Python environment"
        )
        if not _version() or _quietly(["-m", "pip", "--version"]).returncode:
            _make_venv()
        say("  2 of 3: packages")
        _drop_half_installed()
        _install_small_torch(lock)
        _pip(["-r", str(HERE / PINS)], "2 of 3", lock)
        say("  3 of 3: WikiText-2, the demo's text")
        command = [str(PYTHON), *fetch]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=around, check=False).returncode:
            say("  It could not be brought now. The demo works without it; `python3 launch.py fetch wikitext2` tries again.")
        _stamp(PINS)
    if EXTRAS in names:
        say("Adding what the tests need.")
        _drop_half_installed()
        _pip(["-r", str(HERE / EXTRAS)], "test packages", lock)
        _stamp(EXTRAS)
    say(f"Set-up done in {time.monotonic() - started:.0f} s.")


def _make_venv() -> None:
    enough_disk(shutil.disk_usage(HERE).free)
    if VENV.exists():
        shutil.rmtree(VENV)
    command = [sys.executable, "-m", "venv", str(VENV)]
    made = subprocess.run(command, capture_output=True, text=True, env=_clean(), stdin=subprocess.DEVNULL, check=False)
    if made.returncode and re.search("ensurepip|No module named venv", made.stdout + made.stderr):
        raise Refused("This Python lacks its venv module: install it (on Debian and Ubuntu: sudo apt install python3-venv).")
    if made.returncode:
        raise Refused(explain(made.stdout + made.stderr))


def _packages() -> Path:
    return next(iter([*VENV.glob("lib/python*/site-packages"), *VENV.glob("Lib/site-packages")]), VENV)


def _drop_half_installed() -> None:
    """Forget packages that a killed pip left half unpacked, so that the next one unpacks them: it writes INSTALLER and RECORD last."""
    for info in [*_packages().glob("*.dist-info"), *_packages().glob("~*")]:
        if info.name.startswith("~") or not all((info / name).is_file() for name in ("METADATA", "RECORD", "INSTALLER")):
            shutil.rmtree(info, ignore_errors=True)


def _install_small_torch(lock: int) -> None:
    """Where there is no NVIDIA GPU, put PyTorch's CPU build in place first: what Linux gets by default brings gigabytes of CUDA."""
    pin = re.search(r"^torch==([\w.]+)", (HERE / PINS).read_text(), re.MULTILINE)
    if not pin or sys.platform != "linux" or shutil.which("nvidia-smi") or DRIVER.exists():
        return
    if list(_packages().glob(f"torch-{pin[1]}*.dist-info")):
        return
    offered = _quietly(["-m", "pip", "index", "versions", "torch"])
    index = [] if f"{pin[1]}+cpu" in offered.stdout else ["--index-url", CPU_INDEX]
    try:
        _pip(["--no-deps", *index, f"torch=={pin[1]}+cpu"], "2 of 3: PyTorch without CUDA", lock)
    except Refused:
        if offered.returncode:
            raise
        say(
            f"  This machine has no NVIDIA GPU, but PyTorch's CPU build cannot be had; the build with CUDA is about {CUDA_GB} GB larger."
        )
        if sys.stdin and sys.stdin.isatty() and input("  Go on with it? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Refused(f"Stopped before the large download: let this machine reach {CPU_INDEX} and run it again.") from None


def _pip(arguments: list[str], label: str, lock: int) -> None:
    """Run pip install, showing one live line. Raises Refused with a plain sentence where pip fails."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", *arguments]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_clean(),
        **({} if os.name == "nt" else {"pass_fds": (lock,)}),
    )
    written: list[str] = []
    try:
        _show(child, written, label)
    except BaseException:
        child.terminate()
        child.wait()
        raise
    with LOG.open("a", encoding="utf-8") as log:
        log.writelines([" ".join(command) + "\n", *written])
    if child.wait():
        raise Refused(explain("".join(written)))


def _show(child: subprocess.Popen[str], written: list[str], label: str) -> None:
    """Follow pip to its end: one line that renews itself on a terminal, else a line every 15 s."""
    started, shown_s, live = time.monotonic(), 0.0, sys.stderr.isatty()
    reader = threading.Thread(target=lambda: written.extend(iter(child.stdout.readline, "")), daemon=True)
    reader.start()
    while reader.is_alive():
        reader.join(0.2)
        seconds = time.monotonic() - started
        if live or seconds - shown_s > 15:
            shown_s = seconds
            text = f"  {label}: {_doing(written)}, {seconds:.0f} s"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)
    print("\r\033[K" if live else "", end="", file=sys.stderr, flush=True)


def _doing(written: list[str]) -> str:
    """What pip is at, in a few words, from the last of its lines that says so."""
    verbs = {"Collecting": "finding", "Downloading": "downloading", "Processing": "found", "Requirement": "have"}
    for line in reversed(written[-20:]):
        words = line.replace("already satisfied: ", "").split()
        if words[:1] == ["Installing"]:
            return f"unpacking, {len(list(_packages().glob('*.dist-info')))} packages in place"
        if len(words) > 1 and words[0] in verbs:
            size = re.search(r"\([\d.]+ [kMG]B\)", line)
            return f"{verbs[words[0]]} {re.split(r'[=<>~!;(]|-[0-9]', words[1].split('/')[-1])[0]}{' ' + size[0] if size else ''}"
    return "asking the registry"
