"""launch.py, tried as a newcomer would: in a fresh copy of the checkout with a tiny requirements file, through real venv and real pip."""

from __future__ import annotations

import ast
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch

SHOW = """import json, os, sys
import six
print(json.dumps({"words": sys.argv[1:], "six": six.__version__, "environment": dict(os.environ)}))
"""
POUR = "while True: print('more', flush=True)\n"
WAIT = "import sys\nprint('ready', flush=True)\nsys.stdin.read()\n"


def copy_to(folder: Path, checkout: Path) -> Path:
    """A checkout that needs one tiny package, and whose commands say how they were called."""
    (folder / "core").mkdir(parents=True)
    for name in ("launch.py", "core/__init__.py", "core/install.py"):
        shutil.copy(checkout / name, folder / name)
    (folder / "requirements.txt").write_text("six==1.17.0\n")
    (folder / "requirements-test.txt").write_text("pytest==9.2.0\n")
    (folder / "core/catalogue.py").write_text(SHOW)
    (folder / "core/supervise.py").write_text(WAIT)
    (folder / "tests").mkdir()
    (folder / "tests/bench.py").write_text(POUR)
    (folder / "core/builtins.py").write_text("import sys\nsys.exit('no network for WikiText-2')\n")
    return folder


@pytest.fixture
def copy(tmp_path: Path, checkout: Path) -> Path:
    return copy_to(tmp_path / "check out", checkout)  # a space in the path, as people have


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A copy after its first start, and what that start said."""
    folder = copy_to(tmp_path_factory.mktemp("made") / "checkout", checkout)
    return folder, call(folder, "methods", "--json")


def around(**changes: str) -> dict[str, str]:
    ours = ("PYTHONPATH", "PYTHONSAFEPATH", "OMP_WAIT_POLICY", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **changes}


def call(folder: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "launch.py"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=around(**changes), cwd=folder.parent, check=False
    )


@pytest.fixture
def begin(copy: Path) -> Iterator:
    """Start launch.py in its own session; whatever is left of it is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, str(copy / "launch.py"), *words]
        started.append(subprocess.Popen(command, **pipe, text=True, env=around(), start_new_session=True))
        return started[-1]

    yield start
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def said(child: subprocess.Popen[str], words: str) -> None:
    """Read its standard error until it says these words."""
    assert any(words in line for line in child.stderr), f"it never said {words!r}"


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a start that could not go on: exit code 1, last on standard error, no traceback."""
    assert done.returncode == 1
    assert not done.stdout
    assert "Traceback" not in done.stderr and "WARNING" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.quick
@pytest.mark.parametrize(
    "words",
    [
        ["prune-it"],
        ["--colour"],
        ["run"],
        ["fetch"],
        ["--port", "many"],
        ["--port", "70000"],
        ["check", "now"],
        ["--port", "80", "check"],
        ["methods", "--runs", "x"],
        ["run", "a", "--js"],
    ],
)
def test_a_wrong_call_is_exit_2_and_one_line_that_names_help(copy: Path, words: list[str]):
    done = call(copy, *words)
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.startswith("launch.py: ") and "--help" in done.stderr and done.stderr.count("\n") == 1
    assert not (copy / ".venv").exists()


@pytest.mark.quick
def test_help_names_every_command_and_sets_nothing_up(copy: Path):
    done = call(copy, "--help")
    assert done.returncode == 0
    assert all(f"\n    {name} " in done.stdout for name in launch.MODULES if name != "studio")
    assert all(
        option in done.stdout for option in ("--port", "--no-browser", "--token", "--open", "--methods", "--runs", "--window")
    )
    assert not (copy / ".venv").exists()


@pytest.mark.quick
@pytest.mark.parametrize("name", ["launch.py", "core/install.py"])
def test_launching_needs_the_standard_library_only(checkout: Path, name: str):
    tree = ast.parse((checkout / name).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in imported - {"core.install"}} <= sys.stdlib_module_names


@pytest.mark.quick
def test_an_old_python_can_parse_launch_and_is_told_what_to_do(checkout: Path):
    ast.parse((checkout / "launch.py").read_text(), feature_version=(3, 7))
    assert launch.wrong_python((3, 9, 2), ["python3.12"]) == (
        "Prunarium needs Python 3.11 or newer and this is 3.9.2: start it as `python3.12 launch.py`."
    )
    assert "python.org" in launch.wrong_python((3, 10, 0))
    assert launch.wrong_python((3, 11, 0)) == "" == launch.wrong_python((4, 0))


def test_a_real_old_python_gets_the_sentence(checkout: Path):
    named = [path for minor in range(6, 11) if (path := shutil.which(f"python3.{minor}"))]
    built = [str(path) for minor in range(6, 11) for path in Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3")]
    runs = [
        python for python in built + named if not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode
    ]
    if not runs:
        pytest.skip("no Python older than 3.11 is on this machine; the sentence itself is tested above")
    for python in runs:
        done = subprocess.run([python, str(checkout / "launch.py")], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("Prunarium needs Python 3.11 or newer and this is 3.") and done.stderr.count("\n") == 1


def test_the_first_start_sets_up_on_standard_error_and_leaves_standard_output_to_the_command(made):
    _, first = made
    assert first.returncode == 0
    shown = json.loads(first.stdout)
    assert shown["six"] == "1.17.0" and shown["words"] == ["--json"]
    assert all(words in first.stderr for words in ("GB on disk", "1 of 3", "2 of 3", "3 of 3", "Set-up done in"))


def test_set_up_goes_on_without_the_demo_text_and_says_how_to_get_it(made):
    assert made[1].returncode == 0
    assert "could not be brought now" in made[1].stderr and "fetch wikitext2" in made[1].stderr


def test_every_command_runs_in_the_checkouts_code_and_sends_nothing_home(made):
    seen = json.loads(made[1].stdout)["environment"]
    assert seen["PYTHONPATH"] == str(made[0])
    assert (seen["OMP_WAIT_POLICY"], seen["GRADIO_ANALYTICS_ENABLED"], seen["HF_HUB_DISABLE_TELEMETRY"]) == (
        "passive",
        "False",
        "1",
    )


def test_a_second_start_calls_no_pip(made):
    folder, _ = made
    pip = next((folder / ".venv").glob("lib/python*/site-packages/pip"))
    pip.rename(pip.with_name("gone"))
    try:
        done = call(folder, "methods")
    finally:
        pip.with_name("gone").rename(pip)
    assert done.returncode == 0 and done.stderr == ""


def test_own_methods_travel_in_the_environment_and_must_be_a_folder(made, tmp_path: Path):
    folder, _ = made
    assert json.loads(call(folder, "methods", "--methods", str(tmp_path)).stdout)["environment"]["PRUNARIUM_METHODS"] == str(
        tmp_path
    )
    assert "There is no folder nowhere" in refusal(call(folder, "--methods", "nowhere", "methods"))


def test_a_reader_that_has_seen_enough_gets_no_traceback(made):
    command = [sys.executable, str(made[0] / "launch.py"), "bench"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=around()) as child:
        assert child.stdout.readline() == "more\n"
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 141


def test_the_test_command_adds_its_packages_once_and_hands_over_the_arguments(made):
    folder, _ = made
    (folder / "test_it.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    first, second = call(folder, "test", "-q", "-k", "one"), call(folder, "test", "-q", "-k", "one")
    assert first.returncode == second.returncode == 0
    assert "1 passed, 1 deselected" in first.stdout
    assert "Adding what the tests need" in first.stderr and second.stderr == ""


def test_changed_pins_are_installed_at_the_next_start(made):
    folder, _ = made
    (folder / "requirements.txt").write_text("six==1.16.0\n")
    assert json.loads(call(folder, "methods").stdout)["six"] == "1.16.0"


def test_half_unpacked_packages_and_a_broken_python_are_repaired(made):
    folder, _ = made
    six = next((folder / ".venv").glob("lib/python*/site-packages/six.py"))
    six.write_text("")
    (next(six.parent.glob("six-*.dist-info")) / "INSTALLER").unlink()
    (folder / ".venv/prunarium-ready").unlink()
    assert call(folder, "methods").returncode == 0
    for name in ("python", "python3"):
        (folder / ".venv/bin" / name).unlink()
        (folder / ".venv/bin" / name).symlink_to("/nowhere/python")
    assert call(folder, "methods").returncode == 0


@pytest.mark.parametrize(("step", "whole_group"), [("1 of 3", True), ("2 of 3", False)])
def test_a_set_up_killed_in_the_middle_is_repaired_by_starting_again(copy: Path, begin, step: str, whole_group: bool):
    first = begin("methods")
    said(first, step)
    os.killpg(first.pid, signal.SIGKILL) if whole_group else first.kill()
    first.wait()
    assert not (copy / ".venv/prunarium-ready").exists()
    assert json.loads(call(copy, "methods").stdout)["six"] == "1.17.0"


def test_two_starts_at_once_install_once_and_the_second_says_that_it_waits(copy: Path, begin):
    first = begin("methods")
    said(first, "1 of 3")
    second = begin("methods")
    said(second, "Another set-up of this folder is at work; waiting for it.")
    assert json.loads(first.communicate()[0])["six"] == json.loads(second.communicate()[0])["six"] == "1.17.0"
    assert (copy / ".venv/prunarium-setup.log").read_text().count(" -m pip install ") == 1


def test_ctrl_c_is_one_line_and_130_in_set_up_and_in_a_command(copy: Path, begin):
    setting_up = begin("methods")
    said(setting_up, "2 of 3")
    os.killpg(setting_up.pid, signal.SIGINT)
    assert setting_up.communicate()[1].split() == ["Stopped."] and setting_up.returncode == 130
    running = begin("run", "recipe.yaml")
    assert running.stdout.readline() == "ready\n"
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate()[1].strip().endswith("Stopped.") and running.returncode == 130


def test_no_network_is_one_sentence_with_the_remedy(copy: Path):
    with socket.socket() as taken:  # bound but not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{taken.getsockname()[1]}/simple"
        only = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "PIP_FIND_LINKS": "", "PIP_RETRIES": "1"}
        done = call(copy, "methods", **only)
    assert refusal(done).startswith("The package registry cannot be reached: check the network")
    assert not (copy / ".venv/prunarium-ready").exists()


def test_no_disk_is_one_sentence_and_nothing_is_made(copy: Path):
    small = "import collections, runpy, shutil, sys; sys.argv = sys.argv[1:]; "
    small += "shutil.disk_usage = lambda path: collections.namedtuple('usage', 'total used free')(9, 9, 1.5e9); "
    small += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", small, str(copy / "launch.py"), "methods"]
    done = subprocess.run(command, capture_output=True, text=True, env=around(), check=False)
    assert "needs 4 GB of disk" in refusal(done) and "1.5 GB are free: free some space" in refusal(done)
    assert not (copy / ".venv").exists()


def test_a_folder_that_may_not_be_written_is_one_sentence(checkout: Path):
    """As root every folder may be written, so root tries it as nobody, with a Python that nobody may run."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder, python, user = copy_to(Path(parent) / "checkout", checkout), sys.executable, None
        if os.getuid() == 0:
            python, user = "/usr/bin/python3", pwd.getpwnam("nobody").pw_uid
        folder.chmod(0o555)
        try:
            done = subprocess.run(
                [python, str(folder / "launch.py"), "methods"],
                capture_output=True,
                text=True,
                env=around(),
                user=user,
                check=False,
            )
        finally:
            folder.chmod(0o755)
    assert refusal(done) == f"{folder} may not be written: copy it to a folder of your own."
