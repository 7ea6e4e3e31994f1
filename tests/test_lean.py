"""A model larger than memory is pruned block by block, straight from its file, and gives what it gives where it fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import folder
from core.errors import ModelError
from core.events import Silent
from core.model import blocks
from core.model.loading import load
from core.model.measuring.counts import counts
from core.model.measuring.lean import counts_of
from core.model.measuring.measure import perplexity
from tests import tiny_models

RECIPE = """
recipe: 1
name: lean
model: {{source: {model}}}
calibration: {{source: {text}, samples: 4, tokens: 64}}
steps: [{{prune: {{method: {method}, sparsity: 0.5{more}}}}}]
measure: {{perplexity: {{source: {text}, samples: 2, tokens: 64}}}}
save: {{model: true}}
"""
_PEAK = """
import sys, psutil
from core.run import main
main([sys.argv[1], "--out", sys.argv[3] + "-imports"])  # of a model of a few kilobytes: all imports are made
before = psutil.Process().memory_info().rss
code = main([sys.argv[2], "--out", sys.argv[3]])
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024  # ru_maxrss remembers the parent's
sys.stderr.write(f"{code} {peak - before}")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model of sixteen blocks in float32, 190 MB, and a text."""
    path = tmp_path_factory.mktemp("lean")
    model = tiny_models.llama(16, hidden_size=512, intermediate_size=1408, num_attention_heads=8, num_key_value_heads=4)
    model.save_pretrained(path / "model")
    tiny_models.llama(2).save_pretrained(path / "small")
    for name in ("model", "small"):
        tiny_models.tokenizer().save_pretrained(path / name)
    (path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


def run(place: Path, out: Path, method: str, limit_gb: str | None, more: str = "") -> tuple[int, int]:
    """(exit code, bytes above the imports at the peak)."""
    recipes = {name: out.with_suffix(f".{name}.yaml") for name in ("small", "model")}
    for name, file in recipes.items():
        file.write_text(RECIPE.format(model=place / name, text=place / "text.txt", method=method, more=more))
    around = {**os.environ} | ({"PRUNARIUM_MEMORY_GB": limit_gb} if limit_gb else {})
    command = [sys.executable, "-c", _PEAK, *map(str, recipes.values()), str(out)]
    said = subprocess.run(command, capture_output=True, text=True, env=around, check=True)
    log = (out / folder.LOG).read_text()
    code, peak = log.split()[-2:]
    assert code == "0", log + said.stderr
    return int(code), int(peak)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of resident memory is read from Linux's /proc")
@pytest.mark.parametrize(("method", "more", "share"), [("wanda", "", 0.5), ("magnitude", ", allocation: global", 0.75)])
def test_told_of_too_little_memory_a_model_is_pruned_as_where_it_fits_in_that_share_of_its_bytes(
    method, more, share, place, tmp_path
):
    from transformers import AutoModelForCausalLM

    size = sum(file.stat().st_size for file in (place / "model").glob("*.safetensors"))
    _, whole = run(place, tmp_path / "whole", method, None, more)
    _, lean = run(place, tmp_path / "lean", method, f"{0.6 * size / 1e9}", more)
    assert whole > size and lean <= share * size, f"{whole / size:.2f} and {lean / size:.2f} of the model's bytes"
    reports = [folder.read_json(tmp_path / name / folder.REPORT) for name in ("whole", "lean")]
    for moment in ("dense", "pruned"):
        figures = [report[moment] for report in reports]
        assert figures[1]["perplexity"] == pytest.approx(figures[0]["perplexity"], rel=1e-5)
        assert all(figures[0][name] == figures[1][name] for name in ("parameters", "nonzero"))
    masks = [load_file(tmp_path / name / folder.MASK) for name in ("whole", "lean")]
    agree = [float((masks[0][name] == masks[1][name]).float().mean()) for name in masks[0]]
    assert masks[0].keys() == masks[1].keys() and min(agree) > 0.999
    assert not (tmp_path / "lean" / folder.CHANGED).exists()
    shards = sorted(path.name for path in (tmp_path / "lean" / folder.MODEL).glob("*.safetensors"))
    assert len(shards) == 17 and shards[0] == "model-00001-of-00017.safetensors"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lean" / folder.MODEL)  # what was saved shard by shard loads anywhere
    assert all(torch.count_nonzero(model.get_parameter(name)[~kept]) == 0 for name, kept in masks[1].items())
    assert counts(model).nonzero == reports[1]["pruned"]["nonzero"]
    assert json.loads((tmp_path / "lean" / folder.MODEL / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.quick
def test_a_lazy_model_counts_and_measures_as_a_whole_one(tmp_path):
    tiny_models.llama(3).save_pretrained(tmp_path)
    whole, lazy = load(str(tmp_path)), load(str(tmp_path), lazy=True)
    ids = torch.randint(0, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    assert (counts_of(lazy).parameters, counts_of(lazy).nonzero) == (counts_of(whole).parameters, counts_of(whole).nonzero)
    assert perplexity(lazy, ids, Silent()) == pytest.approx(perplexity(whole, ids, Silent()), rel=1e-6)
    assert len(blocks.arguments(lazy, ids)) == 3
    assert all(parameter.is_meta for parameter in lazy.model.parameters()), "nothing stays in memory"


@pytest.mark.quick
def test_what_needs_the_whole_model_says_so(tmp_path):
    from core.model.measuring.measure import prepare
    from core.recipe import Measure

    tiny_models.llama(2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="still in its file"):
        prepare(load(str(tmp_path), lazy=True), Measure.model_validate({"latency": {}}))


@pytest.mark.quick
def test_a_model_without_an_mlp_saved_block_by_block_is_still_refused_by_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    from core.model.files import export
    from core.model.loading import from_module
    from core.model.pruning.step import prune
    from core.recipe import Prune

    loaded = from_module(tiny_models.llama(3), "tiny")
    by_hand = {"method": "by_hand", "shares": {"blocks.1.mlp": 1.0}}
    loaded = prune(loaded, Prune(method="random", structure="sublayers", allocation=by_hand), lambda: None, 0, Silent()).loaded
    export.save(loaded, tmp_path / "whole")
    saved = export.save(load(str(tmp_path / "whole"), lazy=True), tmp_path / "lean")
    assert saved["loads_with"] == "Prunarium"
    with pytest.raises(RuntimeError, match=r"shape|size"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "lean")


@pytest.mark.quick
def test_a_disk_that_refuses_a_changed_block_is_said_in_a_sentence(tmp_path):
    code = """
import resource, signal, sys
sys.path.insert(0, ".")
from pathlib import Path
from core.model.loading import load
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
loaded = load(sys.argv[1], lazy=True)
loaded.beside = Path(sys.argv[2])
with loaded.block(0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        loaded.changed(0)
    except Exception as error:
        print(type(error).__name__, error)
"""
    tiny_models.llama(2).save_pretrained(tmp_path / "model")
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "b")], capture_output=True, text=True
    )
    assert out.stdout.startswith("ResourceError"), out.stdout + out.stderr
