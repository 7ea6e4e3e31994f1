from __future__ import annotations

from torch import Tensor

from core.method import statistic

Moments = tuple[int, Tensor, Tensor]  # tokens seen, mean, sum of squared deviations


def _merge(state: Moments | None, inputs: Tensor) -> Moments:
    """Add a batch to a running mean and sum of squared deviations (Chan, Golub, LeVeque 1979): exact where plain sums of squares cancel."""
    flat = inputs.flatten(0, -2)
    count, mean = len(flat), flat.mean(0)
    deviation = (flat - mean).square().sum(0)
    if state is None:
        return count, mean, deviation
    seen, old_mean, old_deviation = state
    total, step = seen + count, mean - old_mean
    return total, old_mean + step * (count / total), old_deviation + deviation + step.square() * (seen * count / total)


@statistic("input_mean", label="Input mean", of="layer", finish=lambda state, sequences: state[1])
def input_mean(state: Moments | None, inputs: Tensor) -> Moments:
    """The mean of each input feature over all tokens.

    inputs (sequences, tokens, features) -> (features,).
    """
    return _merge(state, inputs)


@statistic("input_variance", label="Input variance", of="layer", finish=lambda state, sequences: state[2] / max(state[0] - 1, 1))
def input_variance(state: Moments | None, inputs: Tensor) -> Moments:
    """How much each input feature fluctuates around its mean over all tokens (unbiased).

    inputs (sequences, tokens, features) -> (features,).
    """
    return _merge(state, inputs)
