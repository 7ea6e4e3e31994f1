"""Runs as the screen sees them."""

import json
from pathlib import Path

import pytest

from core import folder
from core.errors import ResourceError
from core.events import Progress
from core.recipe import from_yaml, read
from studio import jobs

RECIPE = "{recipe: 1, name: a run, model: {source: 'builtin:tiny-llama'}, steps: [{prune: {method: magnitude, sparsity: 0.5}}]}"


@pytest.fixture
def orders(monkeypatch):
    """What would be given to the spare; no process is started."""
    given = []
    monkeypatch.setattr(jobs.SPARE, "order", lambda recipe, out: given.append((recipe, out)))
    monkeypatch.setattr(jobs.SPARE, "warm", lambda: None)
    return given


@pytest.mark.quick
def test_a_run_starts_in_a_folder_of_its_own_with_the_recipe_as_asked(tmp_path, orders):
    first, second = (jobs.start(from_yaml(RECIPE), tmp_path) for _ in range(2))
    assert first != second
    assert first.name.startswith("a-run-")
    assert orders[0] == (tmp_path / jobs.ASKED / f"{first.name}.yaml", first)
    assert read(orders[0][0]) == from_yaml(RECIPE)
    assert jobs.status(first).state == "waiting"


@pytest.mark.quick
def test_a_stop_that_comes_too_late_never_turns_done_into_stopped(tmp_path):
    path = folder.create(tmp_path / "late")
    folder.append_event(path, Progress("start", kind="note"))
    folder.end(path, "done")
    jobs.stop(path)
    folder.end(path, "stopped", "The run was stopped.")
    assert jobs.status(path).state == "done"


@pytest.mark.quick
def test_a_run_whose_process_is_gone_reads_interrupted(tmp_path):
    path = folder.create(tmp_path / "gone")
    folder.append_event(path, Progress("load", 1, 3))
    assert jobs.status(path).state == "interrupted"
    assert jobs.running(tmp_path) == []


@pytest.mark.quick
def test_a_living_run_is_running_and_a_finished_one_is_not(tmp_path):
    path = folder.create(tmp_path / "alive")
    folder.append_event(path, Progress("load", 1, 3))
    with folder.held(path):
        assert [at.name for at in jobs.running(tmp_path)] == ["alive"]
        folder.end(path, "done")
        assert jobs.running(tmp_path) == []


@pytest.mark.quick
@pytest.mark.parametrize("name", ["", "..", "../elsewhere", ".asked", "nothing", "/etc"])
def test_only_names_of_runs_are_found_never_paths(tmp_path, name):
    (tmp_path / "runs" / ".asked").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ResourceError, match="no run called"):
        jobs.find(tmp_path / "runs", name)


@pytest.mark.quick
def test_the_curve_holds_what_the_run_told_over_its_seconds(tmp_path):
    path = folder.create(tmp_path / "curve")
    for time_s, loss in ((100.0, 4.0), (101.5, 3.5)):
        folder.append_event(path, Progress("recover", 1, 2, values={"loss": loss}, time_s=time_s))
    folder.append_event(path, Progress("recover", 2, 2, values={"loss": float("nan")}, time_s=103.0))
    assert jobs.curve(path) == {"loss": [(0.0, 4.0), (1.5, 3.5)]}


@pytest.mark.quick
@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_report_that_cannot_be_read_counts_as_none(tmp_path, text):
    (tmp_path / folder.REPORT).write_text(text)
    assert jobs.report(tmp_path) is None


@pytest.mark.quick
class TestAdmit:
    def test_built_ins_and_hub_ids_pass_as_they_are(self, tmp_path):
        for source in ("builtin:tiny-llama", "HuggingFaceTB/SmolLM2-135M", "owner/name@main"):
            assert jobs.admit(f" {source} ", (tmp_path,)) == source

    def test_a_file_in_an_opened_folder_becomes_its_whole_path(self, tmp_path):
        (tmp_path / "text.txt").write_text("x")
        assert jobs.admit("text.txt", (tmp_path,)) == str(tmp_path / "text.txt")
        assert jobs.admit(str(tmp_path / "text.txt"), (tmp_path,)) == str(tmp_path / "text.txt")

    def test_a_file_outside_is_refused_with_the_remedy(self, tmp_path):
        (tmp_path / "open").mkdir()
        (tmp_path / "secret.txt").write_text("x")
        for way in (str(tmp_path / "secret.txt"), "../secret.txt"):
            with pytest.raises(ResourceError, match="--open"):
                jobs.admit(way, (tmp_path / "open",))

    def test_a_link_that_leads_outside_is_refused(self, tmp_path):
        (tmp_path / "open").mkdir()
        (tmp_path / "secret.txt").write_text("x")
        (tmp_path / "open" / "link.txt").symlink_to(tmp_path / "secret.txt")
        with pytest.raises(ResourceError, match="--open"):
            jobs.admit("link.txt", (tmp_path / "open",))

    def test_nothing_and_what_is_not_there_are_said_in_a_sentence(self, tmp_path):
        with pytest.raises(ResourceError, match="No source"):
            jobs.admit("  ", (tmp_path,))
        with pytest.raises(ResourceError, match="no home folder for ~nosuchuser"):
            jobs.admit("~nosuchuser/x", (tmp_path,))
        with pytest.raises(ResourceError, match="no path has"):
            jobs.admit("a\0b", (tmp_path,))
        with pytest.raises(ResourceError, match="nothing at"):
            jobs.admit(str(tmp_path / "gone.txt"), (tmp_path,))


def test_a_run_from_the_screen_finishes_without_the_screen(tmp_path):
    path = jobs.start(from_yaml(RECIPE), tmp_path)
    process = jobs.SPARE._given[-1]
    jobs.SPARE.close()
    assert process.wait(120) == 0
    at = jobs.status(path)
    assert (at.state, at.problem) == ("done", "")
    assert json.loads((path / folder.REPORT).read_text())["sparsity"]["pruned_layers"] == pytest.approx(0.5, abs=1e-3)
    assert [one.name for one in jobs.all_runs(tmp_path)] == [path.name]
    assert Path(path / folder.MASK).exists()
