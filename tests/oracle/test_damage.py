"""The damage map against a plain reference: a copy of the model, one layer zeroed, each text read alone."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from core import recipe
from core.data.damage import TOGETHER, jensen_shannon
from core.data.loading import load as load_rows
from core.errors import DataError, PrunariumError, RecipeError
from core.events import Silent
from core.model.loading import load
from core.model.masks import decide
from core.recipe import Data
from core.run import run

LLAMA = {
    "recipe": 1,
    "name": "d",
    "model": {"source": "builtin:tiny-llama"},
    "calibration": {"source": "builtin:wikitext2/valid", "samples": 2, "tokens": 32},
}
CUT = "blocks.2.mlp.down_proj"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """24 of TREC's questions, four of each class."""
    rows = load_rows(Data(source="builtin:trec/train"))
    some = np.concatenate([np.flatnonzero(rows.labels == name)[:4] for name in range(6)])
    file = tmp_path_factory.mktemp("rows") / "trec.csv"
    names = [rows.label_names[rows.labels[at]] for at in some]
    pd.DataFrame({"text": [rows.texts[at] for at in some], "label": names}).to_csv(file, index=False)
    return str(file)


def said_of(model, tokenizer, text):
    """(log-probabilities of each next token, the tokens, mean of the last block's output) of one text by itself."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    kept = []
    hook = model.model.layers[-1].register_forward_hook(lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].double()
    hook.remove()
    return logits.log_softmax(-1), ids[0, 1:], kept[0][0].mean(0)


def test_jensen_shannon_by_hand():
    # (1, 0) and (0, 1): the middle is (1/2, 1/2), either divergence log 2. (1, 0) and (1/2, 1/2): middle (3/4, 1/4)
    sure, other, even = (torch.tensor([p]).log() for p in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]))
    assert jensen_shannon(sure, other).item() == pytest.approx(np.log(2)) and jensen_shannon(even, even).item() == pytest.approx(
        0, abs=1e-7
    )
    wanted = 0.5 * np.log(4 / 3) + 0.5 * (0.5 * np.log(2 / 3) + 0.5 * np.log(2))
    assert jensen_shannon(sure, even).item() == pytest.approx(wanted, rel=1e-5)


def test_each_cell_is_what_a_copy_with_that_layer_zeroed_says_text_by_text(tmp_path, texts):
    heard = Silent()
    damage = {"method": "magnitude", "levels": [0.8], "rows": 24, "by": "labels"}
    report = run(recipe.parse({**LLAMA, "data": {"source": texts}, "damage": damage}), tmp_path / "run", heard)
    found = json.loads((tmp_path / "run" / "damage.json").read_text())
    rows, loaded = load_rows(Data(source=texts)), load("builtin:tiny-llama")
    other = copy.deepcopy(loaded.model)
    weight = other.get_submodule(loaded.anatomy.layer(CUT).path).weight.data
    weight[~decide(weight.abs(), "unstructured", 0.8, "layer", CUT)] = 0
    rises, apart = [[] for _ in range(7)], [[] for _ in range(7)]
    for text, label in zip(rows.texts, rows.labels, strict=True):
        (before, right, _), (after, _, _) = (said_of(model, loaded.tokenizer, text) for model in (loaded.model, other))
        rise = (before - after).gather(1, right[:, None])[:, 0]
        middle = torch.logaddexp(before, after) - np.log(2)
        jsd = sum((part.exp() * (part - middle)).sum(-1) for part in (before, after)) / 2
        for group in (label, 6):
            rises[group] += rise.tolist()
            apart[group] += jsd.tolist()
    cell = next(cell for cell in found["cells"] if cell["layer"] == CUT)
    assert cell["loss"] == pytest.approx([np.mean(part) for part in rises], abs=2e-4)
    assert cell["jsd"] == pytest.approx([np.mean(part) for part in apart], rel=2e-2, abs=1e-5) and min(cell["jsd"]) > 0
    assert found["predictions"] == [len(part) for part in rises] and [len(group["rows"]) for group in found["groups"]] == [4] * 6
    assert cell["cka"][-1] == pytest.approx(1, abs=0.1) and len(cell["cka"]) == 7
    whole = next(cell for cell in found["cells"] if cell["layer"] == TOGETHER)
    assert whole["jsd"][-1] > max(cell["jsd"][-1] for cell in found["cells"] if cell["layer"] != TOGETHER)
    assert len(found["cells"]) == len(loaded.anatomy.layers) + 1 and report.damage["cells"] == found["cells"]
    assert any(at.stage == "damage" and at.done == at.total for at in heard.heard)


def test_a_budget_by_hand_leaves_the_other_layers_and_every_weight_as_they_were(tmp_path, texts):
    from core.data.damage import run_damage
    from core.model.steps import calibration_inputs

    loaded = load("builtin:tiny-llama")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    asked = recipe.parse(
        {
            **LLAMA,
            "data": {"source": texts},
            "damage": {"shares": {"blocks.1": 0.5, CUT: 0.9}, "rows": 8},
            "clusters": {"count": 2},
        }
    )
    found = run_damage(asked, tmp_path, Silent(), loaded, calibration_inputs(loaded, asked.calibration, 0))
    assert {layer.rpartition(".")[0].split(".")[1] for layer in found["layers"]} == {"1", "2"} and CUT in found["layers"]
    assert [group["name"] for group in found["groups"]] == ["cluster 0", "cluster 1"] and found["levels"] == [0.0]
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(("says", "kind", "sentence"), [
    ({"damage": {}}, RecipeError, "damage needs data"),
    ({"data": {"source": "builtin:digits"}, "damage": {}}, DataError, "reads texts, and builtin:digits has none"),
    ({"data": {"source": "TEXTS"}, "damage": {"levels": [0.3], "structure": "2:4"}}, RecipeError, "means the one level 0.5"),
    ({"data": {"source": "TEXTS"}, "damage": {"method": "flap"}}, RecipeError, "flap"),
    ({"data": {"source": "TEXTS"}, "damage": {}, "steps": [{"prune": {"method": "wanda", "sparsity": 0.5}}]}, RecipeError, "leave steps out"),
])  # fmt: skip
def test_bad_input_is_a_sentence(tmp_path, texts, says, kind, sentence):
    with pytest.raises(PrunariumError, match=sentence) as raised:
        run(recipe.parse({**LLAMA, **json.loads(json.dumps(says).replace("TEXTS", texts))}), tmp_path / "run", Silent())
    assert isinstance(raised.value, kind) and raised.value.remedy
