"""Makes assets/demo: what the first screen draws before any model is loaded. `python assets/make_demo.py [NAME ...] [--out DIR]`.

Everything in it comes from the engine: the observations of a run of the X-ray recipe, the description that the worker gives of the opened model,
and a finished run of a budget by hand. Takes a few minutes on two cores; the same model, versions and threads give the same files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core import folder, recipe  # noqa: E402 - the checkout is not installed
from core.model.loading import load  # noqa: E402
from core.run import run  # noqa: E402
from core.serve import describe  # noqa: E402

RECIPES = {
    "tiny-llama": ("xray-tiny-llama.yaml", "budget-by-hand.yaml"),
    "tiny-cnn": ("xray-tiny-cnn.yaml", None),
}


def make(name: str, out: Path) -> None:
    """One model's demo folder: anatomy.json, observations.json, and an example run's recipe and report."""
    observed, example = RECIPES[name]
    place = out / name
    place.mkdir(parents=True, exist_ok=True)
    folder.write_json(place / "anatomy.json", describe(load(f"builtin:{name}")))
    with tempfile.TemporaryDirectory() as private:
        finished = Path(private) / "observe"
        run(recipe.read(ROOT / "assets" / "recipes" / observed), finished)
        folder.write_json(place / folder.OBSERVATIONS, elsewhere(folder.read_json(finished / folder.OBSERVATIONS)))
        if example:
            tried = Path(private) / "example"
            run(recipe.read(ROOT / "assets" / "recipes" / example), tried)
            (place / "example").mkdir(exist_ok=True)
            for artefact in (folder.RECIPE, folder.REPORT):
                shutil.copyfile(tried / artefact, place / "example" / artefact)


def elsewhere(observed: dict[str, Any]) -> dict[str, Any]:
    """The observations without what is true of this machine alone: its milliseconds."""
    units = dict(observed.get("units") or {})
    for structure, told in units.items():
        groups = [{key: value for key, value in group.items() if key not in ("at", "off")} for group in told.get("groups", ())]
        units[structure] = {"ms": None} if structure == "latency" else told | ({"groups": groups} if groups else {})
    return observed | {"units": units}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "demo")
    options = parser.parse_args(arguments)
    for name in options.names or RECIPES:
        make(name, options.out)
        print(f"{options.out / name} is made.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
