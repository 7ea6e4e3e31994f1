"""SparseGPT against the paper's algorithm written out plainly, and the kernel's two ways against each other."""

from __future__ import annotations

import pytest
import torch

from core.errors import ModelError
from core.events import Silent
from core.method import get
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from kernels import obs
from tests import tiny_models

GENERATOR = torch.Generator().manual_seed(0)


def correlated(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=GENERATOR) @ torch.randn(columns, columns, generator=GENERATOR) * 0.1


def plain(weight: torch.Tensor, gram: torch.Tensor, share: float, pattern=None, width: int = 128) -> torch.Tensor:
    """The paper's Algorithm 1 in float64, a column at a time, with a stable sort as the tie rule. Returns the new weight."""
    weight, hessian = weight.double().clone(), gram.double().clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    for start in range(0, weight.shape[1], width):
        stop = min(start + width, weight.shape[1])
        drop = torch.zeros(weight.shape[0], stop - start, dtype=torch.bool)
        if pattern is None:
            score = (weight[:, start:stop] / factor.diagonal()[start:stop]) ** 2
            lowest = score.flatten().argsort(stable=True)[: int(share * score.numel() + 0.5)]
            drop.view(-1)[lowest] = True
        for column in range(start, stop):
            if pattern is not None and (column - start) % pattern[1] == 0:
                group = slice(column, column + pattern[1])
                order = ((weight[:, group] / factor.diagonal()[group]) ** 2).argsort(dim=1, stable=True)
                drop[:, column - start : column - start + pattern[1]].scatter_(1, order[:, : pattern[1] - pattern[0]], True)
            error = torch.where(drop[:, column - start], weight[:, column] / factor[column, column], 0.0)
            weight[:, column:] -= error[:, None] * factor[column, column:]
            weight[drop[:, column - start], column] = 0
    return weight.float()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("share", "pattern"), [(0.5, None), (0.7, None), (0.0, None), (0.5, (2, 4)), (0.5, (4, 8)), (0.75, (1, 4))]
)
@pytest.mark.parametrize(("rows", "columns"), [(24, 48), (7, 200), (1, 8)])
def test_the_solve_equals_the_papers_algorithm(rows, columns, share, pattern):
    inputs, weight = correlated(400, columns), torch.randn(rows, columns, generator=GENERATOR)
    gram = inputs.T @ inputs
    new, keep = get("solver", "sparsegpt")(
        {"weight": weight, "gram": gram, "share": share, "pattern": pattern, "watcher": Silent()}
    )
    expected = plain(weight, gram, share, pattern)
    assert torch.equal(keep, expected != 0)
    assert torch.allclose(new, expected, atol=1e-4)
    assert torch.equal(new == 0, ~keep)


@pytest.mark.quick
@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_the_sweep_in_torch_equals_the_compiled_one(pattern):
    inputs, weight = correlated(300, 64), torch.randn(9, 64, generator=GENERATOR)
    hessian = (inputs.T @ inputs).double()
    factor = obs.factorise(hessian, 16).float()
    compiled = obs.solve(weight, factor, 0.5, pattern, 16)

    part, inner = weight[:, :16].contiguous(), factor[:16, :16].contiguous()
    kept = compiled[1][:, :16].clone()
    obs.swept_in_torch(part, kept, inner, pattern)
    assert torch.equal(kept, compiled[1][:, :16]) and torch.allclose(part, compiled[0][:, :16], atol=1e-5)
    assert torch.equal(part == 0, ~kept)


@pytest.mark.quick
@pytest.mark.parametrize(("columns", "width"), [(40, 16), (16, 16), (7, 128), (50, 1)])
def test_the_factors_blocks_are_those_of_the_inverses_cholesky_factor(columns, width):
    inputs = correlated(300, columns).double()
    hessian = inputs.T @ inputs
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    found, m = obs.factorise(hessian.clone(), width), torch.linalg.inv(upper)
    for start in range(0, columns, width):
        block = slice(start, min(start + width, columns))
        assert torch.allclose(found[block, block], upper[block, block], rtol=1e-8)
        assert torch.allclose(found[block, :start].T, m[:start, block] @ upper[block, block], rtol=1e-6, atol=1e-9)
    assert obs.factorise(-hessian, width) is None


@pytest.mark.quick
def test_inputs_that_are_never_driven_lose_their_weights_first():
    inputs = correlated(300, 32)
    inputs[:, [3, 17]] = 0
    weight = torch.randn(8, 32, generator=GENERATOR)
    new, keep = get("solver", "sparsegpt")(
        {"weight": weight, "gram": inputs.T @ inputs, "share": 0.25, "pattern": None, "watcher": Silent()}
    )
    assert not keep[:, [3, 17]].any() and (new[:, [3, 17]] == 0).all()
    assert int((~keep).sum()) == 64


@pytest.mark.quick
def test_a_gram_matrix_that_is_not_positive_definite_raises_the_damping_and_says_so():
    vector, watcher = torch.randn(16, 1, generator=GENERATOR), Silent()
    gram = vector @ vector.T - 0.05 * torch.eye(16)
    given = {"weight": torch.randn(4, 16), "gram": gram, "share": 0.5, "pattern": None, "watcher": watcher}
    new, _ = get("solver", "sparsegpt")(given)
    assert torch.isfinite(new).all()
    assert any("damping raised" in said.text for said in watcher.heard)
    with pytest.raises(ModelError, match="not positive definite even with full damping"):
        get("solver", "sparsegpt")(given | {"gram": torch.full((16, 16), float("nan"))})


def test_a_whole_model_loses_less_output_than_by_magnitude_and_the_rows_say_how_much():
    ids = torch.randint(0, 300, (12, 32), generator=torch.Generator().manual_seed(5))
    errors = {}
    for method in ("sparsegpt", "magnitude"):
        model, dense = tiny_models.llama(3), tiny_models.llama(3)
        step = {"prune": {"method": method, "sparsity": 0.5}}
        asked = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [step]}).steps[0].prune
        done = prune(from_module(model, "tiny"), asked, lambda: ids, 0, Silent())
        with torch.no_grad():
            errors[method] = float((model(ids).logits - dense(ids).logits).square().mean())
        if method == "sparsegpt":
            assert all(row.output_error is not None and 0 < row.output_error < 0.5 for row in done.rows)
            assert all(abs(row.sparsity - 0.5) < 0.01 for row in done.rows)
    assert errors["sparsegpt"] < errors["magnitude"]


@pytest.mark.quick
@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_weights_that_an_earlier_step_dropped_stay_dropped_and_count(pattern):
    inputs, weight = correlated(300, 32), torch.randn(8, 32, generator=GENERATOR)
    gone = torch.rand(8, 32, generator=GENERATOR) < 0.3
    weight[gone] = 0
    given = {"weight": weight, "gram": inputs.T @ inputs, "share": 0.5, "pattern": pattern, "watcher": Silent()}
    new, keep = get("solver", "sparsegpt")(given)
    assert not keep[gone].any() and (new[gone] == 0).all()
    if pattern is None:
        assert int((~keep).sum()) == 128
    else:
        assert (keep.reshape(8, -1, 4).sum(2) == (~gone).reshape(8, -1, 4).sum(2).clamp(max=2)).all(), (
            "no place is spent on one that is gone"
        )


@pytest.mark.quick
def test_a_share_of_nothing_changes_nothing_and_what_no_input_drives_is_kept_as_it_was():
    inputs = correlated(300, 32)
    inputs[:, 5] = 0
    weight = torch.randn(8, 32, generator=GENERATOR)
    given = {"weight": weight, "gram": inputs.T @ inputs, "share": 0.0, "pattern": None, "watcher": Silent()}
    new, keep = get("solver", "sparsegpt")(given)
    assert torch.equal(new, weight) and keep.all()
    new, keep = get("solver", "sparsegpt")(given | {"share": 0.01})  # fewer go than the dead input has
    assert torch.equal(new[keep[:, 5], 5], weight[keep[:, 5], 5]) and int((~keep).sum()) == 3
    assert torch.equal(new == 0, ~keep)
