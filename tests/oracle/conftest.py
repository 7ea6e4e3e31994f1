"""What several oracle tests start from."""

from __future__ import annotations

import pytest
import torch

from tests import tiny_models
from tests.oracle.learned import plain_loss


@pytest.fixture(scope="module")
def trained():
    """A tiny Llama that has learnt its text by heart, so that which weights are there matters."""
    model = tiny_models.llama(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        plain_loss(model).backward()
        optimizer.step()
    return model.requires_grad_(True)
