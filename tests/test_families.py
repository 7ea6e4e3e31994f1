"""docs/families.md says what is so: three of its rows are tried again here; `python -m tests.families` tries all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.events import Silent
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.recipe import Prune
from tests import families

TEXT = families.FILE.read_text(encoding="utf-8")


@pytest.mark.quick
@pytest.mark.parametrize("family", ["Qwen2", "Swin", "Mamba"])
def test_a_row_of_the_table_is_what_trying_it_finds(family):
    cells = families.row(family)
    assert families.line(family, cells) in TEXT.splitlines(), "run: python -m tests.families"
    for cell in cells.values():
        assert cell.works or cell.reason.replace(families.FAMILIES[family][0], "the model") in TEXT


@pytest.mark.quick
def test_the_table_has_a_row_for_every_family_and_no_fault():
    rows = [line.split(" | ")[0].removeprefix("| ") for line in TEXT.splitlines() if line.startswith("| ")]
    assert [name for name in rows if name in families.FAMILIES] == list(families.FAMILIES) and "FAULT" not in TEXT


@pytest.mark.quick
def test_a_cell_that_was_not_tried_in_earnest_would_be_a_fault(monkeypatch):
    """What is loaded again is compared, and a refusal that has changed weights is seen."""

    def other(folder: str, **_):
        loaded = load(folder)
        loaded.model.lm_head.weight.data += 1
        return loaded

    monkeypatch.setattr(families, "load", other)
    assert families.tried("Mistral", "weights").reason.startswith("FAULT: loaded again it differs")
    monkeypatch.setattr(families, "load", load)

    def half(loaded, *given):
        loaded.model.model.embed_tokens.weight.data += 1
        return prune(from_module(nn.Linear(2, 2), "x"), *given)

    monkeypatch.setattr(families, "prune", half)
    assert families.tried("Mistral", "blocks").reason.startswith("FAULT: refused, but changed")


@pytest.mark.quick
def test_a_mixer_s_layers_that_can_be_seen_are_pruned_by_activations():
    model = families.build("Mamba")
    given = families.inputs(model)
    step = Prune(method="wanda", sparsity=0.5, protect=("*.conv1d", "*.dt_proj"))
    done = prune(from_module(model, "x"), step, lambda: given, 0, Silent())
    assert {path.rpartition(".")[2] for path in done.masks} == {"in_proj", "x_proj", "out_proj"}
    assert float((model.backbone.layers[0].mixer.in_proj.weight == 0).float().mean()) == pytest.approx(0.5)


@pytest.mark.quick
def test_infinity_in_a_config_is_read_as_transformers_writes_it(tmp_path):
    families.build("Mamba-2").save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert load(str(tmp_path)).model.config.time_step_limit[1] == torch.inf
