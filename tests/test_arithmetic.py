"""dtype: auto is what this machine was measured to be fast in."""

from __future__ import annotations

import json

import pytest
import torch

from core.errors import RecipeError
from core.model.loading import load
from core.model.measuring import arithmetic


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "cache_dir", lambda: tmp_path)
    arithmetic.bfloat16_speed.cache_clear()
    yield tmp_path
    arithmetic.bfloat16_speed.cache_clear()


def test_the_ratio_is_measured_once_a_machine_and_kept(empty_cache):
    first = arithmetic.bfloat16_speed()
    assert first > 0
    (kept,) = json.loads((empty_cache / "arithmetic.json").read_text()).values()
    assert kept == first
    arithmetic.bfloat16_speed.cache_clear()
    assert arithmetic.bfloat16_speed() == first  # read, not measured again
    (empty_cache / "arithmetic.json").write_text("{broken")
    arithmetic.bfloat16_speed.cache_clear()
    assert arithmetic.bfloat16_speed() > 0


@pytest.mark.parametrize(("ratio", "dtype"), [(3.9, torch.float32), (4.0, torch.bfloat16)])
def test_a_model_computes_in_bfloat16_only_where_that_is_four_times_as_fast(empty_cache, monkeypatch, ratio, dtype):
    monkeypatch.setattr(arithmetic, "measured_speed", lambda: ratio)
    assert load("builtin:tiny-llama", dtype="auto").model.dtype == dtype
    assert load("builtin:tiny-llama").model.dtype == torch.float32  # what is not asked for is not measured
    assert load("builtin:tiny-vit", dtype="auto").model.dtype == torch.float32  # images come as float32


def test_another_dtype_is_refused():
    with pytest.raises(RecipeError, match="no dtype 'int3'"):
        load("builtin:tiny-llama", dtype="int3")
