"""What every room is given: the workspace, the worker, the runs, and the few components by which rooms hear of each other."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from core import catalogue
from core.errors import PrunariumError
from core.recipe import Recipe, parse
from studio import jobs, known
from studio.workspace import Workspace

if TYPE_CHECKING:
    from studio.worker import Worker

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Bench:
    """Shared by all rooms of one page.

    `page`: the Blocks (for `.load`). `tabs`: the rooms; return `gr.Tabs(selected="prune")` to go to one. Signals are gr.States whose `.change`
    a room listens to, and which it writes as an output: `model` (source of the open model), `data` (source of the open data), `budget` (revision of
    the budget), `by_hand` ([how often *Prune with this budget* was pressed, what its bars remove: "neurons", "heads", empty for single weights]),
    `formula` ([how often one was adopted, the expression, the share in %]), `picked` (how often rows were sent to the Data room; the workspace says which),
    `run` (name of the followed run), `ended` (name of the run that ended last, whichever it was). All but `by_hand`, `formula`, `picked` and `ended`
    are set on page load.
    """

    workspace: Workspace
    worker: Worker
    runs: Path
    folders: tuple[Path, ...]
    page: gr.Blocks
    tabs: gr.Tabs
    model: gr.State
    data: gr.State
    budget: gr.State
    by_hand: gr.State
    formula: gr.State
    picked: gr.State
    run: gr.State
    ended: gr.State

    def start(self, recipe: dict[str, Any] | Recipe) -> str:
        """Check the recipe, start it as a run of its own, follow it. Returns its name, for the output `bench.run`. Raises RecipeError."""
        whole = recipe if isinstance(recipe, Recipe) else parse(recipe)
        path = jobs.start(catalogue.resolve(whole), self.runs)
        self.workspace.change(run=path.name)
        return path.name

    def observed(self, source: str | None, curves: bool = False, of: str = known.WEIGHTS) -> known.Observed | None:
        """The newest observations of this model, of the weights that were opened last; None without a source. `curves`: such that hold curves (of `of`)."""
        return known.observations(source, self.runs, curves, self.workspace.folder, of) if source else None

    def path_of(self, name: str) -> Path:
        """The folder of a run by its name (a name, never a path, travels from the page). Raises ResourceError."""
        return jobs.find(self.runs, name)

    def admit(self, source: str) -> str:
        """A source typed on the page: builtin:NAME and hub ids as they are; a path only under a folder that was opened. Raises ResourceError."""
        return jobs.admit(source, self.folders)


def plainly(handler: Handler) -> Handler:
    """An event handler whose PrunariumErrors become one sentence in the page; every output stays as it was."""

    @functools.wraps(handler)
    def told(*inputs: Any) -> Any:
        try:
            return handler(*inputs)
        except PrunariumError as error:
            gr.Warning(html.escape(str(error)), title="Not done")
            return gr.skip()

    return told  # type: ignore[return-value]
