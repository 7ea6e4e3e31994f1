from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "routing_frequency",
    label="Routing frequency",
    paper=Paper(
        "Muzio, Sun, He", 2024, "SEER-MoE: Sparse Expert Efficiency through Regularization for Mixture-of-Experts", "2404.05089"
    ),
    needs={"routed_gates", "routed_tokens"},
    structures=("experts",),
    place="criterion/experts",
)
def routing_frequency(
    routed_gates: Tensor, routed_tokens: Tensor, *, by_gate: Annotated[bool, Param("Weigh by the gate")] = True
) -> Tensor:
    """Keep experts that the router chooses often: what is hardly ever asked can hardly be missed.

    routed_tokens (experts,): calibration tokens that visit an expert; routed_gates (experts,): the sum of their gates.
    Returns (experts,): the expert's share of all gates; without by_gate, its share of all visits.

    Intuition: the router was trained to choose, so its choices on text like yours say which experts serve that text.
    When it lies: balanced training makes all experts equally busy whatever they are worth; an expert may be chosen often and say next to nothing
    (REAP looks at that); and the calibration text decides: experts for another language or for code look idle.
    Deviations from the paper: the gate counted is that of the visited experts, after the model has renormalised it, not the softmax over all;
    the share is uniform over blocks; no regularised fine-tuning follows.
    """
    counted = routed_gates if by_gate else routed_tokens
    return counted / counted.sum().clamp_min(1e-12)
