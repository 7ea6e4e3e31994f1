"""The plan of the room for pruning as it was left: field by field, and only what still means something."""

import pytest

from studio.rooms.prune import kept

pytestmark = pytest.mark.quick
MODEL = "builtin:tiny-llama"
PLAN = {"method": "wanda", "structure": "2:4", "target": "share", "sparsity": 35, "allocation": "uniform", "samples": 9,
        "keep_n": 2, "of_m": 4, "only": [], "protect": [], "params": {}, "heal": {}, "spread": {"owl": {"outlier": 7.0}}}  # fmt: skip


def test_of_two_tabs_neither_loses_what_the_other_set_and_models_keep_their_own(tmp_path):
    kept.keep(tmp_path, MODEL, {"sparsity": 35, "seed": 1})
    kept.keep(tmp_path, MODEL, {"samples": 9})
    kept.keep(tmp_path, MODEL, {"seed": 2})
    kept.keep(tmp_path, "builtin:tiny-cnn", {"sparsity": 80})
    assert kept.read(tmp_path, MODEL) == {"sparsity": 35, "seed": 2, "samples": 9}
    assert kept.read(tmp_path, "builtin:tiny-cnn") == {"sparsity": 80}
    kept.keep(tmp_path, MODEL, {"prompt": "x" * 30_000})
    assert "prompt" not in kept.read(tmp_path, MODEL)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({"method": "gone"}, {"method": None, "structure": None}),
        ({"method": "slicegpt"}, {"method": "slicegpt", "structure": "slices"}),
        ({"structure": "nothing"}, {"structure": "unstructured"}),
        ({"target": "latency"}, {"target": "share"}),  # no cost falls with 2:4 alone
        ({"allocation": "gone"}, {"allocation": "uniform"}),
        ({"sparsity": "35"}, {"sparsity": None}),
        ({"sparsity": 350}, {"sparsity": None}),
        ({"samples": None}, {"samples": None}),
        ({"spread": {"owl": {"outlier": "7", "other": 1}, "gone": {"x": 1}}}, {"spread": {"owl": {}}}),
        ({"params": "none"}, {"params": {}}),
        ({"structure": "N:M", "keep_n": 3, "of_m": 8.5}, {"structure": "N:M", "keep_n": 3, "of_m": None}),
        ({"only": ["blocks.1"], "protect": "blocks.2"}, {"only": ["blocks.1"], "protect": None}),
        ({"heal": {"lora": {"rank": 3, "gone": 1}, "nobody": {"rank": 1}}}, {"heal": {"lora": {"rank": 3}}}),
    ],
)
def test_what_means_nothing_any_more_is_left_out(changed, expected):
    found = kept.fitting({**PLAN, **changed, "unheard": 1})
    assert {name: found.get(name) for name in PLAN} == {**PLAN, **expected}
    assert "unheard" not in found


def test_a_broken_file_is_no_plan(tmp_path):
    kept.keep(tmp_path, MODEL, PLAN)
    file = next((tmp_path / kept.PLANS).iterdir())
    file.write_text('{"method": "wan')
    assert kept.read(tmp_path, MODEL) == {}
    file.write_text("[1, 2]")
    assert kept.read(tmp_path, MODEL) == {}
