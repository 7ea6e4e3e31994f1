from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "router_norm_change",
    label="Router norm change",
    paper=Paper(
        "Chowdhury, Wang, El Maghraoui, Wang, Chen, Carothers",
        2024,
        "A Provably Effective Method for Pruning Experts in Fine-tuned Sparse Mixture-of-Experts",
        "2405.16646",
    ),
    structures=("experts",),
    place="criterion/experts",
)
def router_norm_change(
    router: Tensor,
    base_router: Tensor,
    *,
    base: Annotated[str, Param("Model before fine-tuning", longest=300, grammar="model")] = "",
) -> Tensor:
    """Keep the experts whose row of the router fine-tuning made longer or shorter: the task found use for them.

    router, base_router (experts, hidden): the rows that score experts, of this model and of the one it was fine-tuned from (base: builtin:NAME, a folder
    or a hub id, with blocks of the same shapes). Returns (experts,): | |router_e| - |base_router_e| |, L2 norms. Needs no text.

    Intuition: an expert that learns something the task needs is asked more and more surely for it, and that shows in its row's length; the row of one
    that learns nothing stays as it was.
    When it lies: on a model that was not fine-tuned, or hardly (all changes are then noise); where the router was frozen, as LoRA often leaves it (all are
    zero, and the first experts go); a row may turn without becoming longer, which counts as no change; and an expert that serves the task as it was
    before needs no change.
    Deviations from the paper: the size of the change counts, not its sign; the share is uniform over blocks; nothing is trained afterwards. The paper's proof
    is for a simplified mixture and a binary task, its measurements for images.
    """
    return (router.norm(dim=1) - base_router.norm(dim=1)).abs()
