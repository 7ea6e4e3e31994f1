"""The equaliser on a page, and what lies in the workspace behind it: for the tests of every room that has to do with budgets."""

import json
import random

from core import folder
from studio.workspace import FILE


def write_workspace(house, model="builtin:tiny-llama", shares=None, locked=()):
    """What is open, as the studio itself writes it."""
    told = {"shares": shares or {}, "locked": list(locked)}
    state = {"revision": random.randrange(10**6), "model": model, "data": None, "run": None, "budget": told}
    folder.write_json(house.workspace / FILE, state)


def on_disk(house):
    return json.loads((house.workspace / FILE).read_text())["budget"]


def bar(page, name):
    return page.get_by_role("slider", name=f"Block {name}", exact=True)


def now(page, name):
    return int(bar(page, name).get_attribute("aria-valuenow"))


def board(page):
    return page.locator("#equaliser .eq")


def predicted(page):
    return float(board(page).get_attribute("data-quality"))


def saved_after(page, act):
    """Do something that changes the budget, and wait until the workspace has it."""
    before = board(page).get_attribute("data-rev")
    act()
    page.wait_for_function("rev => document.querySelector('#equaliser .eq').dataset.rev !== rev", arg=before)


def invented(blocks, name):
    """A description as the worker gives it, of a model that nobody has."""
    whole = {
        "name": name,
        "family": name,
        "dtype": "float32",
        "tokenizer": None,
        "kind": "decoder",
        "hidden": 8,
        "context": 0,
        "norms": [],
        "tied": [],
    }
    layer = {"path": name, "role": "up", "kind": "linear", "shape": [16, 8], "parameters": 128}
    block = {"path": "", "layers": [], "attention": None, "norms": [], "parameters": 128}
    return {
        **whole,
        "parameters": 128 * blocks,
        "size_bytes": 512 * blocks,
        "refused": {name: name},
        "layers": [{**layer, "name": f"blocks.{i}.{name}", "block": i} for i in range(blocks)],
        "blocks": [{**block, "name": f"blocks.{i}", "index": i} for i in range(blocks)],
        "elsewhere": [{"name": name, "shape": [2, 2], "parameters": 4, "tied": False}],
    }


def many_layers(blocks, each):
    """An invented model with so many layers in every block."""
    one = invented(blocks, "lin")
    layers = [{**layer, "name": f"blocks.{layer['block']}.l{i}"} for layer in one["layers"] for i in range(each)]
    return {**one, "layers": layers, "parameters": 128 * blocks * each, "size_bytes": 512 * blocks * each}
