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


def test_runs_of_other_weights_that_lay_at_the_same_place_are_passed_over(tmp_path: Path):
    whole = (
        "recipe: 1\nname: {0}\nmodel: {{source: /models/mine}}\n"
        "steps: [{{prune: {{method: wanda, allocation: {{method: by_hand, shares: {{blocks.1: 0.5}}}}}}}}]\n"
    )

    def ran(name: str, latency_ms: float, **noted: str) -> None:
        (tmp_path / name).mkdir()
        folder.write_json(
            tmp_path / name / folder.REPORT,
            {"dense": {"perplexity": 50.0, "latency_ms": latency_ms}, "pruned": {"perplexity": 60.0}},
        )
        folder.write_json(tmp_path / name / folder.ENVIRONMENT, noted)
        (tmp_path / name / folder.RECIPE).write_text(whole.format(name))

    def shown(weights: str | None) -> set[str]:
        return {trial.run for trial in known.trials("/models/mine", tmp_path, weights=weights)}

    ran("before", 9.0, model_sha256="a")
    assert shown("b") == set() and known.latency("/models/mine", tmp_path, "b") is None
    ran("now", 4.0, model_sha256="b")
    ran("older-version", 7.0)  # noted no hash
    assert shown("b") == {"now", "older-version"} and shown("a") == {"before", "older-version"}
    assert shown(None) == {"before", "now", "older-version"}
    assert known.latency("/models/mine", tmp_path, "b")[0] in (4.0, 7.0)


def test_a_look_of_its_own_says_more_than_a_run_of_curves_and_curves_are_found_by_structure(tmp_path):
    source = "builtin:tiny-llama"
    demo = known.observations(source, tmp_path).data

    def ran(name, **told):
        (tmp_path / name).mkdir()
        (tmp_path / name / folder.RECIPE).write_text(f"recipe: 1\nname: {name}\nmodel: {{source: {source}}}\nobserve: {{}}\n")
        folder.write_json(tmp_path / name / folder.OBSERVATIONS, {**demo, **told})

    ran("of-neurons", ablation=None, curves={**demo["curves"], "structure": "neurons"})
    assert known.observations(source, tmp_path).badge == "precomputed demo"  # with more scores, of a longer text
    assert known.observations(source, tmp_path, curves=True).badge == "precomputed demo"
    assert known.observations(source, tmp_path, curves=True, of="neurons").run == "of-neurons"
    assert known.observations(source, tmp_path, curves=True, of=known.EVERYTHING).run == "of-neurons"
    assert known.observations(source, tmp_path, curves=True, of="heads") is None
    ran("a-look", curves=None)
    assert known.observations(source, tmp_path).run == "a-look"
