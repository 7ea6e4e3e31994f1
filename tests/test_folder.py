"""Run folders: atomic, read from disk alone, honest about how a run ended."""

import json
import os
import signal
import subprocess
import sys

import pytest

from core import folder
from core.errors import ResourceError, Stopped
from core.events import Progress

pytestmark = pytest.mark.quick

HOLDER = """
import sys, time
from pathlib import Path
from core import folder
from core.events import Progress
path = Path(sys.argv[1])
with folder.held(path):
    for done in range(4):
        folder.append_event(path, Progress("prune", done, 10, values={"loss": 1.0 / (done + 1)}))
        time.sleep(0.01)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    path = folder.create(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()


def test_a_living_run_reads_running_and_a_killed_one_interrupted(holder):
    path, process = holder
    status = folder.status(path)
    assert (status.state, status.stage, status.done, status.total) == ("running", "prune", 3, 10)
    assert status.seconds_left > 0 and status.values == {"loss": 0.25}
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    status = folder.status(path)
    assert status.state == "interrupted" and status.done == 3 and status.remedy
    assert len(folder.read_events(path)[0]) == 4, "what was written before the kill is still there"


def test_a_run_that_is_long_in_its_imports_waits_while_somebody_watches_it(tmp_path):
    path = folder.create(tmp_path / "run")
    with folder.watched(path):
        os.utime(path, (1, 1))
        assert folder.status(path).state == "waiting"
    os.utime(path, (1, 1))
    assert folder.status(path).state == "interrupted"


def test_a_second_process_cannot_hold_the_same_run(holder):
    with pytest.raises(ResourceError, match="Another process"), folder.held(holder[0]):
        pass


def test_the_first_terminal_state_stands(tmp_path):
    path = folder.create(tmp_path / "run")
    folder.end(path, "done")
    folder.end(path, "stopped", "late", "no")
    assert folder.status(path).state == "done"


def test_a_finished_run_is_never_overwritten(tmp_path):
    path = folder.create(tmp_path / "run")
    folder.write_json(path / folder.REPORT, {})
    with pytest.raises(ResourceError, match="already holds a run"):
        folder.create(path)


def test_a_torn_last_line_is_left_for_the_next_read(tmp_path):
    path = folder.create(tmp_path / "run")
    folder.append_event(path, Progress("a", 1, 2))
    with (path / folder.EVENTS).open("a") as file:
        file.write('{"stage": "b"')
    events, offset = folder.read_events(path)
    assert [event["stage"] for event in events] == ["a"]
    with (path / folder.EVENTS).open("a") as file:
        file.write("}\n")
    assert folder.read_events(path, offset)[0] == [{"stage": "b"}]


def test_a_line_torn_for_good_does_not_swallow_the_next(tmp_path):
    path = folder.create(tmp_path / "run")
    folder.append_event(path, Progress("a", 1, 2))
    with (path / folder.EVENTS).open("a") as file:
        file.write('{"stage": "torn by a full disk')
    folder.end(path, "failed", "The disk is full.", "Free some space.")
    assert [event["stage"] for event in folder.read_events(path)[0]] == ["a", "failed"]
    assert folder.status(path).state == "failed"


def test_numbers_that_are_none_become_null(tmp_path):
    folder.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": (1,)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5], "c": [1]}


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from core import folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: folder.write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert out.stdout.startswith("ResourceError") and str(target) in out.stdout, out.stderr
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target], "nothing half written is left behind"


def test_the_watcher_obeys_the_stop_file(tmp_path):
    path = folder.create(tmp_path / "run")
    watcher = folder.FolderWatcher(path)
    watcher.check()
    folder.ask_stop(path)
    with pytest.raises(Stopped):
        watcher.check()


def test_runs_are_listed_newest_first(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        path = folder.create(tmp_path / name)
        folder.append_event(path, Progress("start"))
        os.utime(path, (number, number))
    (tmp_path / "not-a-run").mkdir()
    assert [path.name for path in folder.runs(tmp_path)] == ["c", "b", "a"]
    assert folder.runs(tmp_path / "missing") == []


def test_what_a_killed_run_left_half_written_goes_and_a_living_ones_stays(holder, tmp_path):
    living, process = holder
    killed = folder.create(tmp_path / "killed")
    for path in (living, killed):
        for name in (".model.saving-123", folder.CHANGED):
            (path / name).mkdir()
            (path / name / "part-0.safetensors").write_bytes(b"x")
        folder.clear_scratch(path)
    assert sorted(path.name for path in living.iterdir() if path.is_dir()) == [folder.CHANGED, ".model.saving-123"]
    assert [path.name for path in killed.iterdir()] == ["lock"]
    process.kill()
    process.wait()
    folder.clear_scratch(living)
    assert not [path for path in living.iterdir() if path.is_dir()]


def test_of_two_started_at_once_in_one_folder_the_second_is_refused_and_the_first_ends_as_it_would(tmp_path):
    """Both are started before either has written anything: only the first one's end is in the folder."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "{recipe: 1, name: a, model: {source: 'builtin:tiny-llama'}, steps: [{prune: {method: magnitude, sparsity: 0.5}}]}"
    )
    command = [sys.executable, "-m", "core.supervise", str(recipe), "--out", str(tmp_path / "run")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], said
    refused = said[codes.index(1)][1]
    assert refused.count("\n") == 1 and ("has just been started in" in refused or "already holds a run" in refused)
    assert "choose another --out" in refused.lower()
    assert folder.status(tmp_path / "run").state == "done"
    assert [event["stage"] for event in folder.read_events(tmp_path / "run")[0] if event["kind"] == "state"] == ["done"]


def test_a_run_that_finds_another_in_its_folder_writes_no_end_there(holder, tmp_path):
    path, _ = holder
    (path / folder.EVENTS).unlink()  # the first has not written anything yet
    (tmp_path / "r.yaml").write_text(
        "{recipe: 1, name: a, model: {source: 'builtin:tiny-llama'}, steps: [{prune: {method: magnitude, sparsity: 0.5}}]}"
    )
    done = subprocess.run([sys.executable, "-m", "core.run", str(tmp_path / "r.yaml"), "--out", str(path)], check=False)
    assert done.returncode == 1 and "Another process is working in" in (path / folder.LOG).read_text()
    assert not (path / folder.EVENTS).exists() and not (path / folder.RECIPE).exists()
