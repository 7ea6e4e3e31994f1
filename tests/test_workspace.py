"""The workspace on disk."""

import pytest

from studio.workspace import FILE, Opened, Overtaken, Shares, Workspace

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
    with pytest.raises(Overtaken, match="Another tab") as told:
        here.set_budget({"blocks.0": 0.5}, seen=seen)
    assert told.value.opened.data == "builtin:digits"
    assert here.read().budget == Shares()


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


def test_opening_another_model_drops_the_budget_of_the_old_one(tmp_path):
    here = Workspace(tmp_path)
    here.set_budget({"blocks.0": 0.2})
    opened = here.change(model="builtin:tiny-cnn")
    assert (opened.budget, opened.undo, opened.redo) == (Shares(), (), ())


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
