"""Gradient statistics and the criteria on them, against one plain backward a sequence through transformers' own loss."""

from __future__ import annotations

import copy

import pytest
import torch

from core.errors import ModelError, ResourceError, Stopped
from core.events import Silent
from core.method import get
from core.model import gradients
from core.model.gradients import gradient_statistics
from core.model.loading import from_module, load
from core.model.looking.xray import observe_model
from core.model.pruning.step import prune
from core.recipe import Observe, parse
from tests import tiny_models

IDS = torch.randint(0, 300, (7, 16), generator=torch.Generator().manual_seed(3))
NAMES = ("gradient", "gradient_norm", "gradient_square")


def run(model, watcher=None, ids=IDS, **fields):
    step = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: ids, 0, watcher or Silent())


def plain(model) -> dict[str, list[torch.Tensor]]:
    """{parameter name: its gradient in each sequence}, by the model's own loss."""
    model, found = copy.deepcopy(model).requires_grad_(True), {}
    for sequence in IDS:
        model.zero_grad()
        model(input_ids=sequence[None], labels=sequence[None], use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            found.setdefault(name, []).append(parameter.grad.clone())
    return found


def statistics(model, names=NAMES, watcher=None):
    loaded = from_module(model, "tiny")
    return loaded, gradient_statistics(loaded, loaded.anatomy.layers, names, lambda: IDS, watcher or Silent())


@pytest.mark.quick
@pytest.mark.parametrize("make", [tiny_models.llama, tiny_models.gpt2])
def test_gradient_statistics_equal_one_backward_a_sequence(make):
    model = make()
    before, reference = copy.deepcopy(model.state_dict()), plain(model)
    loaded, found = statistics(model)
    assert len(found) == len(loaded.anatomy.layers)
    for layer in loaded.anatomy.layers:
        each = torch.stack(reference[f"{layer.path}.weight"])
        each = each.transpose(1, 2) if layer.kind == "conv1d" else each  # GPT-2 keeps its weights turned
        expected = {
            "gradient": each.mean(0),
            "gradient_square": each.square().mean(0),
            "gradient_norm": each.square().mean(0).sqrt(),
        }
        for name in NAMES:
            assert found[layer.name][name].shape == layer.shape[:2]
            assert torch.allclose(
                found[layer.name][name], expected[name], rtol=1e-3, atol=1e-8 + 1e-4 * expected[name].abs().max()
            ), name
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.quick
def test_a_gradient_is_let_go_the_moment_it_is_folded_and_short_memory_gives_the_same_bits(monkeypatch):
    model, held = tiny_models.llama(3), []
    monkeypatch.setattr(
        gradients, "matrix", lambda layer, grad: held.append(sum(p.grad is not None for p in model.parameters())) or grad
    )
    _, whole = statistics(model)
    assert len(held) == 21 * len(IDS) and max(held) == 1  # one layer's gradient at a time, of all there are
    passes = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(gradients, "available_bytes", lambda: 0)
    _, again = statistics(model)
    assert len(passes) == 2 * len(IDS)  # each block runs again on the way back
    assert all(torch.equal(whole[name][key], again[name][key]) for name in whole for key in NAMES)


@pytest.mark.quick
def test_only_the_asked_layers_are_followed():
    loaded = from_module(tiny_models.llama(3), "tiny")
    layers = [layer for layer in loaded.anatomy.layers if layer.name.startswith("blocks.2.mlp")]
    found = gradient_statistics(loaded, layers, ("gradient",), lambda: IDS, Silent())
    _, whole = statistics(loaded.model, ("gradient",))
    assert found.keys() == {layer.name for layer in layers}
    assert all(torch.equal(found[name]["gradient"], whole[name]["gradient"]) for name in found)


WAYS = {
    "taylor": ("layer", lambda w, x, g: (w * g.mean(0)).abs()),
    "fisher": ("layer", lambda w, x, g: w.square() * g.square().mean(0)),
    "gblm": ("row", lambda w, x, g: w.abs() * (x + 1131 * g.square().mean(0).sqrt())),
    "pruner_zero": ("row", lambda w, x, g: w.square() * _minmax(g.square().sum(0).sqrt())),
    "relative_importance": ("layer", lambda w, x, g: (w.abs() / w.abs().sum(0) + w.abs() / w.abs().sum(1)[:, None]) * x.sqrt()),
}


def _minmax(values):
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.quick
@pytest.mark.parametrize("name", WAYS)
def test_a_criterions_masks_equal_its_formula_with_earlier_blocks_already_pruned(name):
    """Gradients are the dense model's; the norms of inputs are those that the partly pruned model sees, by whole-model forwards."""
    compare, formula = WAYS[name]
    model = tiny_models.llama(3)
    reference, gradient = copy.deepcopy(model), plain(model)
    expected = {}
    for index, block in enumerate(reference.model.layers):
        inputs: dict[str, torch.Tensor] = {}
        linears = {n: m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
        handles = [
            m.register_forward_pre_hook(lambda m, args, n=n, inputs=inputs: inputs.update({n: args[0]}))
            for n, m in linears.items()
        ]
        with torch.no_grad():
            reference(IDS)
            for handle in handles:
                handle.remove()
            for inner, module in linears.items():
                path = f"model.layers.{index}.{inner}"
                norm = inputs[inner].square().sum(dim=(0, 1)).div(len(IDS)).sqrt()
                scores = formula(module.weight, norm, torch.stack(gradient[f"{path}.weight"]))
                rows = scores if compare == "row" else scores.reshape(1, -1)
                lowest = rows.argsort(dim=1, stable=True)[:, : round(0.5 * rows.shape[1])]
                keep = torch.ones(rows.shape, dtype=torch.bool).scatter_(1, lowest, False).reshape(scores.shape)
                expected[path] = keep
                module.weight.mul_(keep)
    done = run(model, method=name, sparsity=0.5)
    assert done.masks.keys() == expected.keys()
    for path, keep in expected.items():
        assert (done.masks[path].unpack() != keep).float().mean() < 0.004, path  # a tie or two in the last bits of a gradient
        assert torch.equal(model.get_submodule(path).weight != 0, done.masks[path].unpack())


@pytest.mark.quick
def test_fisher_and_taylor_by_hand():
    """Two sequences, gradients (3, -1) and (1, 1) for weights (2, -4): mean (2, 0), mean square (5, 1)."""
    weight, folded = torch.tensor([[2.0, -4.0]]), {}
    for name in NAMES:
        statistic = get("statistic", name)
        state = None
        for gradient in (torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 1.0]])):
            state = statistic.function(state, gradient)
        folded[name] = statistic.extra["finish"](state, 2)
    assert get("score", "taylor")({"weight": weight, **folded}).tolist() == [[4.0, 0.0]]
    assert get("score", "fisher")({"weight": weight, **folded}).tolist() == [[20.0, 16.0]]
    scored = get("score", "gblm")({"weight": weight, "input_norm": torch.tensor([1.0, 2.0]), **folded}, {"balance": 10.0})
    assert torch.allclose(scored, torch.tensor([[2 * (1 + 10 * 5**0.5), 4 * (2 + 10.0)]]))
    assert get("score", "pruner_zero")({"weight": weight, **folded}).tolist() == [[4.0, 0.0]]


@pytest.mark.quick
def test_pruner_zero_of_equal_gradients_and_relative_importance_of_an_empty_channel_are_numbers():
    zeros = get("score", "pruner_zero")({"weight": torch.ones(2, 3), "gradient_norm": torch.full((2, 3), 0.5)})
    assert torch.equal(zeros, torch.zeros(2, 3))
    weight = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    scores = get("score", "relative_importance")({"weight": weight, "input_norm": torch.tensor([1.0, 4.0])})
    assert scores.tolist() == [[0.0, 0.0], [0.0, 4.0]]  # (3/3 + 3/3) * sqrt(4)


@pytest.mark.quick
def test_taylor_predicts_what_removing_one_weight_does_to_the_loss():
    """The first-order estimate against the loss with the weight really gone, for small weights."""
    model = tiny_models.llama(2)
    _, found = statistics(model, ("gradient",))
    weight, gradient = model.model.layers[0].mlp.up_proj.weight, found["blocks.0.mlp.up_proj"]["gradient"]

    def loss() -> float:
        with torch.no_grad():
            logits = model.double()(input_ids=IDS).logits[:, :-1].double()
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten()))

    dense = loss()
    dearest = (weight * gradient).abs().flatten().topk(4).indices.tolist()  # those whose change stands out of the last bits
    for place in [divmod(index, 32) for index in dearest]:
        with torch.no_grad():
            kept = weight[place].item()
            weight[place] = 0.0
            change = loss() - dense
            weight[place] = kept
        assert change == pytest.approx(-kept * float(gradient[place]), rel=0.05)


@pytest.mark.quick
def test_one_gradient_pass_serves_the_allocation_and_the_scores():
    watcher = Silent()
    done = run(tiny_models.llama(3), watcher, method="fisher", sparsity=0.5, allocation="global")
    assert sum(said.stage == "gradients" and said.done == 0 for said in watcher.heard) == 1
    assert not any(said.stage == "observe" for said in watcher.heard)  # fisher needs no activations
    assert sum(int((~m.unpack()).sum()) for m in done.masks.values()) == round(0.5 * sum(r.parameters for r in done.rows))


@pytest.mark.quick
def test_the_x_ray_knows_criteria_on_gradients(tmp_path):
    tiny_models.llama(2).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    seen = observe_model(loaded, Observe(scores=("fisher", "gblm")), lambda: IDS, 0, Silent())
    _, found = statistics(loaded.model, ("gradient_square",))
    for row in seen["layers"]:
        weight = loaded.module(loaded.anatomy.layer(row["name"]).path).weight.detach()
        expected = float((weight.square() * found[row["name"]]["gradient_square"]).mean())
        assert row["scores"]["fisher"] == pytest.approx(expected, rel=1e-4) and row["scores"]["gblm"] > 0


@pytest.mark.quick
@pytest.mark.parametrize("make", [tiny_models.bert, tiny_models.resnet])
def test_a_model_that_predicts_no_next_token_is_refused_before_anything_changes(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="predicts no next token") as caught:
        run(model, method="taylor", sparsity=0.5)
    assert "wanda" in caught.value.remedy
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.quick
def test_too_little_memory_is_refused_with_both_figures(monkeypatch):
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0001")
    with pytest.raises(
        ResourceError, match=r"The gradient of every weight needs .* MB of memory, and this machine has 0\.1 MB left"
    ) as caught:
        run(tiny_models.llama(2), method="fisher", sparsity=0.5)
    assert "`only`" in caught.value.remedy


@pytest.mark.quick
def test_a_loss_that_is_not_a_number_is_refused():
    model = tiny_models.llama(2)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="sequence 1 is not a number"):
        run(model, method="fisher", sparsity=0.5)


@pytest.mark.quick
def test_a_stop_is_obeyed_between_two_sequences_and_leaves_no_gradient():
    class After(Silent):
        def check(self):
            if len(self.heard) > 2:
                raise Stopped

    model, watcher = tiny_models.llama(2), After()
    with pytest.raises(Stopped):
        run(model, watcher, method="fisher", sparsity=0.5)
    assert [said.done for said in watcher.heard] == [0, 1, 2]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.weight._post_accumulate_grad_hooks for module in model.modules() if isinstance(module, torch.nn.Linear))
