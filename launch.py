#!/usr/bin/env python3
"""Every command of Prunarium: make the environment on first use (core/install.py), then start the program in it. Standard library only.

Exit codes: 0 done; 1 something in a recipe, model, data set or machine is wrong, said in a sentence; 2 called wrongly; 130 Ctrl-C.
Old Pythons must still parse this file, to be told that they are old.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path


def wrong_python(version, newer=()):  # noqa: ANN001, ANN201 (an old Python evaluates annotations)
    """The sentence for a Python that is too old, or "" for one that will do. `newer`: better ones on this machine, best first."""
    if tuple(version[:2]) >= (3, 11):
        return ""
    this = ".".join(str(part) for part in version[:3])
    advice = f"start it as `{newer[0]} launch.py`" if newer else "install a newer one from python.org and start it with that"
    return f"Prunarium needs Python 3.11 or newer and this is {this}: {advice}."


def newer_pythons():  # noqa: ANN201
    """Names of Pythons on this machine that would do, and that do run."""
    found = [name for name in ("python3.13", "python3.12", "python3.11", "python3.14") if shutil.which(name)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [name for name in found if subprocess.call([name, "-c", "pass"], **quiet) == 0]


if wrong_python(sys.version_info):
    sys.exit(wrong_python(sys.version_info, newer_pythons()))

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from core import listing  # noqa: E402 (the check of Python comes first)
from core.install import EXTRAS, PINS, PYTHON, Refused, bring, say  # noqa: E402

MODULES = {
    "studio": "studio.app",
    "test": "pytest",
    "run": "core.supervise",
    "methods": "core.catalogue",
    "check": "studio.check",
    "bench": "tests.bench",
    "fetch": "core.builtins",
    "screens": "tests.screens",
    "lesson": "core.lesson.command",
}
BOOT = """import os, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except KeyboardInterrupt:
    sys.exit(sys.stderr.write("\\nStopped.\\n") and 130)
except BrokenPipeError:  # whoever reads what we print has seen enough, as `| head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(141)
"""


class Parser(argparse.ArgumentParser):
    """argparse, with usage errors in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        say(f"launch.py: {message}. See python3 launch.py --help")
        sys.exit(2)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number between 0 and 65535")
    return int(text)


def _parser() -> Parser:
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--methods", metavar="DIR", help="a folder of your own methods")
    common.add_argument("--runs", metavar="DIR", help="where run folders go (default: runs)")
    parser = Parser(
        prog="launch.py", description="Prunarium. Without a command: the studio.", allow_abbrev=False, parents=[common]
    )
    parser.add_argument("--port", type=_port, metavar="N", help="the studio's port (default: 7860 or the next free one; 0: any)")
    parser.add_argument("--host", metavar="ADDRESS", help="where to answer (default: 127.0.0.1; any other needs --token)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--window", action="store_true", help="an app window instead of a tab")
    parser.add_argument("--token", help="ask this word of every visitor")
    parser.add_argument("--open", action="append", metavar="DIR", help="a folder the page may read files from (repeatable)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str) -> Parser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False, parents=[common])

    add("test", "run the tests; what follows goes to pytest")
    run = add("run", "run a recipe")
    run.add_argument("recipe", metavar="RECIPE", help="a recipe.yaml, or a sweep of many")
    run.add_argument("--out", metavar="DIR", help="the run folder (default: runs/NAME-TIME)")
    run.add_argument("--minutes", type=float, metavar="N", help="end the run after this time")
    run.add_argument("--json", action="store_true", help="the report as one line of JSON on standard output")
    add("methods", "list the methods").add_argument("--json", action="store_true", help="as JSON")
    add("check", "start the studio, load the demo as a page would, say one line, exit")
    add("bench", "measure; see docs/benchmarks.md").add_argument("name", nargs="?", metavar="NAME", help="one benchmark only")
    add("fetch", "bring a built-in model or data set that the checkout lacks").add_argument("name", metavar="NAME")
    add("screens", "take the screenshots in docs/screens anew")
    lesson = add("lesson", "check a lesson file, or measure the figures that it names")
    lesson.add_argument("what", choices=("check", "measure"), metavar="check|measure")
    lesson.add_argument("file", metavar="FILE", help="a lesson: a Markdown file as in assets/lessons")
    return parser


def read_order(argv: list[str]) -> tuple[str, list[str], str | None]:
    """(command, arguments of its module, folder of own methods or None). Exits with code 2 where launch.py was called wrongly."""
    if argv[:1] == ["test"] and argv[1:2] not in (["-h"], ["--help"]):
        return "test", argv[1:], None
    parser = _parser()
    asked = vars(parser.parse_args(argv))
    methods, command = asked.pop("methods", None), asked.pop("command") or "studio"
    if command != "studio":
        for name in ("port", "host", "no_browser", "window", "token", "open"):
            given = asked.pop(name)
            if given is not None and given is not False:  # 0 is a port
                parser.error(f"--{name.replace('_', '-')} is for the studio, not for {command}")
    if command not in ("studio", "run") and asked.pop("runs", None):
        parser.error(f"--runs is for the studio and for run, not for {command}")
    words = ["fetch"] if command == "fetch" else []
    words += [asked.pop(name) for name in ("recipe", "name", "what", "file") if asked.get(name)]
    for name, value in asked.items():
        flag = "--" + name.replace("_", "-")
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None or one is False else [flag] if one is True else [flag, str(one)]
    return command, words, methods


def environment(methods: str | None) -> dict[str, str]:
    """What every command runs in: this checkout's code, nothing sent home, threads that wait without burning a core."""
    if methods is not None and not Path(methods).is_dir():
        raise Refused(f"There is no folder {methods}: give --methods a folder of Python files.")
    own = {} if methods is None else {"PRUNARIUM_METHODS": str(Path(methods).resolve())}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    return (
        kept
        | own
        | {
            "PYTHONPATH": str(HERE),
            "PYTHONSAFEPATH": "1",  # a folder called core/ or studio/ where the person stands is not ours
            "OMP_WAIT_POLICY": "passive",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
    )


def start(command: str, words: list[str], around: dict[str, str]) -> int:
    """Give this process over to the command. Returns its exit code where a system cannot replace a process (Windows)."""
    if command in ("test", "screens", "bench"):
        os.chdir(HERE)
    whole = [str(PYTHON), "-c", BOOT, MODULES[command], *words]
    if os.name == "nt":
        return subprocess.call(whole, env=around)
    os.execve(whole[0], whole, around)


def main(argv: list[str]) -> int:
    try:
        command, words, methods = read_order(argv)
        around = environment(methods)
        if command == "methods" and not around.get("PRUNARIUM_METHODS"):
            return listing.main(words)  # a list that the checkout holds: nothing is set up for it
        needed = [PINS, EXTRAS] if command in ("test", "screens") else [PINS]
        bring(needed, ["-c", BOOT, MODULES["fetch"], "fetch", "wikitext2"], around)
        return start(command, words, around)
    except Refused as refused:
        say(str(refused))
        return 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130
    except BrokenPipeError:  # as in BOOT, for what this process prints itself
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
