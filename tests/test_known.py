"""What the screen reads from run folders while they are being written."""

from __future__ import annotations

from pathlib import Path

from core import folder
from core.recipe import from_yaml
from studio import known


def test_a_run_seen_before_its_recipe_was_there_is_known_once_it_is(tmp_path: Path):
    run = tmp_path / "early"
    run.mkdir()
    folder.write_json(run / folder.REPORT, {"dense": {"perplexity": 50.0}, "pruned": {"perplexity": 60.0}})
    assert known.trials("builtin:tiny-llama", tmp_path) == []
    (run / folder.RECIPE).write_text("recipe: 1\nname: half wri")
    assert known.trials("builtin:tiny-llama", tmp_path) == []
    whole = (
        "recipe: 1\nname: early\nmodel:\n  source: builtin:tiny-llama\nsteps:\n- prune:\n    method: wanda\n"
        "    allocation:\n      method: by_hand\n      shares:\n        blocks.1: 0.5\n"
    )
    from_yaml(whole)  # it is a recipe
    (run / folder.RECIPE).write_text(whole)
    (found,) = known.trials("builtin:tiny-llama", tmp_path)
    assert found.shares == {"blocks.1": 0.5} and found.by_hand
