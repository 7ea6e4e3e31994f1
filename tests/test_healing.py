"""Healing with chosen rows: damage text by text against a plain reference, equal tokens for all, taken up where it stopped, refused in a sentence."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from core import catalogue, folder, recipe
from core.data.damage import jensen_shannon
from core.data.damaged import Damaged, damage_of
from core.data.dataset import Dataset
from core.data.evidence import Beside
from core.data.healing_rows import Texts, rows_within
from core.errors import DataError, ModelError, PrunariumError, RecipeError
from core.events import Silent
from core.model.loading import load
from core.model.training import Taught, batch_loss
from core.run import run
from core.select.damage import damage
from core.select.damage_quotas import damage_quotas
from studio.charts import healing as charts
from tests.oracle.data_rows import rows_of, scored

WORDS = ["The river runs north past the old mill .", "He played guitar in the band for ten years .", "The album sold well in Japan .",
         "A ship was lost off the coast that winter .", "Its range is the dry south of the island ."]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.csv"
    pd.DataFrame({"text": [f"{WORDS[at % 5]} {WORDS[(at * 3 + 1) % 5]} Number {at} ." for at in range(60)]}).to_csv(
        file, index=False
    )
    return str(file)


def asked(source, **heal):
    return {
        "recipe": 1, "name": "h", "model": {"source": "builtin:tiny-llama"}, "calibration": {"source": "builtin:wikitext2/valid", "samples": 2, "tokens": 32},
        "steps": [{"prune": {"method": "magnitude", "sparsity": 0.6}}], "data": {"source": source}, "embedding": {"source": "tfidf"},
        "clusters": {"count": 3}, "select": {"method": "damage"},
        "heal": {"shares": [0.3], "seeds": 1, "tokens": 16, "learning_rate": 2e-3, **heal},
    }  # fmt: skip


def lost(divergence, rise=None, tokens=None):
    count = len(divergence)
    return Damaged(np.arange(count), np.array(divergence), np.ones(count) if rise is None else np.array(rise), np.full(count, 10.0) if tokens is None else
                   np.array(tokens, float))  # fmt: skip


@pytest.mark.quick
def test_quotas_by_damage_by_hand():
    # clusters of 3 and 3 rows, divergence 0.3 and 0.1: shares 3/4 and 1/4 of 4 rows; in each the highest scores
    clusters, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 3, 2, 5, 4, 6])
    kept = damage_quotas(lost([0.3] * 3 + [0.1] * 3), clusters, scores, 4)
    assert kept.tolist() == [True, True, True, False, False, True]
    assert damage_quotas(lost([0.3] * 3 + [0.1] * 3), clusters, scores, 2).tolist() == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]  # 1.5 and 0.5: the first wins
    # token means: a cluster's long undamaged row counts for what it says. (0.9 x 1 + 0 x 9) / 10 = 0.09 below 0.1
    few = damage_quotas(lost([0.9, 0.0, 0.1, 0.1], tokens=[1, 9, 5, 5]), np.array([0, 0, 1, 1]), np.arange(4.0), 1)
    assert few.tolist() == [False, False, False, True]
    # four rows against one, damaged alike: without size one of two each, with it 0.8 x 2 and 0.2 x 2
    uneven = np.array([0, 0, 0, 0, 1])
    assert damage_quotas(lost([0.2] * 5), uneven, np.arange(5.0), 2)[4]
    assert not damage_quotas(lost([0.2] * 5), uneven, np.arange(5.0), 2, size=1.0)[4]
    nothing = damage_quotas(lost([0.0] * 5), uneven, np.full(5, np.nan), 3)
    assert nothing.sum() == 3  # nothing lost: by size


@pytest.mark.quick
def test_the_damage_score_by_hand():
    # 0.5 / log(2 + 6) = 0.2404; cost weight 0: 0.5 itself; a row that the pruned model finds likelier comes a whole 1 lower
    found = damage(lost([0.5, 0.5, 0.6], [1.0, -0.1, 1.0], [6, 6, 98]))
    assert found == pytest.approx([0.2404, 0.2404 - 1, 0.6 / np.log(100)], abs=1e-4)
    assert damage(lost([0.5, 0.2]), cost=0.0) == pytest.approx([0.5, 0.2])


@pytest.mark.quick
def test_damage_goes_by_row_number_and_is_asked_only_where_something_is_pruned():
    dataset = rows_of(["a b", "c d", "e f"])  # numbers 10, 11, 12
    known = Damaged(np.array([12, 10, 11]), np.array([0.3, 0.1, 0.2]), np.ones(3), np.ones(3))
    vectors = np.eye(3, dtype=np.float32)
    assert scored("damage", dataset, vectors, {"cost": 0.0}, Beside(damaged=known)) == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(ModelError, match="nothing is pruned here") as raised:
        scored("damage", dataset, vectors)
    assert raised.value.remedy


@pytest.mark.quick
def test_the_smallest_choice_that_holds_the_budget():
    # sizes 5, 1, 4, 2: the first two rows of the order hold 6, three hold 10
    texts = Texts([np.zeros(size, np.int64) for size in (5, 1, 4, 2)])
    chosen = [len(rows_within(lambda count: np.arange(count), texts, 4, budget)) for budget in (5, 6, 7, 10, 11, 99)]
    assert chosen == [1, 2, 3, 3, 4, 4]
    joined = Texts([np.array([1, 2, 3]), np.array([4, 5])]).windows(np.array([1, 0]), 2)
    assert joined.tolist() == [[4, 5], [1, 2]]  # what is left over is left out


def test_damage_is_what_two_models_say_of_each_text_alone():
    dense = load("builtin:tiny-llama")
    other = copy.copy(dense)
    other.model = copy.deepcopy(dense.model)
    weight = other.model.model.layers[2].mlp.down_proj.weight.data
    weight[weight.abs() < weight.abs().median()] = 0
    texts = [*WORDS, "A much longer row , so that the others beside it are padded , and padding must not count at all ."]
    found = damage_of(dense, other, Dataset("rows", pd.DataFrame({"row": np.arange(6) + 3}), texts), 64, Silent())
    assert found.row.tolist() == [3, 4, 5, 6, 7, 8]
    for at, text in enumerate(texts):
        ids = torch.tensor([dense.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            one, two = (model(input_ids=ids).logits[0, :-1].log_softmax(-1) for model in (dense.model, other.model))
            rise = cross_entropy(two, ids[0, 1:]) - cross_entropy(one, ids[0, 1:])
        assert found.divergence[at] == pytest.approx(float(jensen_shannon(one, two).mean()), rel=1e-2, abs=1e-6)
        assert found.rise[at] == pytest.approx(float(rise), abs=1e-3) and found.tokens[at] == ids.shape[1] - 1


def test_a_batch_with_a_teacher_is_the_mixture_it_says():
    model = load("builtin:tiny-llama").model
    teacher = copy.deepcopy(model)
    ids = torch.tensor([[5, 9, 12, 7], [3, 3, 8, 1]])
    with torch.no_grad():
        plain = batch_loss(model, ids)
        assert batch_loss(model, Taught(ids, teacher, 0.0)).item() == pytest.approx(plain.item(), rel=1e-5)
        assert batch_loss(model, Taught(ids, teacher, 1.0, 2.0)).item() == pytest.approx(
            0, abs=1e-6
        )  # it says what its teacher says
        teacher.lm_head.weight.data.mul_(0.5)
        said, own = (one(input_ids=ids).logits[:, :-1].flatten(0, 1) for one in (teacher, model))
        soft, mine = (said / 2).softmax(-1), (own / 2).log_softmax(-1)
        far = (soft * (soft.log() - mine)).sum(-1).mean()
        wanted = 0.25 * plain + 0.75 * 4 * far
        assert batch_loss(model, Taught(ids, teacher, 0.75, 2.0)).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_one_job_heals_every_choice_with_as_many_tokens_and_goes_on_where_it_was(tmp_path, written):
    report = run(recipe.parse(asked(written)), tmp_path / "one", Silent())
    found = report.heal
    lines = {(line["share"], line["selector"]): line for line in found["lines"]}
    assert list(lines) == [(1.0, "all"), (0.3, "damage"), (0.3, "random"), (0.3, "random + distillation")]
    some = [line for (share, _), line in lines.items() if share == 0.3]
    assert len({(line["tokens"], line["steps"]) for line in some}) == 1 and some[0]["tokens"] * 2 < lines[1.0, "all"]["tokens"]
    level = found["levels"][0]
    assert level["dense"] < level["pruned"] and all(line["perplexity"] < level["pruned"] for line in lines.values())
    assert len({line["perplexity"] for line in lines.values()}) == 4
    assert "20 % of the rows is held out" in found["protocol"] and found["chosen"] == "damage"

    half = tmp_path / "half"  # as if it had been stopped after two
    half.mkdir()
    kept = (tmp_path / "one" / folder.HEALING).read_text().splitlines()[:3]
    (half / folder.HEALING).write_text("\n".join(kept) + "\n")
    again = run(recipe.parse({**asked(written), "resume": str(half)}), tmp_path / "two", Silent()).heal
    assert [line["perplexity"] for line in again["lines"]] == [line["perplexity"] for line in found["lines"]]
    assert [json.loads(line) for line in kept] == folder.read_lines(tmp_path / "two" / folder.HEALING)[:3]
    with pytest.raises(RecipeError, match="another recipe or of other rows"):
        run(recipe.parse({**asked(written, tokens=32), "resume": str(half)}), tmp_path / "three", Silent())

    picture = charts.curves(found, "Damage by pruning")
    assert picture.finding.startswith("With 30 % of the tokens Damage by pruning is") and picture.finding.endswith(
        "over 1 seed only"
    )
    assert len(picture.rows) == 6 and {row[1] for row in picture.rows} >= {
        "Dense",
        "Pruned",
        "All tokens",
        "Random + distillation",
    }


@pytest.mark.quick
def test_the_finding_says_better_worse_or_alike():
    def found(*gaps):
        lines = [{"share": 1.0, "selector": "all", "seed": 0, "accuracy": None, "perplexity": 60.0, "rows": 9}]
        for seed, gap in enumerate(gaps):
            for who, value in (("damage", 70 + gap), ("random", 70.0)):
                lines.append({"share": 0.2, "selector": who, "seed": seed, "accuracy": None, "perplexity": value, "rows": 9})
        return {
            "lines": lines,
            "levels": [{"seed": 0, "dense": 50.0, "pruned": 90.0}],
            "chosen": "damage",
            "rows": 9,
            "protocol": "",
        }

    assert "heals better than random rows: -1.00" in charts.finding(found(-1, -1.1, -0.9), "Damage")
    assert "heals worse than random rows: +1.00" in charts.finding(found(1, 1.1, 0.9), "Damage")
    assert "heal alike" in charts.finding(found(1, -1.1, 0.2), "Damage")


@pytest.mark.parametrize(("changes", "kind", "sentence"), [
    ({"select": None}, RecipeError, "heal needs select"),
    ({"steps": []}, RecipeError, "one prune"),
    ({"steps": [{"prune": {"method": "magnitude", "sparsity": 0.5}}, {"recover": {"method": "lora"}}]}, RecipeError, "one prune"),
    ({"heal": None, "steps": []}, RecipeError, "sets a pruned model beside the dense one"),
    ({"heal": {"method": "lroa"}}, RecipeError, "Did you mean 'lora'"),
    ({"data": {"source": "builtin:digits"}}, DataError, "healed with texts"),
    ({"heal": {"tokens": 2048}}, DataError, "too few tokens"),
    ({"heal": {}, "resume": "nowhere"}, RecipeError, "no run folder"),
])  # fmt: skip
def test_bad_input_is_a_sentence(tmp_path, written, changes, kind, sentence):
    whole = {key: value for key, value in {**asked(written), **changes}.items() if value is not None}
    if whole.get("steps") == [] and "heal" not in whole:
        whole["select"] = {"method": "damage", "keep": 0.5}
    with pytest.raises(PrunariumError, match=sentence) as raised:
        run(catalogue.resolve(recipe.parse(whole)), tmp_path / "run", Silent())
    assert isinstance(raised.value, kind) and raised.value.remedy


def test_a_healing_that_gave_no_figure_is_a_sentence_and_no_stack_trace():
    line = {"selector": "random", "share": 0.2, "seed": 0, "perplexity": None, "rows": 3, "seconds": 1.0}
    found = {"chosen": "damage", "lines": [line], "levels": [{"dense": 20.0, "pruned": None}]}
    assert charts.curves(found, "Damage").finding.startswith("No healing gave a finite perplexity")
