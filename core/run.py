"""run(recipe, folder, watcher) -> Report: the spine on one page. Also `python -m core.run RECIPE --out DIR`, and `--wait` for the warm spare.

load -> observe -> score -> allocate -> decide -> apply -> (reconstruct) -> (recover) -> measure -> save, for models (core.model.steps) and
for data (core.data.steps) alike. The run holds its folder's lock while it lives, and writes its own terminal state.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a busy neighbour otherwise makes a forward four times slower

import hashlib
import json
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from core import folder
from core.catalogue import resolve
from core.errors import PrunariumError, Stopped, out_of_memory
from core.events import Progress, Watcher
from core.method import cards
from core.model.circumstances import versions
from core.model.loading import LoadedModel, load
from core.model.measuring.arithmetic import bfloat16_speed
from core.model.memory import peak_bytes
from core.recipe import Recipe, n_of_m, read, to_dict, to_yaml
from core.report import Report


def run(recipe: Recipe, path: Path, watcher: Watcher | None = None) -> Report:
    """Carry out a recipe and leave everything in the folder `path`. Raises PrunariumError (the folder says so too) and Stopped."""
    folder.create(path)
    watcher = watcher or folder.FolderWatcher(path)
    with folder.held(path), _cleared(path / folder.CHANGED):
        for other in folder.runs(path.parent):
            folder.clear_scratch(other)
        folder.append_event(path, Progress("start", kind="note", text=recipe.name))
        try:
            report = _work(recipe, path, watcher)
            folder.write_json(path / folder.REPORT, report.to_dict())
            folder.end(path, "done")
        except Stopped:
            folder.end(path, "stopped", *folder.STOPPED)
            raise
        except PrunariumError as error:
            folder.end(path, "failed", error.problem, error.remedy)
            raise
        except Exception as error:
            if out_of_memory(error):
                remedy = "Use fewer samples, shorter sequences, or a smaller model."
                folder.end(path, "failed", "There was not enough memory.", remedy)
                raise
            problem = f"Prunarium itself failed: {type(error).__name__}: {str(error)[:300]}"
            folder.end(path, "failed", problem, f"The whole story is in {path / folder.LOG}; please report it.")
            raise
    return report


def _work(recipe: Recipe, path: Path, watcher: Watcher) -> Report:
    clock = Clock()
    recipe = resolve(recipe, tuple(cards()))
    torch.manual_seed(recipe.seed)
    loaded: LoadedModel | None = None
    if recipe.model:
        watcher.say(Progress("load", 0, 1))
        with clock.stage("load"):
            loaded = load(recipe.model.source, recipe.model.dtype, recipe.model.device, None if _by_blocks(recipe) else False)
            loaded.beside = path / folder.CHANGED
        watcher.say(Progress("load", 1, 1))
        recipe = _with_calibration(recipe, loaded)
    folder.write_text(path / folder.RECIPE, to_yaml(recipe, full=True))
    folder.write_json(path / folder.ENVIRONMENT, environment(recipe, loaded))
    fields: dict[str, Any] = {}
    look = None
    if loaded and recipe.geometry:
        from core.geometry import steps as geometry

        with clock.stage("geometry"):
            look = geometry.begin(recipe, loaded, watcher)
    if loaded and (recipe.steps or recipe.observe or recipe.evolve):
        from core.model.steps import run_model

        fields |= run_model(recipe, path, watcher, loaded, clock)
    if loaded and recipe.damage:
        from core.data.damage import run_damage
        from core.model.steps import calibration_inputs

        with clock.stage("damage"):
            fields["damage"] = run_damage(
                recipe, path, watcher, loaded, calibration_inputs(loaded, recipe.calibration, recipe.seed)
            )
    if recipe.data and (recipe.select or recipe.projection or not (recipe.geometry or recipe.damage)):
        from core.data.steps import run_data

        with clock.stage("data"):
            fields |= run_data(recipe, path, watcher, loaded)
    if look and loaded:  # last: a run's mask may be laid on the weights
        with clock.stage("geometry"):
            fields["geometry"] = geometry.finish(look, loaded, path)
    return Report(recipe.name, recipe.seed, seconds=clock.seconds, peak_rss_mb=round(peak_bytes() / 1024**2, 1), **fields)


@contextmanager
def _cleared(scratch: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _by_blocks(recipe: Recipe) -> bool:
    """Can all that the recipe asks be done a block at a time, where the model is larger than memory?"""
    weights = all(s.prune and (s.prune.structure == "unstructured" or n_of_m(s.prune.structure)) for s in recipe.steps)
    asked = recipe.measure
    images = asked.accuracy or asked.corruptions or asked.geometry
    return weights and not (recipe.observe or recipe.evolve or recipe.data or images or asked.latency or asked.generate)


def _with_calibration(recipe: Recipe, loaded: LoadedModel) -> Recipe:
    """`calibration: auto` becomes the source that fits the model, so that the resolved recipe says it."""
    if recipe.calibration.source != "auto":
        return recipe
    source = "builtin:mnist5k/train" if loaded.anatomy.kind == "image_classifier" else "builtin:wikitext2/train"
    return recipe.model_copy(update={"calibration": recipe.calibration.model_copy(update={"source": source})})


def environment(recipe: Recipe, loaded: LoadedModel | None) -> dict[str, Any]:
    """What a result depends on besides the recipe: versions, threads, hashes."""
    from core.model.files.source import fingerprint

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": str(loaded.device) if loaded else "cpu",
        **_arithmetic(recipe, loaded),
        "versions": versions(),
        "recipe_sha256": hashlib.sha256(json.dumps(to_dict(recipe, full=True), sort_keys=True).encode()).hexdigest(),
        "model_sha256": fingerprint(loaded.location) if loaded else None,
    }


def _arithmetic(recipe: Recipe, loaded: LoadedModel | None) -> dict[str, Any]:
    """What the model computes in, and the measured ratio where that was to choose it."""
    if loaded is None:
        return {}
    found = {"dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch.")}
    return found | ({"bfloat16_times_as_fast": bfloat16_speed()} if recipe.model.dtype == "auto" else {})


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done, 1 something was wrong (said in the folder's last event), 130 stopped."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if arguments == ["--wait"]:
        import transformers  # noqa: F401 - the warm spare has the slow imports behind it

        line = sys.stdin.readline()
        if not line.strip():
            return 0
        order = json.loads(line)
        source, out = Path(order["recipe"]), Path(order["out"])
    else:
        source, out = Path(arguments[0]), Path(arguments[arguments.index("--out") + 1])
    try:
        folder.create(out)
        log = (out / folder.LOG).open("a", buffering=1)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        run(read(source), out)
    except Stopped:
        return 130
    except PrunariumError as error:
        print(error)
        if out.is_dir() and not isinstance(error, folder.Busy) and not folder.status(out).ended:
            folder.end(out, "failed", error.problem, error.remedy)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
