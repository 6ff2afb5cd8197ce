"""How much of a posterior's variance a finite number of imagined observations shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def truncation(draws: Sequence[Tensor], steps: Sequence[int], num_data: int) -> dict[str, Any]:
    """Fit the law Var_T ∝ T/(a + T), a = n + κ, to the variances at the last two T.

    Args:
        draws: functions `(P, q, d_y)` at each checkpoint.
        steps: T of each checkpoint.
        num_data: n.

    Returns:
        `num_steps` and `sd` of every checkpoint; κ as `prior_weight`; `remaining_variance`,
        the share a/(a + T) of the posterior variance that is still missing; `correction`,
        √((a + T)/T), by which the spread of the draws is too small.
    """
    variances = [float(draw.var(0).mean()) for draw in draws]
    worth = _worth(variances[-2:], steps[-2:])
    last = steps[-1]
    return {
        "num_steps": list(steps),
        "sd": [v**0.5 for v in variances],
        "prior_weight": worth - num_data,
        "remaining_variance": worth / (worth + last),
        "correction": ((worth + last) / last) ** 0.5,
    }


def _worth(variances: Sequence[float], steps: Sequence[int]) -> float:
    """The a of Var_1/Var_2 = T_1 (a + T_2) / (T_2 (a + T_1)); at most that of no saturation."""
    (v1, v2), (t1, t2) = variances, steps
    ratio = v1 / v2 if v2 > 0 else 1.0
    if ratio >= 1:
        return 0.0
    slack = ratio * t2 - t1
    largest = 1e3 * t2  # variance in proportion to T: nothing is known but that it is far
    return min(t1 * t2 * (1 - ratio) / slack, largest) if slack > 0 else largest
