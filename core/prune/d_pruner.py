from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "d_pruner",
    label="D-Pruner (two corpora)",
    paper=Paper(
        "Zhang, Liu, Zhao, Cheng, Bao, Zhang, Mitra, Chen", 2024, "Pruning as a Domain-specific LLM Extractor", "2405.06275"
    ),
    needs={"gradient", "gradient_square", "general_gradient", "general_gradient_square"},
    compare="layer",
    place="criterion/gradients",
)
def d_pruner(
    weight: Tensor,
    gradient: Tensor,
    gradient_square: Tensor,
    general_gradient: Tensor,
    general_gradient_square: Tensor,
    *,
    mix: Annotated[float, Param("General against domain", 0.0, 1.0)] = 0.5,
) -> Tensor:
    """Keep weights that the domain needs, and those without which the model would forget what it knows in general.

    The calibration text is the domain; the step's `general` is the open text (WikiText-2 where it is left out). weight w, gradient g, gradient_square
    f (out, in): mean over calibration sequences of the gradient of the sequence's mean loss and of its square; the general ones likewise, on the
    general text; all in the dense model. Loss when w goes, to second order with the Fisher diagonal as curvature: D = f w^2 / 2 - g w on the domain,
    G = |f w^2 / 2 - g w| on the general text, in nats. Returns (out, in): (1 - mix) |D| + mix G. Layers compare with one another. With mix 0 only the
    domain counts, with 1 only the general text.

    Intuition: the domain's loss alone would drop what its texts never use, grammar of other registers too; so forgetting is priced into it.
    When it lies: as Taylor and Fisher, near a minimum and for weights taken together; and two texts that are alike say the same thing twice. A domain
    text of a few sequences is a noisy judge: give it as many as the general one.
    Deviations from the paper: its loss on the domain has the term lambda * sum of G (w' - w)^2, of another unit than the loss; here the distance is
    counted in w itself, so that a weight which goes costs G, and `mix` / (1 - mix) stands for lambda. Each side's size is taken before they are
    mixed: with the sign of D, a weight that the domain would gladly lose and the general text needs counts as nothing (perplexity 1,255 against 78 on
    tiny-llama at half). The paper squares gradients and adds them up; means are taken here, so the number of sequences does not weigh. Where the
    calibration text is the general text too, mix only blends two samples of it.
    """
    lost = (gradient_square * weight.square() / 2 - gradient * weight).abs()
    forgotten = (general_gradient_square * weight.square() / 2 - general_gradient * weight).abs()
    return (1 - mix) * lost + mix * forgotten
