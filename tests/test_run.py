"""Runs from start to end, as the command line and the page start them: on the built-in models, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from core import folder
from core.errors import PrunariumError
from core.recipe import from_yaml, parse, read, to_dict, to_yaml
from core.run import run

SMALL = """
recipe: 1
name: small
model: {source: builtin:tiny-llama}
calibration: {source: builtin:wikitext2/train, samples: 8, tokens: 64}
steps:
  - prune: {method: wanda, sparsity: 0.5}
  - recover: {method: lora, steps: 3, batch: 2, tokens: 32}
measure:
  perplexity: {source: builtin:wikitext2/test, samples: 2, tokens: 64}
  latency: {batch: 1, tokens: 16, repeats: 3}
  generate: ["The"]
save: {model: true}
"""


def start(recipe: str, tmp_path: Path, *more: str, name: str = "run", **options):
    file = tmp_path / f"{name}.yaml"
    file.write_text(recipe)
    command = [sys.executable, "-m", "core.supervise", str(file), "--out", str(tmp_path / name), *more]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One finished run, looked at by several tests."""
    tmp_path = tmp_path_factory.mktemp("done")
    process = start(SMALL, tmp_path, "--json")
    assert process.returncode == 0, process.stderr
    return tmp_path / "run", process


def test_the_last_line_with_json_is_the_report_and_nothing_else_is_printed(done):
    path, process = done
    assert len(process.stdout.strip().splitlines()) == 1
    assert json.loads(process.stdout) == folder.read_json(path / folder.REPORT)


def test_a_run_leaves_every_artefact_and_a_report_that_adds_up(done):
    path, _ = done
    report = folder.read_json(path / folder.REPORT)
    assert report["dense"]["perplexity"] < report["pruned"]["perplexity"]
    assert report["recovered"]["nonzero"] == report["pruned"]["nonzero"] < report["dense"]["nonzero"]
    assert report["sparsity"]["pruned_layers"] == pytest.approx(0.5)
    assert report["dense"]["latency_ms"] > 0 and len(report["dense"]["samples"]) == 1
    assert [step["kind"] for step in report["steps"]] == ["prune", "recover"] and len(report["steps"][1]["losses"]) == 3
    assert report["protocol"]["perplexity"]["samples"] == 2
    masks = load_file(path / folder.MASK)
    assert sum(int((~keep).sum()) for keep in masks.values()) == sum(
        round(r["sparsity"] * r["parameters"]) for r in report["layers"]
    )
    assert set(pd.read_parquet(path / folder.LAYERS)["name"]) == {row["name"] for row in report["layers"]}
    environment = folder.read_json(path / folder.ENVIRONMENT)
    assert environment["versions"]["torch"] and len(environment["model_sha256"]) == 64
    assert folder.status(path).state == "done"


def test_the_saved_model_loads_with_from_pretrained_and_has_the_masks_zeros(done):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, _ = done
    model = AutoModelForCausalLM.from_pretrained(path / folder.MODEL)
    weights = dict(model.named_parameters())
    for name, keep in load_file(path / folder.MASK).items():
        assert torch.count_nonzero(weights[name][~keep]) == 0, name
    assert AutoTokenizer.from_pretrained(path / folder.MODEL)("The")["input_ids"]


def test_replaying_the_resolved_recipe_in_another_process_gives_the_same_mask_bit_for_bit(done, tmp_path):
    path, _ = done
    threads = torch.get_num_threads()
    torch.set_num_threads(folder.read_json(path / folder.ENVIRONMENT)["threads"])  # sums fall apart otherwise
    try:
        run(read(path / folder.RECIPE), tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "run" / folder.MASK).read_bytes() == (path / folder.MASK).read_bytes()
    assert (tmp_path / "run" / folder.SCORES).read_bytes() == (path / folder.SCORES).read_bytes()
    first, second = folder.read_json(path / folder.REPORT), folder.read_json(tmp_path / "run" / folder.REPORT)
    assert first["recovered"]["perplexity"] == second["recovered"]["perplexity"]


MOST = {"samples": 8, "tokens": 64, "rows": 100, "seeds": 1, "population": 4, "generations": 1, "repeats": 3, "steps": 4}


def smaller(value, most=MOST):
    """A recipe's mapping with less of what only takes longer: every step, method and key of it is run, on fewer sequences, rows, seeds and generations."""
    if isinstance(value, dict):
        least = {key: most[key] for key, at in value.items() if key in most and type(at) is int and at > most[key]}
        inside = {key: smaller(at, most | {"rows": 40} if key == "damage" else most) for key, at in value.items()}
        return inside | least
    return [smaller(at, most) for at in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent.parent / "assets" / "recipes").glob("*.yaml")), ids=lambda f: f.stem
)
def test_each_example_recipe_runs(file, tmp_path):
    recipe = read(file)
    assert from_yaml(to_yaml(recipe)) == recipe
    recipe = parse(smaller(to_dict(recipe, full=True)))
    run(recipe, tmp_path / "run")  # in this process: thirty times the imports of a new one would be minutes
    report = folder.read_json(tmp_path / "run" / folder.REPORT)
    assert report["name"] == recipe.name and report["seconds"]
    if recipe.observe:
        seen = folder.read_json(tmp_path / "run" / folder.OBSERVATIONS)
        assert len(seen["blocks"]) == len(seen["similarity"]["values"]) - 1
        assert (
            set(seen["curves"]["cost"]) == {layer["name"] for layer in seen["layers"]}
            and len(seen["curves"]["measured"]["together"]) == recipe.observe.curves.together
        )
    if any(step.prune and step.prune.structure in ("blocks", "neurons", "heads", "channels", "experts") for step in recipe.steps):
        assert report["pruned"]["parameters"] < report["dense"]["parameters"]
        assert report["pruned"]["size_bytes"] < report["dense"]["size_bytes"]


def wrong(change: tuple[str, str], tmp_path: Path) -> str:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("two words")
    return SMALL.replace(*change).replace("EMPTY", str(tmp_path / "empty.txt")).replace("SHORT", str(tmp_path / "short.txt"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("sparsity: 0.5", "sparsity: 1.3"), "less than or equal to 1"),
        (("measure:", "mesure:"), "Did you mean 'measure'?"),
        (("method: wanda", "method: wand"), "Did you mean 'wanda'?"),
        (("sparsity: 0.5", "sparsity: 0.5, params: {powr: 2.0}"), "Did you mean 'power'?"),
        (("sparsity: 0.5", "sparsity: 0.5, params: {power: 9.0}"), "between 0 and 2"),
        (("builtin:tiny-llama", "builtin:tiny-lama"), "tiny-llama"),
        (("method: lora", "method: lora, learning_rate: 7"), "less than or equal to 1"),
    ],
)
def test_what_a_recipe_gets_wrong_ends_in_one_sentence_and_exit_1(change, says, tmp_path):
    process = start(wrong(change, tmp_path), tmp_path)
    assert process.returncode == 1, process.stdout + process.stderr
    assert says in process.stderr and "Traceback" not in process.stderr + process.stdout
    assert not (tmp_path / "run" / folder.REPORT).exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("sparsity: 0.5", "sparsity: 0.5, only: [blocks.99]"), "'blocks.99'"),
        (("builtin:tiny-llama", "/no/such/folder"), "/no/such/folder"),
        (("source: builtin:wikitext2/train", "source: EMPTY"), "empty"),
        (("source: builtin:wikitext2/train", "source: SHORT"), "64"),
    ],
)
def test_what_does_not_fit_the_model_or_the_text_ends_in_one_sentence_in_the_folder(change, says, tmp_path):
    with pytest.raises(PrunariumError):
        run(from_yaml(wrong(change, tmp_path)), tmp_path / "run")
    status = folder.status(tmp_path / "run")
    assert status.state == "failed" and says in status.problem + status.remedy and status.remedy
    assert not (tmp_path / "run" / folder.REPORT).exists()


def wait_for_stage(path: Path, stage: str, process: subprocess.Popen) -> None:
    while process.poll() is None:
        if any(stage in event["stage"] for event in folder.read_events(path)[0]):
            return
        time.sleep(0.02)
    raise AssertionError(f"the run ended before {stage}: {process.stderr.read()}")


LONG = SMALL.replace("steps: 3", "steps: 5000")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_run_cut_in_the_middle_says_so_and_keeps_what_it_wrote(how, tmp_path):
    (tmp_path / "long.yaml").write_text(LONG)
    path = tmp_path / "long"
    command = [sys.executable, "-m", "core.supervise", str(tmp_path / "long.yaml"), "--out", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_stage(path, "recover", process)
    if how == "stop":
        folder.ask_stop(path)
    else:
        import psutil

        (child,) = [c for c in psutil.Process(process.pid).children(recursive=True) if "core.run" in " ".join(c.cmdline())]
        os.kill(child.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    status = folder.status(path)
    assert status.state == ("stopped" if how == "stop" else "failed")
    assert status.remedy and "Traceback" not in said
    assert process.returncode == 1
    assert (path / folder.RECIPE).exists() and not (path / folder.REPORT).exists()
    assert len(folder.read_events(path)[0]) > 5


def test_another_run_is_refused_in_a_folder_that_holds_one(done, tmp_path):
    path, _ = done
    (tmp_path / "x.yaml").write_text(SMALL)
    command = [sys.executable, "-m", "core.supervise", str(tmp_path / "x.yaml"), "--out", str(path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1 and "already holds a run" in process.stderr
    assert folder.status(path).state == "done"
