"""Lesson files: what they may say, the checks, the figures in their words, and the sentence for everything that is wrong."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import launch
from core import lesson
from core.errors import LessonError, PrunariumError
from core.lesson import checks as lesson_checks
from core.lesson import figures as lesson_figures
from core.lesson.scene import Done, Scene, Verdict, done, number
from core.lesson.schema import ROOMS
from core.recipe import parse
from studio import app, jobs, known
from studio.rooms.learn import learning
from studio.rooms.learn import text as lesson_text
from studio.rooms.learn.progress import FILE, Notebook, Progress
from studio.workspace import Workspace

FILES = sorted(lesson.FOLDER.glob("*.md"))
HEAD = """---
lesson: 1
title: A test
about: Nothing much.
minutes: 3
model: builtin:tiny-llama
paper: {authors: Nobody, year: 2024, title: Nothing}
recipes:
  half:
    steps: [{prune: {method: magnitude, sparsity: 0.5}}]
---
"""
STEP = """
## First

Some words.

```yaml
room: budget
check: {budget_total: {low: 0.4}}
right: "{total} it is."
```
"""


def looked(text, name="a-test"):
    return lesson.checked(text, Path(f"/nowhere/{name}.md"))


def problem(text):
    found = looked(text)
    assert found.lesson is None
    return str(found.problems[0])


@pytest.mark.quick
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_our_lessons_can_be_taught_and_end_with_their_paper(file):
    taught = lesson.read(file)
    assert taught.steps[-1].check == "" and len(taught.steps) >= 5
    assert taught.head.model == "builtin:tiny-llama" and taught.head.paper.arxiv


@pytest.mark.quick
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_figure_of_the_model_is_typed_into_a_lesson(file):
    """A number with a decimal point in a lesson's words would be a claim that nobody measures."""
    _, _, body = file.read_text().partition("\n---\n")
    words = re.sub(r"```yaml.*?```|\{\{.*?\}\}", "", body, flags=re.DOTALL)
    assert re.findall(r"\d+\.\d+(?! %)", words) == []


@pytest.mark.quick
def test_rooms_that_lessons_may_name_are_the_rooms_of_the_studio():
    assert set(ROOMS) == {name for name, _ in app.ROOMS}


@pytest.mark.quick
def test_a_lesson_is_read_with_its_steps_checks_and_recipes():
    taught = looked(HEAD + STEP).lesson
    assert [(step.title, step.words, step.check) for step in taught.steps] == [("First", "Some words.", "budget_total")]
    assert taught.steps[0].params == {"low": 0.4, "high": 1.0}
    assert taught.recipes["half"].model.source == "builtin:tiny-llama"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("---\nlesson", "lesson", "does not begin with a head"),
        ("title: A test\n", "", "lacks 'title'"),
        ("minutes: 3", "minuets: 3", "unknown key 'minuets'. Did you mean 'minutes'?"),
        ("builtin:tiny-llama", "builtin:tiny-lama", "There is nothing built in called tiny-lama"),
        ("builtin:tiny-llama", "builtin:digits", "which is no model"),
        ("title: A test", "title: [A", "not valid YAML"),
        (
            "method: magnitude",
            "method: magnitud",
            "recipe 'half': There is no score called 'magnitud'. Did you mean 'magnitude'?",
        ),
        ("    steps:", "    model: {source: x}\n    steps:", "recipe 'half' says model"),
        ("room: budget", "room: kitchen", "Line 13, step 1 “First”: There is no room 'kitchen'"),
        ("budget_total: {low", "budget_totl: {low", "no lesson check called 'budget_totl'. Did you mean 'budget_total'?"),
        ("{low: 0.4}", "{low: 4}", "low must lie between 0 and 1, not 4"),
        ("{low: 0.4}", "{lower: 0.4}", "budget_total has no parameter 'lower'"),
        ("{total}", "{sum}", "right says {sum}, which is not told. The check tells: total."),
        ("room: budget", "recipe: whole", "runs 'whole', which is no recipe of this lesson. There are: half."),
        ("room: budget", "ask: {number: How much?}", "looks at what was done and needs no answer"),
        ("room: budget", "ask: {}", "ask needs either number or choose"),
        ("room: budget", "rooom: budget", "The step has an unknown key 'rooom'. Did you mean 'room'?"),
        ("Some words.", "{{figure: half/pruned/perplexity}}", "There is no figure 'half/pruned/perplexity'"),
        ("Some words.", "```yaml\na: 1\n```", "A step has one block"),
        ("budget_total: {low: 0.4}", "figure_near: {}", "The check figure_near needs an answer. Add ask."),
        ("budget_total: {low: 0.4}", "run_measured: {guess: 3}", "The guess of step 3 comes after this one"),
        ("## First", "# First", "The lesson has no step"),
    ],
)
def test_what_is_wrong_with_a_lesson_is_a_sentence(old, new, said):
    assert old in HEAD + STEP
    assert said in problem((HEAD + STEP).replace(old, new, 1))


@pytest.mark.quick
def test_every_broken_step_is_told_and_not_only_the_first():
    text = HEAD + STEP.replace("budget\n", "cellar\n") + STEP + STEP.replace("budget\n", "attic\n")
    assert [re.search(r"step (\d).*'(\w+)'", str(one)).groups() for one in looked(text).problems] == [
        ("1", "cellar"),
        ("3", "attic"),
    ]


@pytest.mark.quick
def test_what_is_no_lesson_is_told_apart(tmp_path):
    (tmp_path / "a.md").write_text("# Notes\n")
    (tmp_path / "b.md").write_text(HEAD + STEP)
    (tmp_path / "c.md").write_bytes(b"---\nlesson: 1\n\xff\xfe")
    assert [lesson.is_lesson(tmp_path / f"{name}.md") for name in "abc"] == [False, True, False]
    assert "cannot be read as a text file" in str(lesson.look(tmp_path / "c.md").problems[0])
    assert "There is no lesson at" in str(lesson.look(tmp_path / "d.md").problems[0])


@pytest.mark.quick
def test_figures_are_read_from_what_was_measured():
    known = {"seen": {"blocks": [{"index": 0, "name": "a", "scores": {"x": 2.0}}, {"index": 1, "name": "b", "scores": {"x": 0.5}}]},
             "half": {"dense": {"perplexity": 50.0}, "pruned": {"perplexity": 75.0}}}  # fmt: skip
    text = "{{figure: half/pruned/perplexity}} is {{figure: half/pruned/perplexity / half/dense/perplexity}} times, {{figure: seen/blocks/least:x/index}} of "
    text += "{{figure: seen/blocks/count}}, {{figure: seen/blocks/a/scores/x | %}}"
    assert lesson_figures.filled(text, known) == "75 is 1.50 times, 1 of 2, 200 %"
    with pytest.raises(LessonError, match="no figure 'half/recovered/perplexity'"):
        lesson_figures.filled("{{figure: half/recovered/perplexity}}", known)
    for figure, said in (("a/one / a/none", "divides by zero"), ("a/endless", "no figure")):
        with pytest.raises(LessonError, match=said):
            lesson_figures.filled(f"{{{{figure: {figure}}}}}", {"a": {"one": 1.0, "none": 0.0, "endless": float("inf")}})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "value"),
    [("57.5", 57.5), (" 57,5 ", 57.5), ("about 1,250", 1250), ("50 %", 50), ("0,085", 0.085), ("-.5", -0.5), ("1e3", 1000)],
)
def test_a_typed_number_is_understood(text, value):
    assert number(text) == value


@pytest.mark.quick
@pytest.mark.parametrize("text", ["", "many", "3 or 4", "1e999", "nan", "5.5.5"])
def test_what_is_no_number_is_a_sentence(text):
    with pytest.raises(LessonError, match="This asks for one number"):
        number(text)


def run(method="wanda", allocation="uniform", pruned=60.0, dense=50.0, removed=0.5, samples=16, healed=None):
    spread = {"method": "by_hand", "shares": {"blocks.0": removed}} if allocation == "by_hand" else allocation
    prune = {"method": method, "allocation": spread} | ({} if allocation == "by_hand" else {"sparsity": removed})
    steps = parse({"recipe": 1, "name": "x", "model": {"source": "m"}, "steps": [{"prune": prune}]}).steps
    report = {"dense": {"perplexity": dense}, "pruned": {"perplexity": pruned}, "recovered": healed and {"perplexity": healed},
              "sparsity": {"pruned_layers": removed}, "protocol": {"perplexity": {"source": "t", "samples": samples, "tokens": 256}}}  # fmt: skip
    return Done("x", steps[0].prune, healed is not None, report)


SIZES, BLOCKS = {"blocks.0.a": 100, "blocks.1.a": 300}, {"blocks.0.a": "blocks.0", "blocks.1.a": "blocks.1"}
CURVES = {"levels": [0, 0.5, 1.0], "cost": {"blocks.0": [0, 1.0, 4.0], "blocks.1": [0, 0.1, 0.4]}, "dense": 10.0}
SEEN = {
    "blocks": [{"index": 0, "name": "blocks.0", "scores": {"x": 3.0}}, {"index": 1, "name": "blocks.1", "scores": {"x": 1.0}}],
    "curves": CURVES,
}


def asked(what, name, share):
    assert (what, name, share) == ("layer", "blocks.0.a", 0.5)
    return {"cut": 0.08}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("check", "params", "scene", "right", "why"),
    [
        ("budget_total", {"low": 0.2, "high": 0.3}, {"shares": {"blocks.0.a": 1.0, "blocks.1.a": 0.0}}, True, "25 %"),
        ("budget_total", {"low": 0.3}, {"shares": {"blocks.0.a": 1.0, "blocks.1.a": 0.0}}, False, "25 %"),
        ("block_share", {"block": "blocks.1", "low": 0.4}, {}, True, "50 %"),
        ("block_share", {"block": "blocks.7"}, {}, False, "has no blocks.7"),
        ("budget_beats_uniform", {}, {"shares": {"blocks.0.a": 0.2, "blocks.1.a": 0.6}}, True, "Predicted for your bars"),
        ("budget_beats_uniform", {}, {}, False, "For equal bars"),
        ("budget_beats_uniform", {}, {"shares": {"blocks.0.a": 0.0, "blocks.1.a": 0.2}}, False, "at least 49 % has to go"),
        ("budget_beats_uniform", {"high": 0.5}, {"shares": {"blocks.0.a": 0.9, "blocks.1.a": 0.9}}, False, "is enough"),
        ("budget_beats_uniform", {}, {"seen": None}, False, "Measure curves"),
        ("budget_predicted", {}, {"answer": "30,04"}, True, ""),  # 10 * exp(1.0 + 0.1)
        ("budget_predicted", {}, {"answer": "40"}, False, "not what stands there"),
        ("prediction", {"low": 1}, {"answer": "0.5"}, False, "between 1 and"),
        ("prediction", {}, {"answer": "60"}, True, ""),
        ("figure_near", {"of": "seen/blocks/1/scores/x", "times": 100}, {"answer": "101"}, True, ""),
        ("figure_near", {"of": "last/pruned/perplexity"}, {"answer": "50"}, False, "no figure"),
        ("figure_near", {"of": "last/pruned/perplexity"}, {"answer": "50", "runs": (run(),)}, False, "too low"),
        ("layer_figure", {"layer": "blocks.0.a"}, {"answer": "0.081"}, True, ""),
        ("layer_figure", {"layer": "blocks.0.a"}, {"answer": "0.2"}, False, "too large"),
        ("block_with", {"score": "x"}, {"answer": "Block 1"}, True, ""),
        ("block_with", {"score": "x"}, {"answer": "Block 0"}, False, "another has less"),
        ("block_with", {"score": "x", "which": "most"}, {"answer": "elsewhere"}, False, "No block is chosen"),
        ("block_with", {"score": "y"}, {"answer": "Block 0"}, False, "X-ray this model"),
        ("run_measured", {"method": "wanda", "low": 0.5, "high": 0.5}, {"runs": (run("magnitude"), run())}, True, ""),
        ("run_measured", {"method": "wanda", "low": 0.6}, {"runs": (run(),)}, False, "No finished run"),
        ("run_measured", {"method": "wanda", "healed": True}, {"runs": (run(), run(healed=55.0))}, True, ""),
        ("run_beats", {"allocation": "by_hand"}, {"runs": (run(pruned=60), run(allocation="by_hand", pruned=58))}, True, "Yours measured 58"),
        ("run_beats", {"allocation": "by_hand"}, {"runs": (run(pruned=60), run(allocation="by_hand", pruned=61))}, False, "the other 60"),
        ("run_beats", {"allocation": "by_hand"}, {"runs": (run(), run(allocation="by_hand", pruned=1, samples=8))}, False, "8 × 256 tokens"),
        ("run_beats", {"allocation": "by_hand"}, {}, False, "There is no wanda run"),
        ("worse_than", {"structure": "unstructured", "method": "wanda"}, {"runs": (run(pruned=900),)}, True, ""),
        ("worse_than", {"structure": "unstructured", "method": "wanda"}, {"runs": (run(),)}, False, "10 times"),
    ],
)  # fmt: skip
def test_a_check_sees_what_was_done(check, params, scene, right, why):
    usual = {"shares": {"blocks.0.a": 0.5, "blocks.1.a": 0.5}, "seen": SEEN, "ask": asked}
    verdict = lesson_checks.judge(check, lesson_checks.settings(check, params), Scene("m", SIZES, BLOCKS, **{**usual, **scene}))
    assert verdict.right is right and why in verdict.why
    assert set(verdict.told) in (set(lesson_checks.tells(check)), set())


@pytest.mark.quick
def test_every_check_is_tried_above_and_tells_what_it_says_it_tells():
    tried = {case[0] for case in test_a_check_sees_what_was_done.pytestmark[0].args[1]}
    assert tried == set(lesson_checks.load())


@pytest.mark.quick
def test_a_run_of_whole_blocks_removed_the_share_of_blocks():
    steps = [{"prune": {"method": "block_influence", "structure": "blocks", "sparsity": 0.17}}]
    prune = parse({"recipe": 1, "name": "x", "model": {"source": "m"}, "steps": steps})
    shares = {"all_parameters": 0.125, "blocks": 1 / 6}
    report = {"dense": {"perplexity": 50.0}, "pruned": {"perplexity": 60.0}, "sparsity": shares}
    assert done("x", prune, report).removed == 1 / 6
    assert done("x", prune, {**report, "pruned": None}) is None


@pytest.mark.quick
def test_a_guess_is_held_against_the_run():
    scene = Scene("m", SIZES, BLOCKS, {}, runs=(run(),), answers={2: "about 80"})
    verdict = lesson_checks.judge("run_measured", lesson_checks.settings("run_measured", {"method": "wanda", "guess": 2}), scene)
    assert verdict.told["said"] == "80" and verdict.told["pruned"] == "60.0"


@pytest.mark.quick
def test_a_curve_of_layers_is_used_as_it_is():
    seen = {"curves": {**CURVES, "cost": {"blocks.0.a": [0, 1.0, 4.0], "blocks.1.a": [0, 0.1, 0.4]}}}
    shares = {"blocks.0.a": 0.5, "blocks.1.a": 0.5}
    layered, whole = (Scene("m", SIZES, BLOCKS, shares, seen=one) for one in (seen, SEEN))
    assert layered.predict(shares) == whole.predict(shares)


@pytest.mark.quick
def test_words_in_braces_become_figures_and_others_stay():
    step = looked(HEAD + STEP).lesson.steps[0]
    assert learning.said(step, Verdict(True, "", {"total": "41 %"})) == "41 % it is."
    assert learning.said(step, Verdict(False, "The bars remove 3 %.", {})) == "The bars remove 3 %."


@pytest.mark.quick
def test_a_step_that_is_not_there_leads_to_one_that_is():
    taught = looked(HEAD + STEP + STEP).lesson
    assert learning.clamp(taught, 2) == (2, "")
    assert learning.clamp(taught, 9) == (2, "This lesson has no step 9; it has 2. Here is step 2.")
    assert learning.clamp(taught, -1)[0] == 1


@pytest.mark.quick
def test_markdown_becomes_plain_pieces_and_the_rest_stays_text():
    found = lesson_text.blocks("One **two**\n*three*\n\n- a `b`\n  c\n- <i>d</i>")
    assert found[0] == {"kind": "p", "spans": [["", "One "], ["b", "two"], ["", " "], ["i", "three"]]}
    assert found[1] == {"kind": "ul", "items": [[["", "a "], ["code", "b"], ["", " c"]], [["", "<i>d</i>"]]]}


@pytest.mark.quick
def test_progress_is_kept_and_a_broken_file_begins_anew(tmp_path):
    notes = Notebook(tmp_path)
    notes.visit("a", 3)
    notes.answer("a", 2, "60" * 500)
    notes.done("a", 2, "Right.")
    assert Notebook(tmp_path).read("a") == Progress(3, {2: "Right."}, {2: "60" * 100})
    assert Notebook(tmp_path).read("b") == Progress()
    (tmp_path / FILE).write_text('{"a": {"at": "x"')
    assert notes.read("a") == Progress() and notes.visit("a", 1).at == 1


@pytest.mark.quick
def test_lessons_of_an_opened_folder_stand_after_ours_and_cannot_take_their_names(tmp_path):
    (tmp_path / "weights.md").write_text(HEAD + STEP)
    (tmp_path / "mine.md").write_text(HEAD + STEP)
    (tmp_path / "broken.md").write_text(HEAD)
    (tmp_path / "notes.md").write_text("# Notes\n")
    found = learning.shelf((tmp_path,))
    assert [one.name for one in found] == ["weights", "blocks", "budget", "mine", "broken"]
    assert found[0].lesson.head.title == "What is a weight worth?"
    with pytest.raises(LessonError, match="no step"):
        learning.find("broken", (tmp_path,))
    with pytest.raises(LessonError, match="There is no lesson called"):
        learning.find("../x", (tmp_path,))


@pytest.mark.quick
def test_the_guide_shows_a_lesson_that_can_be_taught_and_every_check(checkout):
    guide = (checkout / "docs" / "lessons.md").read_text()
    shown = "\n".join(line[4:] for line in guide.split("## The head")[0].split("\n") if line.startswith("    ") or not line)
    assert looked(re.sub(r"\{\{.*?\}\}", "50", shown.strip())).problems == ()
    told = dict(re.findall(r"^\| `(\w+)` \| [^|]*[a-z][^|]* \| ([\w, ]+) \|$", guide.split("| check |")[1], re.MULTILINE))
    assert told == {name: ", ".join(lesson_checks.tells(name)) for name in lesson_checks.load()}


def test_the_command_says_what_is_wrong_and_what_is_right(tmp_path, checkout):
    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "core.lesson.command", *words], cwd=checkout, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "bad.md").write_text((HEAD + STEP).replace("room: budget", "room: kitchen"))
    code, said = call("check", str(lesson.FOLDER / "weights.md"))
    assert code == 0 and "5 tasks" in said
    code, said = call("check", str(tmp_path / "bad.md"))
    assert code == 1 and "There is no room 'kitchen'" in said and "Traceback" not in said
    assert call("check")[0] == 2


@pytest.mark.quick
def test_launch_hands_the_lesson_over():
    assert launch.read_order(["lesson", "check", "a.md"]) == ("lesson", ["check", "a.md"], None)
    with pytest.raises(SystemExit, match="2"):
        launch.read_order(["lesson", "praise", "a.md"])


@pytest.mark.quick
def test_a_lesson_of_a_strangers_model_opens_nothing_and_reads_nothing_unasked(tmp_path):
    text = (
        (HEAD + STEP)
        .replace("builtin:tiny-llama", "/etc/model")
        .replace("    steps:", "    calibration: {source: /etc/passwd}\n    steps:")
    )
    (tmp_path / "mine.md").write_text(text.replace("room: budget", "recipe: half"))
    taught = learning.find("mine", (tmp_path,))
    bench = SimpleNamespace(workspace=Workspace(tmp_path / "w"), runs=tmp_path, folders=(tmp_path,))
    bench.admit = lambda source: jobs.admit(source, bench.folders)
    with pytest.raises(LessonError, match="This lesson is about /etc/model"):
        learning.scene(bench, taught, 1, Notebook(tmp_path)).ask("layer", name="x")
    with pytest.raises(PrunariumError, match="outside the folders"):
        learning.recipe_of(bench, taught, 1)


@pytest.mark.quick
def test_the_run_of_a_lesson_reads_the_very_file_that_was_admitted(tmp_path):
    text = (HEAD + STEP).replace("    steps:", "    calibration: {source: texts/mine.txt}\n    steps:")
    (tmp_path / "mine.md").write_text(text.replace("room: budget", "recipe: half"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "mine.txt").write_text("a")
    bench = SimpleNamespace(workspace=Workspace(tmp_path / "w"), admit=lambda source: jobs.admit(source, (tmp_path,)))
    made = learning.recipe_of(bench, learning.find("mine", (tmp_path,)), 1)
    assert made.calibration.source == str((tmp_path / "texts" / "mine.txt").resolve())
    assert made.model.source == "builtin:tiny-llama" and made.steps[0].prune.sparsity == 0.5


@pytest.mark.quick
def test_a_lesson_that_writes_its_model_short_is_about_the_model_that_was_opened_whole(tmp_path):
    (tmp_path / "mine.md").write_text((HEAD + STEP).replace("builtin:tiny-llama", "models/small"))
    (tmp_path / "models" / "small").mkdir(parents=True)
    taught = learning.find("mine", (tmp_path,))
    space = Workspace(tmp_path / "w")
    bench = SimpleNamespace(workspace=space, runs=tmp_path, admit=lambda source: jobs.admit(source, (tmp_path,)))
    whole = str((tmp_path / "models" / "small").resolve())
    described = {"blocks": [{"name": "blocks.0"}], "layers": [{"name": "blocks.0.mlp", "block": 0, "parameters": 8}]}
    known.remember(whole, described, space.folder)
    assert learning.needs_model(bench, taught) == "This lesson is about models/small, and builtin:tiny-llama is open."
    space.change(model=bench.admit("models/small"))
    space.set_budget({"blocks.0": 0.5})
    assert learning.needs_model(bench, taught) == "" and learning.is_known(bench, taught)
    seen = learning.scene(bench, taught, 1, Notebook(tmp_path))
    assert seen.model == whole and seen.shares == {"blocks.0.mlp": 0.5} and seen.sizes == {"blocks.0.mlp": 8}
