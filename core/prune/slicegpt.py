from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from torch import Tensor

from core.events import Progress, Watcher
from core.method import Paper, Param, transform
from core.model.anatomy import read_anatomy
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.pruning.pruned import Pruned
from core.model.width.axes import find_bases
from core.model.width.slicing import turn
from core.report import LayerRow

_GROUPS: dict[str, Callable[[int], int]] = {
    "each norm": lambda norm: norm,
    "each block": lambda norm: norm // 2,
    "one": lambda norm: 0,
}


@transform(
    "slicegpt",
    label="SliceGPT (narrow the stream)",
    structures=("slices",),
    paper=Paper(
        "Ashkboos, Croci, do Nascimento, Hoefler, Hensman",
        2024,
        "SliceGPT: Compress Large Language Models by Deleting Rows and Columns",
        "2401.15024",
    ),
    place="criterion/width",
)
def slicegpt(
    loaded: LoadedModel,
    share: float,
    inputs: Callable[[], Tensor],
    watcher: Watcher,
    *,
    bases: Annotated[str, Param("A basis for", choices=tuple(_GROUPS))] = "each norm",
) -> Pruned:
    """Keep the directions of the residual stream along which it varies most, and narrow every layer that reads or writes it.

    X (tokens, d): what a norm makes of the stream, its scale left out. Q (d, d): eigenvectors of the sum over tokens of X^T X, float64, with 1 % of its mean
    diagonal added, by falling eigenvalue; not centred, for an RMSNorm does not centre. Norm scales are folded into the layers that read them; a
    reading layer becomes W Q, a writing one Q'^T W, embedding and head likewise (a tied head gets its own weight first), and the residual beside
    a part turns by Q^T Q'. Of each basis the first d - round(share * d) axes stay; norms still divide by d. With share 0 the model says what it said.
    `bases`: "each norm" (the paper's) turns two residuals a block, "each block" one, "one" none (and then loads natively where the family's config
    can say the width), at the price of axes that fit each place less well.

    Intuition: the stream is wide, but what moves on it fills few directions; in the right basis the rest can be cut out of all layers at once.
    When it lies: variance is not importance, so a rare feature goes first; the axes are those of the calibration text. And it saves less than it
    cuts: turns cost d'^2 parameters each, an untied head V d'. For SmolLM2-135M (d = 576, 30 blocks, 134.5 M parameters, tied head) a share of 0.25
    leaves 133.3 M with "each norm", 127.7 M with "each block", 122.1 M with "one"; a share of 0.1 makes 162.5, 154.5 and 146.4 M, more than there were.
    Deviations from the paper: axes come from one pass of the dense model, not of the model cut so far; the other `bases` are ours. Masks made before
    do not hold.
    """
    dense, count = loaded.anatomy.hidden, loaded.anatomy.parameters
    width = max(dense - nearest(share * dense), 1)
    found = find_bases(loaded, inputs(), _GROUPS[bases], watcher)
    turn(loaded.model, [basis for basis, _ in found], width)
    after = replace(loaded, anatomy=read_anatomy(loaded.model))
    kept = [float(shares[:width].sum()) for _, shares in found]
    if after.anatomy.parameters > count and share:
        text = f"The model grew from {count:,} to {after.anatomy.parameters:,} parameters: turns and an untied head cost more than {share:.0%} saved."
        watcher.say(Progress("prune: slicegpt", kind="note", text=text))
    rows = tuple(
        LayerRow(block.name, block.index, (), block.parameters, share, 1 - width / dense, kept[2 * block.index])
        for block in after.anatomy.blocks
    )
    said = {"width": width, "width_before": dense, "variance_kept": kept, "parameters_before": count, "sparsity": 1 - width / dense,
            "parameters_after": after.anatomy.parameters}  # fmt: skip
    return Pruned(after, rows=rows, said=said, rewritten=tuple(block.index for block in after.anatomy.blocks))
