"""What every learned mask holds to: better than chance, the same bits for a seed, exact totals, the model whole after whatever went wrong."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from core.errors import ModelError, RecipeError, ResourceError, Stopped
from core.events import Silent
from core.model.inputs.texts import Texts
from core.model.learned.pruning import check_learnable
from core.model.loading import from_module
from tests import tiny_models
from tests.oracle.learned import IDS, course, plain_loss, run


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure", "share", "params"),
    [
        ("movement", "unstructured", 0.5, {"steps": 40, "weight_rate": 0.0}),
        ("movement", "neurons", 0.5, {"steps": 40, "weight_rate": 0.0}),
        ("movement", "tiles:8", 0.5, {"steps": 40, "weight_rate": 0.0}),
        ("hard_concrete", "neurons", 0.5, {"steps": 60}),
        ("hard_concrete", "heads", 0.5, {"steps": 60}),
        ("bonsai", "neurons", 0.5, {"sub_models": 16, "a_round": 0.1}),
        ("icbs", "unstructured", 0.7, {"start": "magnitude", "rounds": 4}),
    ],
)
def test_a_learned_mask_loses_less_than_random_ones_of_the_same_share(trained, method, structure, share, params):
    done = run(copy.deepcopy(trained), method=method, structure=structure, sparsity=share, params=params)
    one = course(copy.deepcopy(trained), structure=structure, sparsity=share)
    lots = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        keep = one.decide({name: torch.rand(shape, generator=generator) for name, shape in one.shapes.items()})
        lots.append(one.loss({name: kept.float() for name, kept in keep.items()}))
    assert done.said["loss_after"] < (min(lots) if structure != "heads" else sum(lots) / 3 + 1e-6)
    left = done.loaded.model
    with torch.no_grad():  # the masks are no estimate: the model that is left has that very loss
        assert float(plain_loss(left)) == pytest.approx(done.said["loss_after"], rel=1e-4)


@pytest.mark.quick
def test_icbs_lowers_the_loss_of_its_first_mask_round_by_round(trained):
    first = run(copy.deepcopy(trained), method="magnitude", sparsity=0.7).loaded.model
    done = run(copy.deepcopy(trained), method="icbs", sparsity=0.7, params={"start": "magnitude", "rounds": 4})
    with torch.no_grad():
        before = float(plain_loss(first))
    losses = done.said["losses"]
    assert done.said["loss_after"] == pytest.approx(losses[-1], rel=1e-4)
    assert losses == sorted(losses, reverse=True) and done.said["loss_after"] < before - 0.1


@pytest.mark.quick
def test_training_the_weights_lowers_the_loss_and_leaves_zeros_where_they_were(trained):
    model = copy.deepcopy(trained)
    zeros = tiny_models.halved(model, ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"])
    frozen, moving = (copy.deepcopy(model) for _ in range(2))
    losses = {}
    for name, rate, one in (("frozen", 0.0, frozen), ("moving", 0.003, moving)):
        done = run(one, method="movement", structure="neurons", sparsity=0.5, params={"steps": 40, "weight_rate": rate})
        losses[name] = done.said["loss_after"]
    assert losses["moving"] < losses["frozen"] - 0.1
    left = done.cuts[0].keep
    assert (moving.model.layers[0].mlp.up_proj.weight[~zeros["model.layers.0.mlp.up_proj"][left]] == 0).all()
    assert not any(
        module.weight._post_accumulate_grad_hooks for module in moving.modules() if isinstance(module, torch.nn.Linear)
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure"),
    [("movement", "unstructured"), ("hard_concrete", "neurons"), ("bonsai", "neurons"), ("icbs", "unstructured")],
)
def test_the_same_seed_gives_the_same_bits_and_another_another(trained, method, structure):
    params = {
        "movement": {"steps": 6},
        "hard_concrete": {"steps": 12},
        "bonsai": {"sub_models": 6, "a_round": 0.25},
        "icbs": {"rounds": 4, "block": 32, "samples": 3},
    }[method]
    found = []
    for seed in (0, 0, 7):
        model = copy.deepcopy(trained)
        run(model, seed=seed, method=method, structure=structure, sparsity=0.7, params=params)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_units_that_go_are_gone_and_the_model_loads_with_transformers_alone(trained, structure, tmp_path):
    model = copy.deepcopy(trained)
    done = run(model, method="movement", structure=structure, sparsity=0.5, params={"steps": 4})
    assert all(row.sparsity == 0.5 for row in done.rows)
    assert model.config.intermediate_size == (24 if structure == "neurons" else 48)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in trained.parameters())


@pytest.mark.quick
@pytest.mark.parametrize("method", ["movement", "hard_concrete", "bonsai"])
def test_one_ranking_over_all_blocks_meets_the_total_and_leaves_a_unit_in_each(trained, method):
    params = {"sub_models": 6, "a_round": 0.25} if method == "bonsai" else {"steps": 10}
    done = run(
        copy.deepcopy(trained), method=method, structure="neurons", sparsity=0.5, allocation={"method": "global"}, params=params
    )
    assert sum(int((~cut.keep).sum()) for cut in done.cuts) == 48
    assert all(cut.keep.any() for cut in done.cuts)


@pytest.mark.quick
def test_a_budget_by_hand_and_only_and_n_of_m_are_kept_to(trained):
    shares = {"blocks.0": 0.25, "blocks.1.mlp.down_proj": 0.75}
    done = run(copy.deepcopy(trained), method="movement", allocation={"method": "by_hand", "shares": shares}, params={"steps": 3})
    reached = {row.name: row.sparsity for row in done.rows}
    assert (
        reached["blocks.0.mlp.up_proj"] == 0.25
        and reached["blocks.1.mlp.down_proj"] == 0.75
        and reached["blocks.1.mlp.up_proj"] == 0
    )
    done = run(copy.deepcopy(trained), method="movement", structure="2:4", only=("blocks.1.mlp",), params={"steps": 3})
    assert [row.name for row in done.rows] == [f"blocks.1.mlp.{part}_proj" for part in ("gate", "up", "down")]
    for mask in done.masks.values():
        assert (mask.unpack().reshape(mask.shape[0], -1, 4).sum(2) == 2).all()


@pytest.mark.quick
@pytest.mark.parametrize("method", ["movement", "bonsai", "hard_concrete", "icbs"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything_can_be_asked_for(trained, method, share):
    units = method in ("bonsai", "hard_concrete")
    params = {
        "movement": {"steps": 2, "weight_rate": 0.0},
        "bonsai": {"sub_models": 2, "a_round": 1.0},
        "hard_concrete": {"steps": 2},
        "icbs": {"rounds": 1},
    }
    model = copy.deepcopy(trained)
    done = run(model, method=method, structure="neurons" if units else "unstructured", sparsity=share, params=params[method])
    if share == 0:
        assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())
    else:
        assert {row.sparsity for row in done.rows} == ({47 / 48} if units else {1.0})


def untouched(model, before):
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items()) and not any(
        module._forward_pre_hooks or "weight" in vars(module) for module in model.modules()
    )


@pytest.mark.quick
def test_a_stop_in_the_middle_leaves_the_model_as_it_was_weights_trained_or_not(trained):
    class After(Silent):
        def check(self):
            if sum(said.stage == "learn: movement" for said in self.heard) > 2:
                raise Stopped

    model, watcher = copy.deepcopy(trained), After()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Stopped):
        run(model, watcher, method="movement", sparsity=0.5, params={"steps": 50, "weight_rate": 0.01})
    assert untouched(model, before) and all(p.requires_grad and p.grad is None for p in model.parameters())
    said = [progress for progress in watcher.heard if progress.stage == "learn: movement"]
    assert [(progress.done, progress.total) for progress in said] == [(1, 50), (2, 50), (3, 50)] and said[0].values["loss"] > 0


@pytest.mark.quick
@pytest.mark.parametrize("make", [tiny_models.bert, tiny_models.resnet])
def test_a_model_without_a_loss_on_text_is_refused(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="predicts no next token") as caught:
        run(model, method="movement", sparsity=0.5)
    assert caught.value.remedy and untouched(model, before)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure", "names"), [("movement", "unstructured", "bonsai"), ("bonsai", "neurons", "shorter")]
)
def test_too_little_memory_is_refused_with_both_figures_and_a_remedy(monkeypatch, method, structure, names):
    model = tiny_models.llama(2)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0000001")
    with pytest.raises(ResourceError, match=r"needs .* of memory, and this machine has .* left") as caught:
        run(model, method=method, structure=structure, sparsity=0.5)
    assert names in caught.value.remedy and untouched(model, before)


@pytest.mark.quick
def test_too_little_memory_for_the_weights_says_how_to_go_without(monkeypatch):
    model = tiny_models.llama(2)
    monkeypatch.setattr("core.model.learned.course.Course.check_memory", lambda self: None)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0000001")
    with pytest.raises(ResourceError, match="Training the weights") as caught:
        run(model, method="movement", sparsity=0.5, params={"steps": 1})
    assert "weight_rate: 0" in caught.value.remedy


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"method": "movement", "sparsity": 0.5, "only": ("blocks.9",)}, RecipeError, "blocks.9"),
        ({"method": "movement", "sparsity": 0.5, "protect": ("super_weights",)}, RecipeError, "single ones cannot be protected"),
        ({"method": "movement", "structure": "2:5"}, RecipeError, "multiple of 5"),
        ({"method": "movement", "structure": "2:4", "allocation": {"method": "global"}}, RecipeError, "fixes the share"),
        ({"method": "bonsai", "structure": "neurons", "sparsity": 0.5, "protect": ("blocks.*",)}, RecipeError, "all are protected"),
        ({"method": "hard_concrete", "structure": "neurons", "allocation": {"method": "by_hand", "shares": {"blocks.7": 0.5}}}, RecipeError, "blocks.7"),
        ({"method": "movement", "sparsity": 0.5, "damage": True}, ModelError, "not a number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence_and_the_model_is_as_it_was(fields, error, says):
    model, fields = tiny_models.llama(2), dict(fields)
    if fields.pop("damage", False):
        model.model.norm.weight.data[0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error) as caught:
        run(model, **fields)
    assert says in caught.value.problem and caught.value.remedy
    assert all(torch.equal(before[n].nan_to_num(7), v.nan_to_num(7)) for n, v in model.state_dict().items())


@pytest.mark.quick
def test_training_draws_fresh_windows_of_the_source_and_the_report_tells_the_loss_on_the_sampled_ones(trained):
    asked = []

    def fresh():
        while True:
            asked.append(torch.randint(0, 300, (1, 16), generator=torch.Generator().manual_seed(len(asked))))
            yield asked[-1]

    params = {"steps": 3, "batch": 2, "weight_rate": 0.0}
    found = run(copy.deepcopy(trained), texts=Texts(fresh=fresh), method="movement", sparsity=0.5, params=params)
    assert len(asked) == 6 and found.said["losses"][0] > 2  # nobody has learnt those by heart
    assert found.said["loss_before"] == pytest.approx(float(plain_loss(trained).detach()), rel=1e-5)


@pytest.mark.quick
def test_a_model_left_in_its_file_is_refused():
    model = tiny_models.llama(2)
    loaded = replace(from_module(model, "tiny"), lazy=object())
    with pytest.raises(ModelError, match="block at a time") as caught:
        check_learnable(loaded)
    assert "wanda" in caught.value.remedy
