"""What is chosen on the map outlives another colour and another map, and says nothing of other rows."""

import numpy as np
import pytest

from studio.rooms.data import looked
from studio.rooms.data.dataplan import Choice
from studio.rooms.data.dataview import View

pytestmark = pytest.mark.quick
HERE = View(Choice("builtin:digits"), {"rows": 20}, {"ready": True})
OTHER = View(Choice("builtin:mnist5k"), {"rows": 20}, {"ready": True})


def test_a_choice_is_a_bit_a_row_of_these_rows_only():
    now = looked.choose(None, HERE, np.array([0, 9, 19]), "chosen")
    assert looked.places(now, HERE).tolist() == [0, 9, 19] and len(now.mask) == 3
    assert looked.places(now, OTHER) is None and looked.places(None, HERE) is None
    for nothing in (None, np.array([], int)):
        assert looked.chosen(looked.choose(now, HERE, nothing), HERE) is None


def test_a_zoom_is_of_one_map_and_stands_beside_the_choice():
    now = looked.zoom(looked.choose(None, HERE, np.array([4]), row=7), HERE, "pca", (0, 1, 0, 1))
    assert looked.window(now, HERE, "pca") == (0, 1, 0, 1) and looked.window(now, HERE, "umap") is None
    assert looked.window(now, OTHER, "pca") is None and looked.chosen(now, HERE).row == 7
    assert looked.window(looked.zoom(now, HERE, "pca", None), HERE, "pca") is None
