"""`core.supervise` as the command line and the studio use it: real runs of a small recipe, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core import folder, summary

RECIPE = """recipe: 1
name: keep half
data: {source: builtin:digits}
select: {method: random, keep: 0.5}
"""
LONG = RECIPE + "prove: {seeds: 100, shares: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]}\n"


def supervise(checkout: Path, *words: str, **more: str) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1", **more}
    return [sys.executable, "-m", "core.supervise", *words], environment


def call(checkout: Path, where: Path, recipe: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    (where / "recipe.yaml").write_text(recipe)
    command, environment = supervise(checkout, "recipe.yaml", *words, **more)
    return subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def test_a_run_says_its_stages_on_standard_error_and_its_report_in_one_line_of_json(checkout: Path, tmp_path: Path):
    done = call(checkout, tmp_path, RECIPE, "--json", "--out", "here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == folder.read_json(tmp_path / "here/report.json")
    assert "select" in done.stderr and "\r" not in done.stderr
    assert folder.status(tmp_path / "here").state == "done"


def test_without_out_a_run_goes_to_a_folder_of_its_name_and_is_never_overwritten(checkout: Path, tmp_path: Path):
    done = call(checkout, tmp_path, RECIPE, "--runs", "all")
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "all").iterdir()
    assert out.name.startswith("keep-half-")
    assert "rows (50.0%)" in done.stdout and done.stdout.strip().endswith(f"all/{out.name}")
    again = call(checkout, tmp_path, RECIPE, "--out", f"all/{out.name}")
    assert again.returncode == 1 and "already holds a run" in again.stderr and again.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (RECIPE.replace("keep: 0.5", "keep: 1.3"), "less than or equal to 1"),
        (RECIPE.replace("random", "randon"), "random"),
        (RECIPE + "colour: red\n", "unknown key 'colour'"),
    ],
    ids=["value", "method", "key"],
)
def test_what_is_wrong_in_a_recipe_is_one_sentence_and_exit_1(checkout: Path, tmp_path: Path, recipe: str, sentence: str):
    done = call(checkout, tmp_path, recipe, "--json")
    assert done.returncode == 1 and done.stdout == ""
    assert sentence in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


@pytest.mark.parametrize("ending", ["SIGINT", "SIGHUP"])  # Ctrl-C; a terminal that closes
def test_what_ends_the_terminals_program_stops_the_run_in_order_and_exits_130(checkout: Path, tmp_path: Path, ending: str):
    (tmp_path / "recipe.yaml").write_text(LONG)
    command, environment = supervise(checkout, "recipe.yaml", "--out", "out")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert any(line.startswith("prove") for line in child.stderr)
        child.send_signal(getattr(signal, ending))
        rest = child.stderr.read()
    assert child.returncode == 130
    assert "Stopped. What was finished is in out" in rest and "Traceback" not in rest
    assert folder.status(tmp_path / "out").state == "stopped" and not folder.is_held(tmp_path / "out")
    assert (tmp_path / "out/selection.parquet").exists() or (tmp_path / "out/recipe.yaml").exists()


def test_a_spare_without_an_order_ends_quietly(checkout: Path, tmp_path: Path):
    command, environment = supervise(checkout, "--wait")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, input=b"", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []


GIVE_AND_DIE = """
import json, os, signal, subprocess, sys
spare = subprocess.Popen([sys.executable, "-m", "core.supervise", "--wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
spare.stdin.write((json.dumps({"recipe": sys.argv[1], "out": sys.argv[2]}) + "\\n").encode())
spare.stdin.flush()
print(spare.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_order_is_carried_out_though_whoever_gave_it_dies(checkout: Path, tmp_path: Path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    _, environment = supervise(checkout)
    giver = [sys.executable, "-c", GIVE_AND_DIE, str(recipe), str(out)]
    died = subprocess.run(giver, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, start_new_session=True, check=False)
    assert died.returncode == -signal.SIGKILL
    try:
        psutil.Process(int(died.stdout)).wait(timeout=120)
    except psutil.NoSuchProcess:
        assert out.exists()  # it was quick
    assert folder.status(out).state == "done"


@pytest.mark.quick
def test_the_table_shows_what_was_measured_and_nothing_else():
    report = {
        "dense": {"perplexity": 31.5, "nonzero": 1000, "size_bytes": None},
        "pruned": {"perplexity": 63.7, "nonzero": 500, "size_bytes": None},
        "recovered": None,
        "sparsity": {"pruned_layers": 0.5},
        "prove": [
            {"share": 0.3, "selector": "random", "seed": 0, "accuracy": 0.9},
            {"share": 0.3, "selector": "random", "seed": 1, "accuracy": 0.8},
        ],
        "seconds": {"load": 1.25},
        "peak_rss_mb": 1234.4,
    }
    assert summary.text(report) == (
        "                       dense  pruned\n"
        "perplexity             31.50   63.70\n"
        "non-zero               1,000     500\n"
        "zeros (pruned layers)         50.00%\n"
        "\n"
        "share  selector  accuracy  seeds\n"
        "30%      random    85.00%      2\n"
        "\n"
        "load 1.2 s; peak memory 1,234 MB"
    )
