"""The workspace on disk."""

import pytest

from core.errors import RecipeError
from studio import history
from studio.history import Place
from studio.rooms.model.opening import Opening, Stage
from studio.workspace import BUDGETS, FILE, ONE_HISTORY, SNAPSHOTS, Opened, Overtaken, Shares, Workspace

pytestmark = pytest.mark.quick


def test_what_is_open_survives_a_restart(tmp_path):
    Workspace(tmp_path).change(model="builtin:tiny-cnn", data="builtin:digits", run="one")
    opened = Workspace(tmp_path).read()
    assert (opened.model, opened.data, opened.run, opened.revision) == ("builtin:tiny-cnn", "builtin:digits", "one", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"revision": 3}', "null"])
def test_a_broken_file_reads_as_a_fresh_workspace(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert Workspace(tmp_path).read() == Opened()


def test_a_change_on_top_of_an_older_revision_is_refused_and_told(tmp_path):
    here = Workspace(tmp_path)
    seen = here.read().revision
    here.change(data="builtin:digits")
    with pytest.raises(Overtaken):
        here.change(run="mine", seen=seen)
    assert here.set_budget({"blocks.0": 0.5}, seen=seen).data == "builtin:digits"  # opened data overtakes no hand on the bars
    with pytest.raises(Overtaken, match="Another tab") as told:
        here.set_budget({"blocks.0": 0.7}, seen=seen)
    assert told.value.opened.budget == here.read().budget == Shares({"blocks.0": 0.5})
    old = here.change(model="builtin:tiny-cnn").revision
    here.change(run="mine")
    assert here.set_budget({"stage.0": 0.1}, seen=old).budget == Shares({"stage.0": 0.1})
    with pytest.raises(Overtaken):
        here.set_budget({"stage.0": 0.2}, seen=old + 99)


def test_undo_and_redo_walk_the_budgets(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.2})
    here.set_budget({"blocks.0": 0.4}, ("blocks.0",))
    assert here.undo().budget == Shares({"blocks.0": 0.2})
    assert here.undo().budget == Shares()
    assert here.undo().budget == Shares()
    assert here.redo().budget == Shares({"blocks.0": 0.2})
    assert here.redo().budget == Shares({"blocks.0": 0.4}, ("blocks.0",))
    assert here.redo().budget == Shares({"blocks.0": 0.4}, ("blocks.0",))


def test_a_new_budget_after_undo_forgets_what_was_undone(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.2})
    here.undo()
    here.set_budget({"blocks.0": 0.3})
    assert here.redo().budget == Shares({"blocks.0": 0.3})


def test_an_equal_budget_is_no_change(tmp_path):
    here = Workspace(tmp_path)
    first = here.set_budget({"blocks.0": 0.2})
    assert here.set_budget({"blocks.0": 0.2}) == first


def test_every_model_keeps_its_budget_its_undo_and_both_sides_while_another_is_open(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.2})
    left = here.turn()
    opened = here.change(model="/a/" + "long/" * 200)
    assert (opened.budget, opened.place, opened.other, opened.side) == (Shares(), Place(), None, "A")
    assert here.undo().budget == Shares()
    here.set_budget({"blocks.5": 0.9})
    back = Workspace(tmp_path).change(model=left.model)
    assert (back.budget, back.place, back.other, back.side) == (left.budget, left.place, left.other, "B")
    assert here.undo().budget == Shares({"blocks.0": 0.2}) and here.undo().budget == Shares()
    assert here.change(model=opened.model).budget == Shares({"blocks.5": 0.9}) and here.undo().budget == Shares()


def test_a_broken_file_of_what_a_model_was_left_with_is_a_fresh_start(tmp_path):
    here = Workspace(tmp_path)
    first = here.set_budget({"blocks.0": 0.2}).model
    here.change(model="builtin:tiny-cnn")
    for file in (tmp_path / BUDGETS).glob("*.json"):
        file.write_text('{"shares": 3')
    assert here.change(model=first).budget == Shares() and here.set_budget({"blocks.0": 0.1}).place.undo == 1


def test_opening_the_same_model_again_keeps_the_budget(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.2})
    assert here.change(model=here.read().model).budget == Shares({"blocks.0": 0.2})


def test_a_write_that_fails_leaves_what_stood(tmp_path, monkeypatch):
    here = Workspace(tmp_path)
    here.change(data="builtin:digits")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="disk is full"):
        here.change(data="builtin:trec")
    assert here.read().data == "builtin:digits"


def test_undo_has_no_limit_and_survives_a_restart(tmp_path):
    here = Workspace(tmp_path)
    for step in range(1, 151):
        here.set_budget({"blocks.0": step / 200})
    for step in range(149, 0, -1):
        assert Workspace(tmp_path).undo().budget == Shares({"blocks.0": step / 200})
    assert here.undo().budget == Shares()
    assert (here.read().place.undo, here.read().place.redo) == (0, 150)
    assert here.redo().budget == Shares({"blocks.0": 1 / 200})


def test_a_crash_between_the_two_files_costs_nothing(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.1})
    before = (tmp_path / FILE).read_text()
    here.set_budget({"blocks.0": 0.2})
    (tmp_path / FILE).write_text(before)  # as if the last write of the workspace never happened
    assert here.read().budget == here.redo().budget == Shares({"blocks.0": 0.1})
    here.set_budget({"blocks.0": 0.3})
    assert here.undo().budget == Shares({"blocks.0": 0.1})
    assert here.redo().budget == Shares({"blocks.0": 0.3})


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"back": 0}\n'])
def test_a_broken_history_ends_undo_but_not_work(tmp_path, text):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.1})
    here.history_of(here.read().model).write_text(text)
    assert here.undo().budget == Shares({"blocks.0": 0.1})
    here.set_budget({"blocks.0": 0.2})
    assert here.undo().budget == Shares({"blocks.0": 0.1})


def test_a_workspace_of_an_older_version_keeps_its_budget(tmp_path):
    old = '{"revision": 3, "model": "m", "data": null, "run": null, "budget": {"shares": {"a": 0.5}, "locked": []}, "undo": [], "redo": []}'
    (tmp_path / FILE).write_text(old)
    assert Workspace(tmp_path).read() == Opened(3, "m", budget=Shares({"a": 0.5}), edited=3)


def test_snapshots_belong_to_a_model_and_survive(tmp_path):
    here = Workspace(tmp_path)
    here.keep("  first   try ", Shares({"blocks.0": 0.2}, ("blocks.0",)))
    here.keep("second", Shares({"blocks.1": 0.2}))
    model = here.read().model
    assert Workspace(tmp_path).snapshots(model) == {
        "first try": Shares({"blocks.0": 0.2}, ("blocks.0",)),
        "second": Shares({"blocks.1": 0.2}),
    }
    here.keep("first try", None)
    assert list(here.snapshots(model)) == ["second"] and here.snapshots("another") == {}
    (tmp_path / SNAPSHOTS).write_text("{")
    assert here.snapshots(model) == {}


@pytest.mark.parametrize("name", ["", "   ", "x" * 61])
def test_a_snapshot_without_a_proper_name_is_refused(tmp_path, name):
    with pytest.raises(RecipeError, match="needs a name"):
        Workspace(tmp_path).keep(name, Shares())


def test_a_and_b_change_places_and_are_undone_like_any_change(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.4})
    turned = here.turn()
    assert (turned.budget, turned.other, turned.side) == (Shares(), Shares({"blocks.0": 0.4}), "B")
    here.set_budget({"blocks.1": 0.2})
    assert Workspace(tmp_path).turn().budget == Shares({"blocks.0": 0.4})
    assert here.turn().budget == Shares({"blocks.1": 0.2})
    assert here.undo().budget == Shares({"blocks.0": 0.4})


def test_undo_after_turning_goes_back_to_the_side_and_keeps_what_lies_on_the_other(tmp_path):
    here = Workspace(tmp_path)
    here.turn()
    here.set_budget({"blocks.1": 0.2})  # on side B
    here.turn()
    first = here.set_budget({"blocks.0": 0.4})
    turned = here.turn()
    assert (turned.side, turned.budget, turned.revision) == ("B", Shares({"blocks.1": 0.2}), first.revision + 1)
    back = here.undo()
    assert (back.side, back.budget, back.other) == ("A", Shares({"blocks.0": 0.4}), Shares({"blocks.1": 0.2}))
    again = Workspace(tmp_path).redo()
    assert (again.side, again.budget, again.other) == ("B", Shares({"blocks.1": 0.2}), Shares({"blocks.0": 0.4}))
    assert here.turn().budget == Shares({"blocks.0": 0.4})


def test_a_history_that_an_older_version_wrote_is_still_walked(tmp_path):
    here = Workspace(tmp_path)
    place = history.add(
        tmp_path / ONE_HISTORY, Place(), {"shares": {}, "locked": []}, {"shares": {"blocks.0": 0.2}, "locked": []}
    )
    here.change(budget=Shares({"blocks.0": 0.2}), place=place)
    here = Workspace(tmp_path)
    assert here.undo().budget == Shares() and here.redo().budget == Shares({"blocks.0": 0.2})


def test_an_opening_that_the_disk_refuses_ends_with_a_sentence_and_can_be_begun_again(tmp_path):
    (tmp_path / "described").write_text("no folder")  # so the description cannot be kept

    class Worker:
        def ask(self, name, /, timeout_s=60.0, **args):
            return {"name": args["source"]}

    at = Opening(Worker(), tmp_path)
    opened = []
    for _ in range(2):
        at.stage = Stage()
        at._run("/models/mine", opened.append)
        assert at.stage.state == "failed" and at.stage.text.startswith("/models/mine could not be opened (FileExistsError")
    (tmp_path / "described").unlink()
    at._run("/models/mine", opened.append)
    assert at.stage.state == "open" and opened == ["/models/mine"]
