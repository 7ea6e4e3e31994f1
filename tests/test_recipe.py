"""Recipes: YAML 1.2, refusals in a sentence, four views of one recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import RecipeError
from core.recipe import Recipe, from_yaml, n_of_m, parse, to_dict, to_yaml
from core.views import to_command, to_python

pytestmark = pytest.mark.quick
HEAD = "recipe: 1\nname: x\nmodel: {source: builtin:tiny-llama}\n"


def test_an_unquoted_two_to_four_is_a_string_and_1e_4_a_number():
    recipe = from_yaml(HEAD + "steps: [{prune: {method: wanda, structure: 2:4}}, {recover: {method: lora, learning_rate: 1e-4}}]")
    assert recipe.steps[0].prune.structure == "2:4"
    assert recipe.steps[0].prune.sparsity == 0.5
    assert recipe.steps[1].recover.learning_rate == 0.0001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recipe: 1\nname: x\nmodle: {source: y}", "unknown key 'modle'. Did you mean 'model'?"),
        (HEAD + "steps: [{prune: {method: wanda, sparsty: 0.5}}]", "Did you mean 'sparsity'?"),
        (HEAD + "steps: [{prune: {method: wanda, sparsity: 1.3}}]", "less than or equal to 1 (it says '1.3')"),
        (HEAD + "steps: [{prune: {method: wanda, sparsity: .nan}}]", "steps.0.prune.sparsity"),
        (HEAD + "steps: [{prune: {method: wanda}}]", "sparsity is missing"),
        (HEAD + "steps: [{prune: {method: wanda, structure: 4:2, sparsity: 0.5}}]", "structure must be one of"),
        (HEAD + "steps: [{prune: {method: wanda, structure: 2:4, sparsity: 0.3}}]", "2:4 means a sparsity of 0.5, not 0.3"),
        (HEAD + "steps: [{prune: {method: wanda, sparsity: 0.5}, recover: {method: lora}}]", "exactly one of"),
        (HEAD, "needs model + steps"),
        ("recipe: 1\nname: x\nsteps: [{prune: {method: wanda, sparsity: 0.5}}]", "need model"),
        ("recipe: 1\nname: ../x\nmodel: {source: y}", "name"),
        ("recipe: 9\nname: x", "version 9"),
        ("name: x", "does not say its version"),
        ("a: [", "not valid YAML at line"),
        ("- 1", "mapping"),
        (HEAD + "seed: -1\nsteps: [{prune: {method: wanda, sparsity: 0.5}}]", "seed"),
        (HEAD + "steps: [{prune: {method: wanda, sparsity: 0.5, allocation: by_hand}}]", "needs shares"),
        ("recipe: 1\nname: x\ndata: {source: builtin:digits}\nselect: {keep: 0.5}", "select needs either"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_sentence_with_a_remedy(text, says):
    with pytest.raises(RecipeError) as caught:
        from_yaml(text)
    assert says in str(caught.value)
    assert caught.value.remedy and "\n" not in str(caught.value)


shares = st.floats(0, 1).map(lambda x: round(x, 3))
prunes = st.fixed_dictionaries(
    {"method": st.sampled_from(["wanda", "magnitude"]), "structure": st.just("unstructured"), "sparsity": shares},
    optional={"only": st.lists(st.sampled_from(["blocks.0", "*.up_proj"]), max_size=2), "params": st.just({"power": 0.5})},
)
recovers = st.fixed_dictionaries(
    {"method": st.just("lora"), "steps": st.integers(1, 500), "learning_rate": st.sampled_from([1e-5, 3e-4])}
)
steps = st.lists(prunes.map(lambda p: {"prune": p}) | recovers.map(lambda r: {"recover": r}), min_size=1, max_size=3)


@given(steps=steps, seed=st.integers(0, 2**32 - 1))
def test_yaml_and_python_give_back_the_same_recipe(steps, seed):
    recipe = parse({"recipe": 1, "name": "round trip", "seed": seed, "model": {"source": "builtin:tiny-llama"}, "steps": steps})
    assert from_yaml(to_yaml(recipe)) == recipe
    assert from_yaml(to_yaml(recipe, full=True)) == recipe
    source = (
        to_python(recipe).replace("report = run(recipe, Path('runs/round-trip'))", "").replace("from core.run import run\n", "")
    )
    names: dict = {}
    exec(source, names)
    assert names["recipe"] == recipe
    assert to_command(recipe) == "python3 launch.py run round-trip.yaml --out runs/round-trip"


def test_the_resolved_recipe_shows_every_default():
    full = to_dict(from_yaml(HEAD + "steps: [{prune: {method: wanda, sparsity: 0.5}}]"), full=True)
    assert full["calibration"] == {"source": "auto", "samples": 128, "tokens": 512}
    assert full["steps"][0]["prune"]["allocation"] == {"method": "uniform", "params": {}, "shares": {}}


def test_all_the_samples_there_are_is_written_and_read_back():
    text = "recipe: 1\nname: x\nmodel: {source: m}\nsteps: [{prune: {method: magnitude, sparsity: 0.5}}]\nmeasure: {perplexity: {samples: null}}\n"
    recipe = from_yaml(text)
    assert recipe.measure.perplexity.samples is None
    assert from_yaml(to_yaml(recipe)) == recipe == from_yaml(to_yaml(recipe, full=True))


def test_recipes_are_frozen():
    recipe = from_yaml(HEAD + "steps: [{prune: {method: wanda, sparsity: 0.5}}]")
    with pytest.raises(Exception, match="frozen"):
        recipe.name = "y"
    assert isinstance(recipe, Recipe)


@pytest.mark.parametrize(
    ("text", "pair"), [("2:4", (2, 4)), ("1:3", (1, 3)), ("4:4", None), ("blocks", None), ("0:4", None), ("2:4:8", None)]
)
def test_n_of_m_reads_kept_of_group(text, pair):
    assert n_of_m(text) == pair
